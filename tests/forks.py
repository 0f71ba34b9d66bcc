"""Starts of `taskengine` without the second that the imports take: forks of a process that has done nothing but import.

A fork has its own session, environment, folder and log, and runs the command's `main` as `python -m taskengine` would;
from there on it is a process like any other. Hundreds of starts are most of what a run of the tests costs otherwise.
`TASKENGINE_TEST_FORKS=0` starts a new interpreter each time, as the tests of commands, hosts and chaos always do.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

__all__ = ["Forked", "Forks", "forks"]

IMPORTED = (
    "taskengine.cli.serve",
    "taskengine.cli.worker",
    "taskengine.cli.migrate",
    "taskengine.cli.doctor",
    "typer.main",
)
MOST_BYTES = 1 << 17
_PR_SET_PDEATHSIG = 1


class Forked:
    """One command: what `subprocess.Popen` is for a new interpreter."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks = forks
        self.pid = pid

    def poll(self) -> int | None:
        return self._forks.ended(self.pid, 0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._forks.ended(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired("taskengine", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that forks, and what it has told of its children."""

    def __init__(self, root: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forks", str(theirs.fileno())],
                cwd=root,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket = ours
        self._lock = threading.Lock()
        self._codes: dict[int, int] = {}
        self._made: list[int] = []
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> Forked:
        with self._lock:
            self._socket.send(json.dumps([list(arguments), str(log), dict(env), str(cwd)]).encode())
            while not self._made:
                self._hear(None)
            return Forked(self, self._made.pop())

    def ended(self, pid: int, timeout_s: float | None) -> int | None:
        """Its exit code once it has ended; negative, the signal."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                while self._hear(0):
                    pass
                if pid in self._codes:
                    return self._codes[pid]
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            # Looks again now and then: another thread may have heard what this one waits for.
            select.select([self._socket], [], [], 0.05 if left is None else min(left, 0.05))

    def _hear(self, timeout_s: float | None) -> bool:
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return False
        told = self._socket.recv(MOST_BYTES)
        assert told, "the process that forks has ended"
        pid, code = json.loads(told)
        if code is None:
            self._codes.pop(pid, None)  # of one long gone: the numbers come round again
            self._made.append(pid)
        else:
            self._codes[pid] = code
        return True

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._process.wait()


_made: list[Forks] = []


def forks(root: Path) -> Forks | None:
    """The one of this process; None where every start is to be a new interpreter."""
    if os.environ.get("TASKENGINE_TEST_FORKS") == "0" or not hasattr(socket, "SOCK_SEQPACKET"):
        return None
    if not _made:
        _made.append(Forks(root))
    return _made[0]


# -- the other side


def _serve(descriptor: int) -> Sequence[str] | None:
    """Fork for each request; in a fork its arguments, None when nobody asks any more."""
    connection = socket.socket(fileno=descriptor)
    hears, wakes = os.pipe()
    for end in (hears, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    me = os.getpid()
    while True:
        ready, _, _ = select.select([connection, hears], [], [])
        if hears in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(hears, 4096)
            for pid, status in _reaped():
                connection.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())
        if connection in ready:
            request = connection.recv(MOST_BYTES)
            if not request:
                return None
            pid = os.fork()
            if pid:
                connection.send(json.dumps([pid, None]).encode())
                continue
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.close()
            os.close(hears)
            os.close(wakes)
            return _become(me, *json.loads(request))


def _reaped() -> list[tuple[int, int]]:
    found = []
    with contextlib.suppress(ChildProcessError):
        while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(reaped)
    return found


def _become(parent: int, arguments: Sequence[str], log: str, env: Mapping[str, str], cwd: str) -> Sequence[str]:
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["taskengine", *arguments]
    sys.orig_argv = [sys.executable, "-m", "taskengine", *arguments]  # a worker may start itself anew
    return arguments


if __name__ == "__main__":
    for name in IMPORTED:
        import_module(name)
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, "a fork would lack the other threads"
    asked = _serve(int(sys.argv[1]))
    if asked is not None:
        from taskengine.cli import main

        sys.exit(main(asked))
