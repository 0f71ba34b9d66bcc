"""A TCP proxy on one link, that can fail in the ways networks do. It runs on the harness's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Literal

__all__ = ["Mode", "Proxy"]

Mode = Literal["pass", "refuse", "blackhole", "reset", "delay", "ambiguous"]
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

_COMMITTED = re.compile(rb"C\x00\x00\x00.(?:UPDATE|INSERT 0|COMMIT|DELETE)")
"""In what Postgres says: that a writing statement or a transaction is done."""
DELAY_S = 0.2


class Proxy:
    """`connect` opens the far end. Modes:

    pass       what comes is handed on
    refuse     new connections are refused, open ones go on
    blackhole  nothing is handed on in either direction, and nobody is told
    reset      every open connection is reset now; afterwards the mode is pass
    delay      every piece is held for 0.2 s
    ambiguous  the next answer of Postgres that reports a write is dropped and its connection reset; then pass
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._links: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.mode: Mode = "pass"
        self.port = 0
        self.cut = 0
        """Answers that were dropped in mode ambiguous."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._open.set()
        self._reset_all()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def set(self, mode: Mode) -> None:
        self.mode = "pass" if mode == "reset" else mode
        if mode == "reset":
            self._reset_all()
        if mode == "blackhole":
            self._open.clear()
        else:
            self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            _reset(writer)
            return
        await self._open.wait()
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            _reset(writer)
            return
        self._links |= {writer, far_writer}
        for source, target, answers in ((reader, far_writer, False), (far_reader, writer, True)):
            pump = asyncio.create_task(self._pump(source, target, (writer, far_writer), answers=answers))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        *,
        answers: bool,
    ) -> None:
        try:
            while data := await source.read(65536):
                if answers and self.mode == "ambiguous" and _COMMITTED.search(data):
                    self.mode = "pass"
                    self.cut += 1
                    break
                if self.mode == "delay":
                    await asyncio.sleep(DELAY_S)
                await self._open.wait()
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            for writer in both:
                _reset(writer)
                self._links.discard(writer)

    def _reset_all(self) -> None:
        for writer in list(self._links):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """An RST rather than a FIN, as from a host that knows nothing of the connection."""
    with contextlib.suppress(OSError):
        found = writer.get_extra_info("socket")
        if found is not None and found.family != socket.AF_UNIX:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
