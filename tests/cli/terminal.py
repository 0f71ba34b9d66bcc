"""A command at a pseudo terminal, as a person sees and types it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
WAIT_S = 40.0
_OWN_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Makes the terminal the one that Ctrl-C is typed at."""


class Terminal:
    """Standard input and error are the terminal; standard output as well, unless `stdout` is given."""

    def __init__(self, arguments: list[str], env: Mapping[str, str], stdout: Any = None) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, "-m", "taskengine", *arguments],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env={**env, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""
        self._seen = 0

    @property
    def shown(self) -> str:
        """What stands on it, without colours and movements."""
        return _CODES.sub("", self.raw).replace("\r", "")

    def wait_for(self, text: str) -> None:
        """`text` appears after what was waited for before."""
        deadline = time.monotonic() + WAIT_S
        while (found := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{text!r} never came:\n{self.shown}"
            assert self._read(), f"it ended without {text!r}:\n{self.shown}"
        self._seen = found + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def answer(self, prompt: str, text: str) -> None:
        """Type a line once it is asked for."""
        self.wait_for(prompt)
        self.wait_for(": ")
        self.type(text + "\n")

    def end(self) -> int:
        """The exit code."""
        while self._read():
            pass
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def _read(self) -> bool:
        """Whether more may come."""
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)
