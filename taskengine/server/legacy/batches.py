"""Batches of 2025-03-26: several messages in one body, and one answer to all of them.

The answer is an array of the responses, or a stream as soon as one of the requests has something to say before. Each
request is served as if it had come alone. The events of such a stream have no ids: a client comes back to one request,
not to several.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.types import Message as AsgiMessage

from taskengine.server.checks import EVENTS
from taskengine.server.exchange import EVENT_HEADERS, JSON_HEADERS
from taskengine.server.legacy.line import Line
from taskengine.server.legacy.session import Session
from taskengine.wire.jsonrpc import INVALID_REQUEST, Batch, Message, Request, RpcError, read

__all__ = ["answer_together", "read_batch"]

logger = logging.getLogger("taskengine.server")

MOST_MESSAGES = 100

Serve = Callable[[Line], Awaitable[None]]
"""Answers one request on a line of its own."""


def read_batch(session: Session, batch: Batch) -> list[Message]:
    """All messages of the batch. Raises RpcError -32600 when one cannot be read: then nothing is done."""
    if not session.features.batches:
        raise batch
    if not 0 < len(batch.values) <= MOST_MESSAGES:
        raise RpcError(INVALID_REQUEST, f"A batch has at least one message and at most {MOST_MESSAGES}")
    messages = [read(value) for value in batch.values]
    requests = [message for message in messages if isinstance(message, Request)]
    if any(request.method == "initialize" for request in requests):
        raise RpcError(INVALID_REQUEST, "initialize stands alone: send it in a request of its own")
    if len({(type(request.id), request.id) for request in requests}) < len(requests):
        raise RpcError(INVALID_REQUEST, "Two requests of the batch have the same id")
    return messages


async def answer_together(line: Line, requests: Sequence[Serve]) -> None:
    """Answer every request of a batch, beside each other, on one line."""
    shared = _Shared(line)
    gone = asyncio.create_task(shared.until_disconnect())
    try:
        await asyncio.gather(*(serve(shared.part()) for serve in requests))
        await shared.finish()
    finally:
        gone.cancel()


class _Shared:
    def __init__(self, line: Line) -> None:
        self._line = line
        self._gone = asyncio.Event()
        self._lock = asyncio.Lock()
        self._streaming = False
        self._responses: list[bytes] = []

    def part(self) -> Line:
        """A line for one of the requests."""
        return Line(self._receive, _Part(self).send, self._line.accepts, resumable=False)

    async def until_disconnect(self) -> None:
        while (await self._line.receive())["type"] != "http.disconnect":
            pass
        self._gone.set()

    async def respond(self, body: bytes) -> None:
        """One whole response, which waits for the others unless there is a stream."""
        async with self._lock:
            if self._streaming:
                await self._write(_event(body))
            else:
                self._responses.append(body)

    async def pass_on(self, chunk: bytes) -> None:
        """Part of a stream: events and comments are whole."""
        async with self._lock:
            if not self._streaming:
                self._streaming = True
                await self._line.send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
                chunk = b"".join([*map(_event, self._responses), chunk])
            await self._write(chunk)

    async def finish(self) -> None:
        if self._streaming:
            await self._write(b"", last=True)
            return
        body = b"[" + b",".join(self._responses) + b"]"
        headers = [*JSON_HEADERS, (b"content-length", str(len(body)).encode())]
        await self._line.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(body, last=True)

    async def _write(self, body: bytes, *, last: bool = False) -> None:
        await self._line.send({"type": "http.response.body", "body": body, "more_body": not last})

    async def _receive(self) -> AsgiMessage:
        await self._gone.wait()
        return {"type": "http.disconnect"}


@dataclass(slots=True)
class _Part:
    """What one of the requests is answered: one JSON object, or a stream."""

    shared: _Shared
    streams: bool = False
    body: bytes = b""

    async def send(self, event: AsgiMessage) -> None:
        if event["type"] == "http.response.start":
            self.streams = any(value.startswith(EVENTS.encode()) for _, value in event["headers"])
            return
        more = event.get("more_body", False)
        if self.streams:
            if event.get("body"):
                await self.shared.pass_on(event["body"])
        else:
            self.body += event.get("body", b"")
            if not more:
                await self.shared.respond(self.body)


def _event(body: bytes) -> bytes:
    return b"data: " + body + b"\n\n"
