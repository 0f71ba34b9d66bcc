"""A client of the revisions with a handshake that can misbehave; all that it is sent is held against the schema."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from taskengine import TaskEngine
from taskengine.server import create_app
from taskengine.settings import Settings
from tests.server.peer import BOTH, FrontEnd, front_end
from tests.wire.schemas import check

DOCUMENT = "schema-2025-11-25.json"
LATEST = "2025-11-25"
FORMS: dict[str, Any] = {"elicitation": {}}
ALL: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
_RESULTS = {
    "initialize": "InitializeResult",
    "tools/list": "ListToolsResult",
    "tasks/get": "GetTaskResult",
    "tasks/list": "ListTasksResult",
    "tasks/cancel": "CancelTaskResult",
    "ping": "EmptyResult",
    "logging/setLevel": "EmptyResult",
}
_SENT = {
    "elicitation/create": "ElicitRequest",
    "sampling/createMessage": "CreateMessageRequest",
    "roots/list": "ListRootsRequest",
    "notifications/progress": "ProgressNotification",
    "notifications/message": "LoggingMessageNotification",
    "notifications/cancelled": "CancelledNotification",
    "notifications/tasks/status": "TaskStatusNotification",
    "notifications/tools/list_changed": "ToolListChangedNotification",
}


@dataclass
class Reply:
    status: int
    headers: httpx2.Headers
    events: list[Event] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [event.message for event in self.events if event.message is not None]

    @property
    def body(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def result(self) -> dict[str, Any]:
        assert "result" in self.body, self.body
        return dict(self.body["result"])

    @property
    def error(self) -> dict[str, Any]:
        assert "error" in self.body, self.body
        return dict(self.body["error"])

    @property
    def refused(self) -> tuple[int, int]:
        return self.status, self.error["code"]

    @property
    def text(self) -> str:
        return "\n".join(block["text"] for block in self.result["content"])

    @property
    def streamed(self) -> bool:
        return self.headers["content-type"] == "text/event-stream"


@dataclass
class Event:
    """One event; `message` is None for an empty one, or for a comment."""

    id: str | None = None
    retry: int | None = None
    message: dict[str, Any] | None = None


class Peer:
    """One session, or several: `session` is what it sends now."""

    def __init__(self, url: str, http: httpx2.AsyncClient) -> None:
        self.url = url
        self.http = http
        self.session: str | None = None
        self.version: str | None = None
        self._ids = 0

    async def initialize(self, version: str = LATEST, capabilities: Mapping[str, Any] = {}) -> Reply:
        self.session = self.version = None
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info}
        reply = await self.send("initialize", params)
        if "result" in reply.body:
            self.session = reply.headers["mcp-session-id"]
            self.version = reply.result["protocolVersion"]
            assert (await self.notify("notifications/initialized")).status == 202
        return reply

    def headers(self, more: Mapping[str, str | None] = {}) -> dict[str, str]:
        known = {
            "accept": BOTH,
            "content-type": "application/json",
            "mcp-session-id": self.session,
            "mcp-protocol-version": self.version,
            **more,
        }
        return {name: value for name, value in known.items() if value is not None}

    def message(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        self._ids += 1
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": self._ids, "method": method}
        return message if params is None else {**message, "params": params}

    async def send(
        self, method: str, params: Mapping[str, Any] | None = None, headers: Mapping[str, str | None] = {}
    ) -> Reply:
        """A request and its whole answer."""
        message = self.message(method, params)
        reply = await self.post(message, headers)
        if reply.messages:
            assert reply.body.get("id") in {message["id"], None}, reply.body
            _check_response(method, reply.body)
        return reply

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> Reply:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        return await self.post(message if params is None else {**message, "params": params})

    async def answer(self, request: Mapping[str, Any], result: Any = None, error: Any = None) -> Reply:
        """Respond to a request of the server."""
        outcome = {"result": result} if error is None else {"error": error}
        return await self.post({"jsonrpc": "2.0", "id": request["id"], **outcome})

    async def post(self, message: Any, headers: Mapping[str, str | None] = {}) -> Reply:
        return await self.request("POST", json.dumps(message), headers)

    async def request(self, method: str, body: str | None = None, headers: Mapping[str, str | None] = {}) -> Reply:
        async with self.http.stream(method, self.url, content=body, headers=self.headers(headers)) as response:
            reply = Reply(response.status_code, response.headers)
            if response.headers.get("content-type") == "text/event-stream":
                async for event in _events(response):
                    reply.events.append(event)
            elif content := await response.aread():
                reply.events.append(Event(message=json.loads(content)))
            return reply

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Reply:
        """`tools/call`; `task={}` asks for a task, `token` for progress."""
        return await self.send("tools/call", call_params(tool, arguments, **more))

    async def begin(self, tool: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> str:
        """The id of a new task."""
        result = (await self.call(tool, arguments, task=more.pop("task", {}), **more)).result
        check("CreateTaskResult", result, DOCUMENT)
        return str(result["task"]["taskId"])

    async def get(self, task_id: str) -> dict[str, Any]:
        return (await self.send("tasks/get", {"taskId": task_id})).result

    async def result(self, task_id: str) -> Reply:
        return await self.send("tasks/result", {"taskId": task_id})

    @asynccontextmanager
    async def stream(self, method: str, params: Mapping[str, Any]) -> AsyncIterator[Stream]:
        """A request whose answer is read event by event; leaving the block closes it."""
        message = self.message(method, params)
        opening = self.http.stream("POST", self.url, content=json.dumps(message), headers=self.headers())
        async with opening as response:
            assert response.headers["content-type"] == "text/event-stream", (await response.aread()).decode()
            yield Stream(message["id"], response)

    @asynccontextmanager
    async def listen(self, last_event: str | None = None) -> AsyncIterator[Stream]:
        """GET, of the session's own stream or of an earlier one."""
        headers = self.headers({"content-type": None, "accept": "text/event-stream", "last-event-id": last_event})
        async with self.http.stream("GET", self.url, headers=headers) as response:
            assert response.status_code == 200, (await response.aread()).decode()
            assert response.headers["content-type"] == "text/event-stream"
            yield Stream(0, response)


class Stream:
    def __init__(self, request_id: int, response: httpx2.Response) -> None:
        self.id = request_id
        self.events: list[Event] = []
        self._events = _events(response)

    @property
    def last_event(self) -> str:
        return [event.id for event in self.events if event.id is not None][-1]

    async def event(self, timeout_s: float = 5.0) -> Event:
        """The next event, an empty one too. Raises TimeoutError, and StopAsyncIteration after the last."""
        async with asyncio.timeout(timeout_s):
            event = await anext(self._events)
            self.events.append(event)
            return event

    async def rest(self) -> list[Event]:
        """What is left until the stream ends."""
        try:
            while True:
                await self.event()
        except StopAsyncIteration:
            return self.events

    async def next(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """The next message."""
        async with asyncio.timeout(timeout_s):
            while True:
                event = await self.event(timeout_s)
                if event.message is not None:
                    return event.message


async def _events(response: httpx2.Response) -> AsyncIterator[Event]:
    event = Event()
    async for line in response.aiter_lines():
        name, _, value = line.partition(":")
        value = value.strip()
        match name:
            case "id":
                event.id = value
            case "retry":
                event.retry = int(value)
            case "data" if value:
                event.message = json.loads(value)
                _check_sent(event.message)
            case "data":
                pass
            case "" if line:
                pass  # a comment
            case "":
                if event != Event():
                    yield event
                event = Event()
            case _:
                raise AssertionError(line)


def call_params(tool: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool}
    if arguments is not None:
        params["arguments"] = arguments
    if "task" in more:
        params["task"] = more["task"]
    if "token" in more:
        params["_meta"] = {"progressToken": more["token"]}
    return params


def _check_response(method: str, body: Mapping[str, Any]) -> None:
    if "error" in body:
        check("JSONRPCErrorResponse", body, DOCUMENT)
        return
    result = body["result"]
    for modern_only in ("resultType", "ttlMs", "pollIntervalMs", "inputRequests", "requestState", "cacheScope"):
        assert modern_only not in result  # L-BASE-19
    if method in _RESULTS:
        check(_RESULTS[method], result, DOCUMENT)
    elif method == "tools/call":
        check("CreateTaskResult" if "task" in result else "CallToolResult", result, DOCUMENT)
    elif method == "tasks/result":
        check("CallToolResult", result, DOCUMENT)


def _check_sent(message: Mapping[str, Any]) -> None:
    if "method" in message:
        check(_SENT[message["method"]], message, DOCUMENT)


@asynccontextmanager
async def peer_of(running: FrontEnd) -> AsyncIterator[Peer]:
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(timeout=20, limits=limits, trust_env=False) as http:
        yield Peer(running.url, http)


@asynccontextmanager
async def serving(engine: TaskEngine, settings: Settings) -> AsyncIterator[Peer]:
    async with front_end(create_app(engine, settings), settings.path) as running, peer_of(running) as peer:
        yield peer
