"""A session of the revisions that begin with `initialize`.

Streams that break are taken up again, requests of the server come on them, and a session that the server has forgotten
is begun again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from taskengine.client.results import RemoteError, ServerUnreachable, error_of
from taskengine.client.transport import Answer, Http, OnNotification, is_response
from taskengine.client.wire import Profile

__all__ = ["LATEST", "VERSIONS", "OnRequest", "Opened", "Session"]

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
LATEST = VERSIONS[0]
METHOD_NOT_FOUND = -32601
TOO_MANY = 429
RESUME_S = 1.0
"""Before a stream is taken up again, where the server names no time."""
LONGEST_RESUME_S = 60.0
GOODBYE_S = 1.0
"""How long it may take to tell the server what it need not know."""

OnRequest = Callable[[Mapping[str, Any]], None]
"""Takes a request of the server; what it raises ends the request on whose stream it came."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What `initialize` settled."""

    id: str | None
    """Of the session; None where the server keeps none."""
    version: str
    result: Mapping[str, Any]

    def offers(self, *path: str) -> bool:
        """Whether the server declared the capability at `path`."""
        found: Any = self.result.get("capabilities")
        for part in path:
            found = found.get(part) if isinstance(found, Mapping) else None
        return isinstance(found, Mapping)


class Session:
    def __init__(self, http: Http, profile: Profile, version: str = LATEST) -> None:
        self.http = http
        self.profile = profile
        self._version = version
        self._last_id = 0
        self._opened: Opened | None = None
        self._opening = asyncio.Lock()
        self.keeps = False
        """Something on the server may still need this session: it is not ended with us."""

    @property
    def url(self) -> str:
        return self.http.url

    async def opened(self, instead_of: Opened | None = None) -> Opened:
        """The session, begun when there is none, or when it is still `instead_of` (L-SESS-13)."""
        async with self._opening:
            if self._opened is None or self._opened is instead_of:
                self._opened = None
                self._opened = await self._initialize()
            return self._opened

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        on_notification: OnNotification | None = None,
        on_request: OnRequest | None = None,
        cancels: bool = False,
    ) -> dict[str, Any]:
        """The result. With `cancels` the server is told when nobody waits for it any more.

        Raises RemoteError, and ServerUnreachable: also when a stream broke that cannot be taken up again.
        """
        opened = await self.opened()
        exchange = _Exchange(self, method, params, on_notification=on_notification, on_request=on_request)
        exchange.headers = dict(headers or {})
        try:
            try:
                return await exchange.run(opened)
            except _SessionGone:
                # Nothing was done with the request.
                opened = await self.opened(instead_of=opened)
                try:
                    return await exchange.run(opened)
                except _SessionGone:
                    raise ServerUnreachable(self.url, "HTTP 404 in a new session", 404) from None
        except (RemoteError, ServerUnreachable):
            raise
        except BaseException:
            if cancels:
                await self._say_goodbye(opened, exchange.id)
            raise

    async def notify(self, opened: Opened, method: str, params: Mapping[str, Any] | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        await self._tell(opened, message if params is None else {**message, "params": params})

    async def respond(self, opened: Opened, request_id: Any, outcome: Mapping[str, Any]) -> None:
        """Answer a request of the server; `outcome` has `result` or `error`. Raises RemoteError when it is refused."""
        await self._tell(opened, {"jsonrpc": "2.0", "id": request_id, **outcome})

    async def close(self) -> None:
        """End the session, unless something on the server may need it."""
        opened, self._opened = self._opened, None
        if opened is None or opened.id is None or self.keeps:
            return
        with suppress(ServerUnreachable, TimeoutError):
            async with asyncio.timeout(GOODBYE_S), self.http.open("DELETE", None, self.headers(opened)):
                pass

    def headers(self, opened: Opened) -> dict[str, str]:
        known = {"MCP-Protocol-Version": opened.version}  # L-TRANS-23
        return known if opened.id is None else {**known, "MCP-Session-Id": opened.id}

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _initialize(self) -> Opened:
        request_id = self.next_id()
        params = {
            "protocolVersion": self._version,
            "capabilities": dict(self.profile.capabilities),
            "clientInfo": dict(self.profile.info),
        }
        message = {"jsonrpc": "2.0", "id": request_id, "method": "initialize", "params": params}
        async with self.http.open("POST", message, {}) as answer:
            result = await self._only_response(answer, request_id)
            session_id = answer.headers.get("mcp-session-id")
        version = result.get("protocolVersion")
        if version not in VERSIONS:
            raise ServerUnreachable(self.url, f"it speaks {version}, which this client does not")
        opened = Opened(session_id, version, result)
        await self.notify(opened, "notifications/initialized")  # L-LIFE-08
        return opened

    async def _only_response(self, answer: Answer, request_id: int) -> dict[str, Any]:
        async with aclosing(answer.messages()) as messages:
            async for found in messages:
                if is_response(found, request_id):
                    return result_of(self.url, found)
        raise ServerUnreachable(self.url, "the stream ended before the answer", answer.status)

    async def _tell(self, opened: Opened, message: Mapping[str, Any]) -> None:
        async with self.http.open("POST", message, self.headers(opened)) as answer:
            async with aclosing(answer.messages()) as messages:
                async for found in messages:
                    if "error" in found:
                        raise error_of(found["error"])
            if answer.status >= 400:
                raise ServerUnreachable(self.url, f"HTTP {answer.status}", answer.status)

    async def _say_goodbye(self, opened: Opened, request_id: int) -> None:
        """Leaving a stream cancels nothing on these revisions (L-TRANS-13): it has to be said."""
        params = {"requestId": request_id, "reason": "nobody waits for it any more"}
        with suppress(RemoteError, ServerUnreachable, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self.notify(opened, "notifications/cancelled", params)


class _Exchange:
    """One request and all the streams on which its answer may come."""

    def __init__(
        self,
        session: Session,
        method: str,
        params: Mapping[str, Any],
        *,
        on_notification: OnNotification | None,
        on_request: OnRequest | None,
    ) -> None:
        self.id = session.next_id()
        self._session = session
        self._method = method
        self._message = {"jsonrpc": "2.0", "id": self.id, "method": method, "params": dict(params)}
        self.headers: Mapping[str, str] = {}
        self._on_notification = on_notification
        self._on_request = on_request
        self._last_event: str | None = None
        self._retry_s: float | None = None
        self._heard_at = 0.0
        self._chores: set[asyncio.Task[None]] = set()

    async def run(self, opened: Opened) -> dict[str, Any]:
        """The result. Raises as `Session.request` does, and _SessionGone when the session is not known."""
        self._heard_at = time.monotonic()
        patience_s = self._session.profile.patience.total_seconds()
        try:
            while True:
                broken: ServerUnreachable | None = None
                try:
                    result = await self._stream(opened)
                except ServerUnreachable as error:
                    if self._last_event is None or (error.status is not None and 400 <= error.status < 500):
                        raise
                    result, broken = None, error
                if result is not None:
                    return result
                if self._last_event is None or time.monotonic() - self._heard_at > patience_s:
                    raise broken or ServerUnreachable(self._session.url, "the stream ended before the answer")
                pause_s = RESUME_S if self._retry_s is None else self._retry_s
                await asyncio.sleep(min(pause_s, LONGEST_RESUME_S))
        finally:
            for chore in self._chores:
                chore.cancel()

    async def _stream(self, opened: Opened) -> dict[str, Any] | None:
        """One stream of the answer, the first or one that goes on where the last ended (L-TRANS-21); None when it
        ended before the answer."""
        session = self._session
        headers = {**session.headers(opened), **self.headers}
        resumed = self._last_event is not None
        if resumed:
            opening = session.http.open(
                "GET", None, {**headers, "Accept": "text/event-stream", "Last-Event-ID": str(self._last_event)}
            )
        else:
            patient = self._method in {"tools/call", "tasks/result"}
            opening = session.http.open("POST", self._message, headers, patient=patient)
        async with opening as answer:
            if answer.status == 404 and opened.id is not None and not resumed:
                raise _SessionGone
            if answer.status == TOO_MANY and resumed:  # nothing is lost: there may be a place the next time
                return None
            try:
                async with aclosing(answer.messages()) as messages:
                    async for found in messages:
                        self._heard_at = time.monotonic()
                        if is_response(found, self.id):
                            return result_of(session.url, found)
                        await self._take(opened, found)
            finally:
                self._last_event = answer.last_event or self._last_event
                self._retry_s = self._retry_s if answer.retry_s is None else answer.retry_s
        return None

    async def _take(self, opened: Opened, message: Mapping[str, Any]) -> None:
        method, params = message.get("method"), message.get("params")
        if not isinstance(method, str):
            return
        if "id" not in message:
            if self._on_notification is not None:
                await self._on_notification(method, params if isinstance(params, Mapping) else {})
        elif method == "ping":
            self._spawn(opened, message["id"], {"result": {}})
        elif self._on_request is not None:
            self._on_request(message)
        else:
            self._spawn(opened, message["id"], {"error": {"code": METHOD_NOT_FOUND, "message": "Not served here"}})

    def _spawn(self, opened: Opened, request_id: Any, outcome: Mapping[str, Any]) -> None:
        async def respond() -> None:
            with suppress(RemoteError, ServerUnreachable):
                await self._session.respond(opened, request_id, outcome)

        chore = asyncio.create_task(respond())
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)


def result_of(url: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Raises RemoteError for an error, ServerUnreachable for what is neither."""
    if "error" in message:
        raise error_of(message["error"])
    result = message.get("result")
    if not isinstance(result, dict):
        raise ServerUnreachable(url, "a result that is no object")
    return result


class _SessionGone(Exception):
    """The server does not know the session (any more)."""
