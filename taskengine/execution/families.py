"""What a tool process has started must not run beside the next attempt: it ends with that process, and with its worker.

Every tool process leads a group of its own, and whatever it starts is in it. The end of the tool process is seen by its
worker, which then kills the group (`spawned`). When the worker itself is killed nobody is left to do so, and Linux ends
only the tool process; so a guard waits for that: a small process that is told the groups, and kills them when its
input comes to an end.

What makes a session or group of its own (a daemon) has left the family, and is its tool's to end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

__all__ = ["Families", "kill_family"]

CLOSE_S = 2
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""What asks the worker to stop is not for the guard, which ends after it."""


def kill_family(leader: int) -> None:
    """Kill whoever is in the group of this leader, which may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


class Families:
    """The groups of one worker's tool processes, by their leaders. Its guard is started with the first."""

    def __init__(self) -> None:
        self._leaders: set[int] = set()
        self._guard: subprocess.Popen[bytes] | None = None

    def add(self, leader: int) -> None:
        self._leaders.add(leader)
        with contextlib.suppress(OSError):  # a guard that cannot be had is no reason to run nothing
            if self._guard is None or self._guard.poll() is not None:
                self._guard = _start()
                self._tell("".join(f"+{each}\n" for each in self._leaders))
            else:
                self._tell(f"+{leader}\n")

    def remove(self, leader: int) -> None:
        """Nobody is left of it."""
        self._leaders.discard(leader)
        self._tell(f"-{leader}\n")

    def close(self) -> None:
        """Kill all that are left, and be done with the guard."""
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                guard.wait(CLOSE_S)

    def _tell(self, lines: str) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(OSError):  # it is gone, or frozen
                self._guard.stdin.write(lines.encode())


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", __file__]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # it inherits this, and is never without it
    try:
        guard = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)  # noqa: S603 - ours
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert guard.stdin is not None
    # A guard that is frozen holds up nobody.
    os.set_blocking(guard.stdin.fileno(), False)
    return guard


def main() -> None:
    """Hear of groups until the worker is gone."""
    leaders = set[int]()
    for line in sys.stdin:
        (leaders.add if line[0] == "+" else leaders.discard)(int(line[1:]))
    for leader in leaders:
        kill_family(leader)


if __name__ == "__main__":
    main()
