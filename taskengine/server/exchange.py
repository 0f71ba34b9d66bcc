"""One request and its answer: JSON, or an SSE stream from the moment something must be said before the end.

Until the stream is committed, a rejection can still have its HTTP status (M-TRANS-26). The stream is committed by the
first notification, or by the first keep-alive interval that passes without an answer. A client that goes away
cancels the work (M-TRANS-23); a server that stops asks the work for an end that the client can go on from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from starlette.types import Receive, Send

from taskengine.server.checks import Accepts
from taskengine.server.errors import retry_headers, rpc_error
from taskengine.wire.jsonrpc import INTERNAL_ERROR, RequestId, RpcError, dumps, error_response, result_response

__all__ = ["Exchange", "Framing", "Work", "send_empty", "send_json"]

logger = logging.getLogger("taskengine.server")

FAREWELL_S = 2.0
PROMPT_S = 0.02
"""Work that is done within this time is not worth a look at whether its client is still there."""

JSON_HEADERS = [(b"content-type", b"application/json")]
EVENT_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


async def send_json(
    send: Send, status: int, message: Mapping[str, Any], headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """The whole answer as one JSON object on one line."""
    body = dumps(message)
    start = [*JSON_HEADERS, (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def send_empty(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class Framing:
    """How messages become events of a stream; a wire whose streams can be resumed labels them."""

    opening = b""
    """What a stream begins with."""
    closing = b""
    """What a stream ends with that its client shall come back for."""
    leads_back = False
    """The client has been given what it can come back to the stream with."""

    def event(self, body: bytes) -> bytes:
        return b"data: " + body + b"\n\n"


PLAIN = Framing()

Work = Callable[["Exchange"], Coroutine[Any, Any, Any]]
"""Gives the result of a request; raises what the error table knows. Cancelled with `disconnected` set when the client
has gone, and without it when the server stops: then it should return, soon, what the client can go on from."""


class Exchange:
    """The way from the work on a request to its client."""

    def __init__(
        self,
        request_id: RequestId,
        accepts: Accepts,
        receive: Receive,
        send: Send,
        *,
        keep_alive_s: float,
        status_of: Callable[[int], int],
        framing: Framing = PLAIN,
        limit_s: float | None = None,
        token_s: float | None = None,
    ) -> None:
        """With `limit_s` the stream is closed after that time, for the client to come back for the rest.

        With `token_s` the request ends then, and `FAREWELL_S` for work that ends by itself, whether or not its client
        can come back (M-SUB-16).
        """
        self.request_id = request_id
        self.accepts = accepts
        self.disconnected = False
        """The client went away: whatever is sent now is lost."""
        self._receive, self._send = receive, send
        self._keep_alive_s = keep_alive_s
        self._status_of = status_of
        self._framing = framing
        self._limit_s = limit_s
        self._token_s = token_s
        self._streaming = False
        self._ended = False
        self._lock = asyncio.Lock()
        self._work: asyncio.Task[Any] | None = None
        self._ending: asyncio.TimerHandle | None = None

    async def run(self, work: Work) -> None:
        """Do the work and answer with its result, or with the error it raises."""
        self._work = asyncio.create_task(work(self))
        watching: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        until = None if self._limit_s is None else loop.time() + self._limit_s
        expires = None if self._token_s is None else loop.time() + self._token_s + FAREWELL_S
        try:
            await asyncio.wait({self._work}, timeout=min(PROMPT_S, self._keep_alive_s))
            if self._work.done():
                await self._answer(self._work)
                return
            watching = asyncio.create_task(self._until_disconnect())
            while True:
                ends = [end - loop.time() for end in (until, expires) if end is not None]
                pause = min([self._keep_alive_s, *ends])
                await asyncio.wait({self._work, watching}, timeout=max(0.0, pause), return_when=asyncio.FIRST_COMPLETED)
                if self._work.done():
                    await self._answer(self._work)
                    return
                over = until is not None and loop.time() >= until
                if over and not self._framing.closing:  # its client could not come back for the rest
                    over, until = False, None
                expired = expires is not None and loop.time() >= expires
                if expired and self._token_s is None:  # the work outlives it
                    expired, expires = False, None
                if over:
                    await self.part()
                elif expired:
                    await self._expire()
                if watching.done() or over or expired:
                    self.disconnected = True
                    self._work.cancel()
                    await asyncio.wait({self._work})
                    _forget(self._work)
                    return
                await self._comment()
        except asyncio.CancelledError:
            # The HTTP server has waited long enough: what can still be said is said.
            self._work.cancel()
            await asyncio.wait({self._work}, timeout=FAREWELL_S)
            if self._work.done():
                await self._answer(self._work)
            raise
        finally:
            if watching is not None:
                watching.cancel()
            if self._ending is not None:
                self._ending.cancel()

    def end_after(self, seconds: float | None) -> None:
        """Ask the work for an end then, as `stop` does: its client must show a token again (M-SUB-16)."""
        if seconds is not None and self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(seconds, self.stop)

    def outlive_token(self) -> None:
        """The request is answered whenever that is: the client could not get the answer in another way."""
        self._token_s = None

    def stop(self) -> None:
        """Ask the work for an early end, as when the server stops."""
        if self._work is not None and not self._work.done():
            self._work.cancel()

    async def notify(self, message: Mapping[str, Any]) -> None:
        """Send a notification before the answer; dropped when the client takes no streams."""
        if not self.accepts.events:
            return
        try:
            body = dumps(message)
        except TypeError as error:
            logger.debug("a notification has no JSON form and is dropped: %s", error)
            return
        await self._write(self._framing.event(body))

    async def open_stream(self) -> None:
        """Commit to a stream before there is anything to say."""
        await self._write(b"")

    async def part(self, *, for_good: bool = False) -> None:
        """Close the stream without an answer; what the work gives afterwards is dropped. Unless it is `for_good`, the
        client is told when to come back."""
        await self._write(b"" if for_good else self._framing.closing, last=True)

    async def leave(self) -> None:
        """The stream is closed for good, and the work has ended; a client that reads nothing is not waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self.part(for_good=True)
        self.disconnected = True
        self.stop()
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=FAREWELL_S)

    async def _expire(self) -> None:
        """The client goes on with its next token: from where it was, or by asking again."""
        if self._streaming and self._framing.leads_back:
            await self.part()
            return
        error = RpcError(INTERNAL_ERROR, "The token of this request is not good for longer: ask again with a new one")
        status, body = self._failure(error)
        if self._streaming or not self.accepts.json:
            await self._write(self._framing.event(body), last=True)
        else:
            self._ended = True
            await self._write_json(status, body)

    async def _comment(self) -> None:
        if self.accepts.events:
            await self._write(b": keep-alive\n\n")

    async def _answer(self, work: asyncio.Task[Any]) -> None:
        headers: tuple[tuple[bytes, bytes], ...] = ()
        try:
            response = result_response(self.request_id, work.result())
            status = 200
            body = dumps(response)
        except asyncio.CancelledError:
            error = RpcError(INTERNAL_ERROR, "The server is stopping: send the request again")
            status, body = self._failure(error)
        except Exception as raised:
            error = rpc_error(raised)
            status, body = self._failure(error)
            headers = retry_headers(error) if status != 200 else ()
        if self._streaming or (status == 200 and not self.accepts.json):
            await self._write(self._framing.event(body), last=True)
        else:
            await self._write_json(status, body, headers)

    def _failure(self, error: RpcError) -> tuple[int, bytes]:
        try:
            return self._status_of(error.code), dumps(error_response(self.request_id, error))
        except TypeError:
            plain = RpcError(error.code, error.message)
            return self._status_of(error.code), dumps(error_response(self.request_id, plain))

    async def _write_json(self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        start = [*JSON_HEADERS, (b"content-length", str(len(body)).encode()), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": start})
        await self._send({"type": "http.response.body", "body": body})

    async def _write(self, chunk: bytes, *, last: bool = False) -> None:
        """Events are whole chunks, one after the other, and none follows the last."""
        async with self._lock:
            if self._ended or self.disconnected:
                return
            if not self._streaming:
                self._streaming = True
                await self._send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
                chunk = self._framing.opening + chunk
            self._ended = last
            await self._send({"type": "http.response.body", "body": chunk, "more_body": not last})

    async def _until_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _forget(work: asyncio.Task[Any]) -> None:
    """Look at the outcome of cancelled work, so that asyncio does not complain about it."""
    if not work.cancelled() and work.exception() is not None:
        logger.debug("cancelled work ended with %r", work.exception())
