"""What HTTP lets a client do before there is a request to look at, and after its answer was written: bounded.

uvicorn waits for ever for a request that has begun, keeps headers of any size, and writes to clients that do not read.
Here every wait has an end and every buffer a size, so that a client costs at most what `Bounds` says:

    connected ── headers within `headers_s` and `header_bytes` ── body within `body_s` ── answer, read steadily ── again

When all connections are taken, the one that has kept us waiting longest for a whole request makes room for the next.
Whoever serves `create_app(…)` by another server than `taskengine serve` needs such bounds there.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from taskengine.settings import Settings

__all__ = ["Bounds", "Crowd", "GuardedProtocol", "guarded", "http_options", "room_for_connections", "set_user_timeout"]

logger = logging.getLogger("taskengine.server")

STALL_S = 60.0
RESERVED_FILES = 256
"""File descriptors that connections leave for everything else: databases, the broker, issuers."""


@dataclass(frozen=True, slots=True)
class Bounds:
    connections: int = 10_000
    headers_s: float = 15.0
    """From the connection, or from the first byte after an answer, to the end of the headers. While an answer is being
    written, what comes behind it may wait."""
    body_s: float = 75.0
    """From when the request is looked at, to the end of its body. The endpoint answers 408 before; this ends what goes
    on all the same."""
    header_bytes: int = 64 * 1024
    """Request line and headers, or what is sent in between without being body; and what one read brings beside."""
    pipelined: int = 16
    """Requests that wait behind one that is being answered."""
    stall_s: float = STALL_S
    """A client must read `stall_bytes` of what waits for it in each such time."""
    stall_bytes: int = 32 * 1024


class Crowd:
    """All connections of one front end."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._all: set[GuardedProtocol] = set()
        self._waiting: dict[GuardedProtocol, None] = {}
        """Those that owe us the rest of a request, the longest first."""

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, connection: GuardedProtocol) -> bool:
        """False when all places are taken by clients that are being answered."""
        if len(self._all) >= self.most:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.transport.abort()
        self._all.add(connection)
        self._waiting[connection] = None
        return True

    def leave(self, connection: GuardedProtocol) -> None:
        self._all.discard(connection)
        self._waiting.pop(connection, None)

    def waits(self, connection: GuardedProtocol) -> None:
        """For a request of this one, from now on."""
        if connection in self._all:
            self._waiting.setdefault(connection)

    def serves(self, connection: GuardedProtocol) -> None:
        self._waiting.pop(connection, None)


class TooMuch(Exception):
    """Raised within the parser, which ends the connection."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `guarded` makes the class that uvicorn takes."""

    bounds: Bounds
    crowd: Crowd

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_headers = True
        self._unread = 0
        """Bytes since anything came of them: a whole head of a request, or a part of a body."""
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._answering: Any = None
        """The request whose answer is being written; `cycle` is the one that is being read."""

    # a connection's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.crowd.enter(self):
            logger.warning("all %d connections are taken: a client was turned away", self.crowd.most)
            self._refuse(
                b"503 Service Unavailable", b"All connections are taken: try again later", b"retry-after: 5\r\n"
            )
            return
        self._within(self.bounds.headers_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.leave(self)
        self._within(None)
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)
        # uvicorn tells the last request only, and an answer to an earlier one would go on for nobody.
        for cycle in (self._answering, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    # reading

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        if self._in_headers and self._deadline is None and not self._busy():
            self._within(self.bounds.headers_s)
        super().data_received(data)
        if self._unread > self.bounds.header_bytes and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large", b"The headers are too large", b"")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:  # what follows a body must not pass for what was checked before it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= self.bounds.pipelined:
            raise TooMuch("pipelined requests")
        self._in_headers, self._unread = False, 0
        self._within(None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_headers, self._unread = True, 0
        self._within(None)
        super().on_message_complete()
        if self.cycle.response_complete:  # it was answered before it was whole
            self._within(self.bounds.headers_s)
        else:
            self.crowd.serves(self)

    # answering

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        if cycle.more_body:  # also where it has waited behind another, while we read nothing
            self._within(self.bounds.body_s)
            self.crowd.waits(self)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.pipeline:
            self.crowd.waits(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        if self._busy():
            self.transport.close()  # nothing may stand within another answer
        else:
            super().send_400_response(msg)

    def _unsupported_upgrade_warning(self) -> None:
        logger.debug("a client asked for another protocol: answered as if it had not")

    def _busy(self) -> bool:
        """An answer is being written: it is not the client whom we wait for, unless its body is not here."""
        return self._answering is not None and not self._answering.response_complete

    # the bounds

    def _within(self, seconds: float | None) -> None:
        """What is awaited must come in this time; None for no limit of ours."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if not self._in_headers:
            self.transport.abort()
        elif self._unread:
            self._refuse(b"408 Request Timeout", b"The headers did not come in time", b"")
        else:
            self.transport.close()

    def _watch_reader(self) -> None:
        left = self.transport.get_write_buffer_size()

        def look() -> None:
            if left - self.transport.get_write_buffer_size() >= self.bounds.stall_bytes:
                self._watch_reader()
            else:
                logger.info("a client that does not read its answer was cut off")
                self.transport.abort()

        if self._stalled is not None:
            self._stalled.cancel()
        self._stalled = self.loop.call_later(self.bounds.stall_s, look)

    def _refuse(self, status: bytes, said: bytes, more: bytes) -> None:
        """An answer of our own, where none is being written, and the end of the connection."""
        if not self._busy():
            head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n" % len(said)
            self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + more + head + b"\r\n" + said)
        self.transport.close()


def guarded(bounds: Bounds) -> type[GuardedProtocol]:
    """The class of the connections of one server."""

    class Guarded(GuardedProtocol):
        pass

    Guarded.bounds, Guarded.crowd = bounds, Crowd(bounds.connections)
    return Guarded


def http_options(settings: Settings) -> dict[str, Any]:
    """What `uvicorn.Config` is told about HTTP."""
    bounds = Bounds(connections=room_for_connections(settings.max_connections))
    return {"http": guarded(bounds), "ws": "none"}


def room_for_connections(wanted: int) -> int:
    """As many as are wanted, if the system lets this process have so many files; it is asked for more first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        more = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    room = max(soft - RESERVED_FILES, soft // 2)
    logger.warning("the system lets this process have %d files: at most %d connections", soft, room)
    return room


def set_user_timeout(listening: socket.socket, seconds: float = STALL_S) -> None:
    """Connections accepted from it end when their other side has taken nothing for so long: one that vanished, or that
    reads too little to fill even the buffers of the system. Where the system knows this."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listening.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))
