"""A session of 2025-11-25 and before over standard input and output: the endpoint's HTTP client, as it were."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from taskengine.errors import EngineError
from taskengine.server.caller import VOUCHED, Caller
from taskengine.server.checks import EVENTS, JSON
from taskengine.server.endpoint import McpEndpoint
from taskengine.server.service import Service
from taskengine.wire.jsonrpc import (
    INTERNAL_ERROR,
    Message,
    Notification,
    Request,
    Response,
    RpcError,
    error_response,
)

__all__ = ["Conversation", "Session", "failure"]

logger = logging.getLogger("taskengine.stdio")

SESSION = "mcp-session-id"
AGAIN_S = 1.0


def failure(method: str, error: Exception) -> RpcError:
    """For a request that was not answered: why, where the reason is one that was foreseen."""
    if isinstance(error, EngineError):
        return RpcError(INTERNAL_ERROR, str(error))
    logger.error("the answer to %s failed", method, exc_info=error)
    return RpcError(INTERNAL_ERROR, "The server failed: see its log")


class Conversation:
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
    def gone(self) -> bool:
        """There is no such session (any more)."""
        return self.status == 404

    @property
    def away(self) -> bool:
        """The database is, for now."""
        return self.status == 503

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


class Session:
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
        self._handshake = b""
        self._headers: dict[str, str] = {}
        self._opened = asyncio.Event()
        self._renewing = asyncio.Lock()
        self._listening = False
        self._conversations: set[Conversation] = set()
        self._ending = self._closed = False

    def wind_up(self) -> None:
        """The host's own requests may still be answered; what the server says by itself is not waited for."""
        self._ending = True

    def close(self) -> None:
        self._ending = self._closed = True
        for conversation in self._conversations:
            conversation.close()

    async def post(self, body: bytes, message: Message | None) -> None:
        """One message of the host's; what is answered is said. Those after `initialize` wait for its answer."""
        initial = isinstance(message, Request) and message.method == "initialize"
        try:
            if initial:
                self._handshake = body
            else:
                await self._opened.wait()
            await self._deliver(body, message, initial=initial)
        except Exception as error:
            if not isinstance(message, Request):
                logger.exception("a message of the session failed")
            elif not self._closed:
                await self._say(error_response(message.id, failure(message.method, error)))
        finally:
            if initial:
                self._opened.set()
        if isinstance(message, Notification) and message.method == "notifications/initialized" and not self._listening:
            self._listening = True
            self._begin(self._listen())

    async def _deliver(self, body: bytes, message: Message | None, *, initial: bool) -> None:
        """As an HTTP client would that takes care: in a session that goes on, and until the database is back."""
        session = self._headers.get(SESSION)
        sent = await self._send(body, message, initial=initial)
        if sent.gone:
            await self._renew(session)
            sent = await self._send(body, message, initial=initial, again=True)
        while sent.away and isinstance(message, Response) and not self._closed:  # the host answers once
            await asyncio.sleep(AGAIN_S)
            sent = await self._send(body, message, initial=initial, again=True)

    async def _send(self, body: bytes, message: Message | None, *, initial: bool, again: bool = False) -> Conversation:
        async def say(answer: bytes) -> None:
            parsed = orjson.loads(answer)
            if initial and "result" in parsed:
                self._open(conversation, parsed["result"])
            if conversation.gone and not again:
                return
            if message is not None and not isinstance(message, Request) and "id" not in parsed:
                logger.info("the host's message was refused: %s", answer.decode(errors="replace"))
                return
            await self._say(parsed)

        conversation = Conversation(say, body)
        await self._exchange("POST", conversation)
        return conversation

    def _open(self, conversation: Conversation, result: dict[str, Any]) -> None:
        if SESSION in conversation.headers:
            self._headers[SESSION] = conversation.headers[SESSION]
        if isinstance(result.get("protocolVersion"), str):
            self._headers["mcp-protocol-version"] = result["protocolVersion"]

    async def _renew(self, session: str | None) -> None:
        """The session is too old for the server, which means nothing to a host that has started it: the handshake is
        made once more, with what the host said then."""
        async with self._renewing:
            if self._headers.get(SESSION) != session:
                return  # it was renewed meanwhile

            async def take(answer: bytes) -> None:
                self._open(conversation, orjson.loads(answer).get("result", {}))

            conversation = Conversation(take, self._handshake)
            await self._exchange("POST", conversation)

    async def _listen(self) -> None:
        """Say what the server says by itself, for as long as the session lasts."""
        while not self._ending:

            async def say(message: bytes) -> None:
                await self._say(orjson.loads(message))

            conversation = Conversation(say)
            opened = _Refusing(conversation)
            session = self._headers.get(SESSION)
            try:
                await self._exchange("GET", conversation, opened.send)
                if conversation.gone:
                    await self._renew(session)
                elif conversation.status != 200 and not conversation.away:
                    return
            except Exception:
                logger.exception("listening for the session failed")
            if not self._ending:
                await asyncio.sleep(AGAIN_S)

    async def _exchange(self, method: str, conversation: Conversation, send: Send | None = None) -> None:
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

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    async def send(self, event: AsgiMessage) -> None:
        refused = self._conversation.status not in {0, 200}
        if event["type"] == "http.response.start" or not refused:
            await self._conversation.send(event)
