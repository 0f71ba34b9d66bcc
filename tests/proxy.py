"""A TCP proxy whose link can be cut as a broken network cuts it: nothing arrives, and nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

__all__ = ["Proxy"]


class Proxy:
    """Stands between a client and the server of `url` (PostgreSQL's socket folder in `?host=` included); its own `url`
    leads through it."""

    def __init__(
        self,
        url: str,
        tap: Callable[[], Callable[[bytes], None]] | None = None,
        answers: Callable[[], Callable[[bytes], None]] | None = None,
    ) -> None:
        """`tap` gives each connection a function that sees every piece that its client sends; `answers` one for those
        that the server sends."""
        self._tap = tap
        self._answers = answers
        self._parts = urlsplit(url)
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        user = f"{self._parts.netloc.rpartition('@')[0]}@" if "@" in self._parts.netloc else ""
        return self._parts._replace(netloc=f"{user}127.0.0.1:{port}", query="").geturl()

    def cut(self) -> None:
        """From now on every byte is held back, also of new connections."""
        self._open.clear()

    def mend(self) -> None:
        """What was held back goes on its way."""
        self._open.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.get_running_loop().create_task(self._join(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until both sides have closed."""
        far_writer: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            far_reader, far_writer = await self._reach()
            seen = None if self._tap is None else self._tap()
            answered = None if self._answers is None else self._answers()
            await asyncio.gather(self._pump(reader, far_writer, seen), self._pump(far_reader, writer, answered))
        finally:
            for each in (writer, far_writer):
                if each is not None:
                    each.close()
                    with suppress(OSError, asyncio.CancelledError):
                        await each.wait_closed()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = parse_qs(self._parts.query).get("host", [None])[0]
        if folder is not None:
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{self._parts.port or 5432}")
        return await asyncio.open_connection(self._parts.hostname, self._parts.port)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: Callable[[bytes], None] | None = None
    ) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                await self._open.wait()
                if seen is not None:
                    seen(data)
                sink.write(data)
                await sink.drain()
            sink.write_eof()
