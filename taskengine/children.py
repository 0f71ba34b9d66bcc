"""Child processes that never outlive this one: the embedded services, and what `taskengine dev` starts.

Every child is the leader of its own session, so that Ctrl-C reaches this process alone and the children are
stopped in order; on Linux the kernel signals them when this process is killed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["Child", "Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The account a child runs as when this process is root; `capabilities` (`dac_read_search`) stay with it."""

    uid: int
    gid: int
    capabilities: tuple[str, ...] = ()


@dataclass(slots=True)
class Child:
    """One process. Its output goes to `log`, appended."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    identity: Identity | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_offset: int = field(default=0, init=False)

    def start(self, *, stdin: bytes | None = None) -> None:
        """The process runs, or ran: whether it is of any use is for the caller to find out."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._log_offset = output.tell()
            self._process = subprocess.Popen(  # noqa: S603 (every command is ours)
                [*_wrapper(self.identity, self.stop_signal), *self.command],
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if self.env is None else dict(self.env),
                cwd=self.cwd,
                start_new_session=True,
            )
        if stdin is not None:
            pipe: IO[bytes] | None = self._process.stdin
            assert pipe is not None
            with pipe:
                pipe.write(stdin)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.poll()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def output(self, lines: int | None = None) -> str:
        """What it wrote since its last start, or the last `lines` of that."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._log_offset)
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return text if lines is None else "\n".join(text.splitlines()[-lines:])

    def send(self, number: signal.Signals) -> None:
        """Nothing happens when it has ended already."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit code. Raises TimeoutError when it still runs after `timeout_s` seconds."""
        assert self._process is not None, f"{self.name} was not started"
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout_s} s") from None

    def stop(self, timeout_s: float = 10) -> int | None:
        """It has ended: by its stop signal, or killed when that took longer than `timeout_s` seconds."""
        if self._process is None:
            return None
        self.send(self.stop_signal)
        try:
            return self.wait(timeout_s)
        except TimeoutError:
            return self.kill()

    def kill(self) -> int | None:
        """It has ended, at once and without a chance to clean up."""
        if self._process is None:
            return None
        self._process.kill()
        return self._process.wait()


def _wrapper(identity: Identity | None, stop_signal: signal.Signals) -> list[str]:
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is None:
        if identity is not None:
            raise FileNotFoundError("setpriv (of util-linux) is needed to run it as another account than root")
        return []
    wrapper = [setpriv, "--pdeathsig", stop_signal.name.removeprefix("SIG")]
    if identity is not None:
        wrapper += ["--reuid", str(identity.uid), "--regid", str(identity.gid), "--clear-groups"]
        if identity.capabilities:
            names = ",".join(f"+{name}" for name in identity.capabilities)
            wrapper += ["--inh-caps", names, "--ambient-caps", names]
    return [*wrapper, "--"]
