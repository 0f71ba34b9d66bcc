"""The front end over standard input and output: a message a line, for hosts that start a program.

Messages of 2026-07-28 go to the same methods as those of HTTP, without headers (M-STDIO-07). A session that begins
with `initialize` goes to the endpoint itself, as if this were its HTTP client: what that answers, on whatever stream,
becomes lines. Requests run beside each other, and what they say is written in the order in which they say it.

The end of the input ends the process, not its tasks: the next process of the same account finds them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from taskengine.server.caller import VOUCHED, Caller
from taskengine.server.checks import EVENTS, JSON, Accepts
from taskengine.server.dispatch import serve_modern
from taskengine.server.endpoint import McpEndpoint
from taskengine.server.service import Service
from taskengine.wire import modern
from taskengine.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Message,
    Notification,
    Request,
    RequestId,
    RpcError,
    dumps,
    error_response,
    id_of,
    notification,
    parse,
    result_response,
)

__all__ = ["TOO_LONG", "StdioServer"]

logger = logging.getLogger("taskengine.stdio")

TOO_LONG = b"\0"
"""What stands for a line that was longer than allowed; no message looks like it."""
BACKLOG = 1_000
"""Lines that wait to be written before those who write wait."""
FAREWELL_S = 2.0
AGAIN_S = 1.0

Lines = AsyncIterator[bytes]
Write = Callable[[bytes], Awaitable[None]]
Start = Callable[[], Awaitable[Service]]
_EARLY = {"server/discover", "tools/list"}
"""What is answered from the declarations alone."""


class StdioServer:
    """One process's conversation with its host. `write` takes whole lines; it raises OSError when nobody reads.

    `start` gives the service once what it stands on is there, which may take seconds; until then `early`, which is
    never started, tells what needs no database: hosts do not wait long for the first answer.
    """

    def __init__(self, early: Service, start: Start, caller: Caller, lines: Lines, write: Write) -> None:
        self._early = early
        self._start = start
        self._ready: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
        self._caller = caller
        self._lines = lines
        self._write = write
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG)
        self._open: dict[RequestId, _Conversation] = {}
        """Requests of 2026-07-28 that are not answered yet, by id; ids of others mean nothing (X-CANC-14)."""
        self._session: _Session | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def serve(self) -> None:
        """Until the input ends, nobody reads the output, or `stop` was called. Tasks go on. Raises what `start`
        raises."""
        starting = asyncio.create_task(self._get_ready())
        writing = asyncio.create_task(self._write_all())
        reading = asyncio.create_task(self._read_all())
        over = asyncio.create_task(self._over.wait())
        try:
            waited_for = {reading, writing, over, starting}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.exception() is None:
                await asyncio.wait({reading, writing, over}, return_when=asyncio.FIRST_COMPLETED)
            if self._ready.done():
                self._ready.result().drain()  # from here on, whoever is gone has not cancelled anything
            if self._session is not None:
                self._session.close()
            if self._running and not writing.done():
                await asyncio.wait(self._running, timeout=FAREWELL_S if self._over.is_set() else 0)
        finally:
            for task in (reading, over, starting, *self._running):
                task.cancel()
            ended = await asyncio.gather(starting, reading, over, *self._running, return_exceptions=True)
            if not writing.done():
                with suppress(asyncio.QueueFull):
                    self._out.put_nowait(None)
            await asyncio.wait({writing}, timeout=FAREWELL_S)
            writing.cancel()
            if self._ready.done():
                await self._ready.result().stop()
        if isinstance(ended[0], Exception):
            raise ended[0]

    def stop(self) -> None:
        """End soon: subscriptions get their last result."""
        self._over.set()

    async def _get_ready(self) -> None:
        service = await self._start()
        await service.start()
        self._ready.set_result(service)

    async def _read_all(self) -> None:
        async for line in self._lines:
            if line.strip():
                await self._take(line)

    async def _take(self, line: bytes) -> None:
        """Answer, now or later, what stands in one line."""
        if line == TOO_LONG:
            limit = self._early.settings.max_body_bytes
            await self._say(
                error_response(None, RpcError(INVALID_REQUEST, f"The line has more than {limit} bytes: send less"))
            )
            return
        try:
            message = parse(line)
        except RpcError as error:
            if self._session is not None:  # a batch, perhaps: its revision decides
                self._begin(self._session.post(line, None))
            else:
                await self._say(error_response(id_of(error), error))
            return
        if isinstance(message, Notification) and message.method == "notifications/cancelled":
            request_id = (message.params or {}).get("requestId")
            cancelled = self._open.get(request_id) if isinstance(request_id, (str, int)) else None
            if cancelled is not None:
                cancelled.close()  # nothing more is said for it, and its work ends (M-STDIO-08, M-STDIO-09)
                return
        if isinstance(message, Request) and (modern.is_marked(message.params) or self._is_early(message)):
            if message.method == "ping" and not modern.is_marked(message.params):
                await self._say(result_response(message.id, {}))
            else:
                self._begin_modern(message)
        elif isinstance(message, Request) and message.method == "initialize":
            if self._session is not None:
                self._session.close()
            self._session = _Session(self._ready, self._caller, self._say, self._begin)
            self._begin(self._session.post(line, message))
        elif self._session is not None:
            self._begin(self._session.post(line, message))

    def _is_early(self, request: Request) -> bool:
        """Neither marked as 2026-07-28 nor within a session: refused like a request without its envelope, except
        `ping` (X-SEL-17)."""
        return self._session is None and request.method != "initialize"

    def _begin_modern(self, request: Request) -> None:
        listening = request.method == "subscriptions/listen"

        async def say(message: bytes) -> None:
            await self._out.put(message)
            if listening and "result" in orjson.loads(message):
                # The host has two ways to learn that its subscription is over.
                await self._say(notification("notifications/cancelled", {"requestId": request.id}))

        conversation = _Conversation(say)
        self._open[request.id] = conversation

        async def answer() -> None:
            try:
                await serve_modern(
                    self._early if request.method in _EARLY else await asyncio.shield(self._ready),
                    self._caller,
                    request,
                    raw_headers=None,
                    accepts=Accepts(json=True, events=True),
                    receive=conversation.receive,
                    send=conversation.send,
                )
            except Exception:
                logger.exception("the answer to %s failed", request.method)
                await conversation.say(
                    dumps(error_response(request.id, RpcError(INTERNAL_ERROR, "The server failed: see its log")))
                )
            finally:
                if self._open.get(request.id) is conversation:
                    del self._open[request.id]

        self._begin(answer())

    def _begin(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _say(self, message: dict[str, Any]) -> None:
        await self._out.put(dumps(message))

    async def _write_all(self) -> None:
        while (message := await self._out.get()) is not None:
            try:
                await self._write(message + b"\n")
            except OSError as error:
                logger.info("nobody reads the output any more: %s", error)
                return


class _Conversation:
    """The ASGI side of one request: what the front end sends becomes messages, one at a time."""

    def __init__(self, say: Callable[[bytes], Awaitable[None]], body: bytes = b"") -> None:
        self._say = say
        self._body: bytes | None = body
        self._closed = asyncio.Event()
        self._rest = b""
        self.status = 0
        self.headers: dict[str, str] = {}

    def close(self) -> None:
        """The other side has gone: nothing more is said."""
        self._closed.set()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    async def say(self, message: bytes) -> None:
        if not self._closed.is_set():
            await self._say(message)

    async def receive(self) -> AsgiMessage:
        if self._body:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: AsgiMessage) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in event["headers"]}
            return
        self._rest += event.get("body", b"")
        if self.headers.get("content-type", "").startswith(EVENTS):
            *whole, self._rest = self._rest.split(b"\n\n")
            for block in whole:
                lines = block.split(b"\n")
                data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
                if any(data):
                    await self.say(b"\n".join(data))
        elif not event.get("more_body", False) and self._rest:
            body, self._rest = self._rest, b""
            await self.say(body)


class _Session:
    """A session that began with `initialize`, as its HTTP client would hold it."""

    def __init__(
        self,
        ready: asyncio.Future[Service],
        caller: Caller,
        say: Callable[[dict[str, Any]], Awaitable[None]],
        begin: Callable[[Any], None],
    ) -> None:
        self._ready = ready
        self._endpoint: McpEndpoint | None = None
        self._caller = caller
        self._say = say
        self._begin = begin
        self._headers: dict[str, str] = {}
        self._opened = asyncio.Event()
        self._conversations: set[_Conversation] = set()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        for conversation in self._conversations:
            conversation.close()

    async def post(self, body: bytes, message: Message | None) -> None:
        """One message of the host's; what is answered is said. Those after `initialize` wait for its answer."""
        initial = isinstance(message, Request) and message.method == "initialize"
        if not initial:
            await self._opened.wait()

        async def say(answer: bytes) -> None:
            parsed = orjson.loads(answer)
            if initial and isinstance(parsed, dict) and "result" in parsed:
                self._open(conversation, parsed["result"])
            if message is not None and not isinstance(message, Request) and "id" not in parsed:
                logger.info("the host's message was refused: %s", answer.decode(errors="replace"))
                return
            await self._say(parsed)

        conversation = _Conversation(say, body)
        try:
            await self._exchange("POST", conversation)
        except Exception:
            logger.exception("a message of the session failed")
            if isinstance(message, Request):
                failed = RpcError(INTERNAL_ERROR, "The server failed: see its log")
                await conversation.say(dumps(error_response(message.id, failed)))
        finally:
            if initial:
                self._opened.set()
        if isinstance(message, Notification) and message.method == "notifications/initialized":
            self._begin(self._listen())

    def _open(self, conversation: _Conversation, result: dict[str, Any]) -> None:
        if "mcp-session-id" in conversation.headers:
            self._headers["mcp-session-id"] = conversation.headers["mcp-session-id"]
        if isinstance(result.get("protocolVersion"), str):
            self._headers["mcp-protocol-version"] = result["protocolVersion"]

    async def _listen(self) -> None:
        """Say what the server says by itself, for as long as the session lasts."""
        while not self._closed:

            async def say(message: bytes) -> None:
                await self._say(orjson.loads(message))

            conversation = _Conversation(say)
            opened = _Refusing(conversation)
            await self._exchange("GET", conversation, opened.send)
            if conversation.status != 200:
                return
            await asyncio.sleep(AGAIN_S)

    async def _exchange(self, method: str, conversation: _Conversation, send: Send | None = None) -> None:
        service = await asyncio.shield(self._ready)
        if self._endpoint is None:
            self._endpoint = McpEndpoint(service)
        headers = {"host": "localhost", "accept": f"{JSON}, {EVENTS}", "content-type": JSON, **self._headers}
        if method == "GET":
            headers["accept"] = EVENTS
        scope: Scope = {
            "type": "http",
            "method": method,
            "path": service.settings.path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            VOUCHED: self._caller,
        }
        receive: Receive = conversation.receive
        self._conversations.add(conversation)
        try:
            await self._endpoint(scope, receive, send or conversation.send)
        finally:
            self._conversations.discard(conversation)


class _Refusing:
    """Passes a stream on and swallows the body of a refusal: the host has asked for nothing."""

    def __init__(self, conversation: _Conversation) -> None:
        self._conversation = conversation

    async def send(self, event: AsgiMessage) -> None:
        if event["type"] == "http.response.start" or self._conversation.status == 200:
            await self._conversation.send(event)
