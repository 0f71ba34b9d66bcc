"""The two pipes to the host, for the protocol alone.

What a tool, a library or a program that they start reads and prints goes elsewhere: their standard input is empty,
their standard output is standard error (X-STDIO-02), at whatever level they write to it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO

from taskengine.errors import SettingsError
from taskengine.server.stdio import TOO_LONG

__all__ = ["Pipes"]

AHEAD = 100
"""Lines that are read before the first of them is taken."""


class Pipes:
    """Reading and writing block, so each has a thread of its own, and nothing waits for these at the end."""

    def __init__(self, source: IO[bytes], output: IO[bytes]) -> None:
        self._source, self._output = source, output
        self._writer = ThreadPoolExecutor(1, "stdout")

    @classmethod
    def take(cls) -> Pipes:
        """Those of this process, taken away from everything else in it. Raises SettingsError when there are none."""
        for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
            if stream is None:
                raise SettingsError(f"standard {name} is closed, and `taskengine stdio` talks to its host over it")
        sys.stdout.flush()
        nothing = os.open(os.devnull, os.O_RDWR)
        if sys.stderr is None:  # closed by the host; what is opened next would take its number
            os.dup2(nothing, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
        source, output = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        for pipe in (source, output):
            os.set_blocking(pipe.fileno(), True)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        if nothing > 2:
            os.close(nothing)
        sys.stdout = sys.stderr
        return cls(source, output)

    @property
    def human(self) -> bool:
        """Somebody types the input."""
        return self._source.isatty()

    async def write(self, message: bytes) -> None:
        """Raises OSError when nobody reads."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._write, message)

    def _write(self, message: bytes) -> None:
        self._output.write(message)
        self._output.flush()

    async def lines(self, limit: int) -> AsyncIterator[bytes]:
        """The lines of the input to its end; a longer one than `limit` bytes is TOO_LONG."""
        loop = asyncio.get_running_loop()
        read: asyncio.Queue[bytes | None] = asyncio.Queue(AHEAD)

        def put(line: bytes | None) -> None:
            asyncio.run_coroutine_threadsafe(read.put(line), loop).result()

        def read_all() -> None:
            with suppress(RuntimeError, OSError, ValueError):  # the loop or the input is closed
                while line := self._read(limit):
                    put(line)
                put(None)

        threading.Thread(target=read_all, name="stdin", daemon=True).start()
        while (line := await read.get()) is not None:
            yield line

    def _read(self, limit: int) -> bytes:
        """The next line with its end; empty when there is none."""
        line = self._source.readline(limit + 1)
        if len(line) <= limit or line.endswith(b"\n"):
            return line
        while (rest := self._source.readline(limit)) and not rest.endswith(b"\n"):
            pass
        return TOO_LONG
