"""A front end under uvicorn, a client of the 2026-07-28 wire that can misbehave, and a worker's hands."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import uvicorn
from sqlalchemy import text

from taskengine import TaskEngine
from taskengine.calling import Outcome, call_async, call_sync
from taskengine.content import encode_json, text_result
from taskengine.errors import Suspended
from taskengine.records import Claim, Question
from taskengine.server import GracefulServer, create_app
from taskengine.server.guardrails import Bounds, Crowd, guarded
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.wire import modern
from tests.wire.schemas import CORE, TASKS, check

EXTENSION: dict[str, Any] = {"extensions": {modern.TASKS: {}}}
BOTH = "application/json, text/event-stream"
WORKER = "w-test"
QUEUES = ["default", "default.sync"]
NAMED = {"tools/call": "name", "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId"}


@dataclass
class Reply:
    """An answer: its HTTP side, the notifications before it, and the response itself."""

    status: int
    headers: httpx2.Headers
    messages: list[dict[str, Any]] = field(default_factory=list)
    comments: int = 0

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
        """HTTP status and code."""
        return self.status, self.error["code"]

    @property
    def text(self) -> str:
        return "\n".join(block["text"] for block in self.result["content"])

    @property
    def notifications(self) -> list[dict[str, Any]]:
        return self.messages[:-1]


class Peer:
    def __init__(self, url: str, http: httpx2.AsyncClient) -> None:
        self.url = url
        self.http = http
        self._ids = 0

    def message(
        self, method: str, params: Mapping[str, Any], capabilities: Mapping[str, Any], meta: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._ids += 1
        envelope = {modern.VERSION_KEY: modern.VERSION, modern.CAPABILITIES_KEY: capabilities, **meta}
        return {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": {**params, "_meta": envelope}}

    def headers(self, method: str, params: Mapping[str, Any], headers: Mapping[str, str | None]) -> dict[str, str]:
        known: dict[str, str | None] = {
            "accept": BOTH,
            "content-type": "application/json",
            "mcp-protocol-version": modern.VERSION,
            "mcp-method": method,
        }
        name = params.get(NAMED.get(method, ""))
        if isinstance(name, str):
            known["mcp-name"] = name
        known |= headers
        return {name: value for name, value in known.items() if value is not None}

    async def send(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        capabilities: Mapping[str, Any] = {},
        meta: Mapping[str, Any] = {},
        headers: Mapping[str, str | None] = {},
    ) -> Reply:
        """A request in perfect form, but for what is given to spoil it."""
        params = params or {}
        message = self.message(method, params, capabilities, meta)
        reply = await self.post(json.dumps(message), self.headers(method, params, headers))
        assert reply.body["id"] == message["id"]
        _check_response(method, reply.body)
        return reply

    async def post(self, body: str | bytes, headers: Mapping[str, str], method: str = "POST") -> Reply:
        """Any request."""
        async with self.http.stream(method, self.url, content=body, headers=dict(headers)) as response:
            reply = Reply(response.status_code, response.headers)
            if response.headers.get("content-type") == "text/event-stream":
                async for kind, value in _events(response):
                    if kind == "data":
                        reply.messages.append(value)
                    else:
                        reply.comments += 1
            else:
                content = await response.aread()
                if content:
                    reply.messages.append(json.loads(content))
            return reply

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        tasks: bool = False,
        capabilities: Mapping[str, Any] = {},
        **rest: Any,
    ) -> Reply:
        """`tools/call`; with `tasks` the extension is declared."""
        extra: dict[str, Any] = {
            key: rest.pop(key) for key in ("inputResponses", "requestState", "task") if key in rest
        }
        params: dict[str, Any] = {"name": tool, **extra}
        if arguments is not None:
            params["arguments"] = arguments
        declared = {**capabilities, **(EXTENSION if tasks else {})}
        return await self.send("tools/call", params, capabilities=declared, **rest)

    async def get(self, task_id: str, **rest: Any) -> Reply:
        return await self.send("tasks/get", {"taskId": task_id}, capabilities=EXTENSION, **rest)

    async def update(self, task_id: str, responses: Any, **rest: Any) -> Reply:
        params = {"taskId": task_id, "inputResponses": responses}
        return await self.send("tasks/update", params, capabilities=EXTENSION, **rest)

    async def cancel(self, task_id: str, **rest: Any) -> Reply:
        return await self.send("tasks/cancel", {"taskId": task_id}, capabilities=EXTENSION, **rest)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        capabilities: Mapping[str, Any] = EXTENSION,
        meta: Mapping[str, Any] = {},
    ) -> AsyncIterator[Stream]:
        """A request whose answer is read event by event; leaving the block closes it."""
        message = self.message(method, params, capabilities, meta)
        headers = self.headers(method, params, {})
        async with self.http.stream("POST", self.url, content=json.dumps(message), headers=headers) as response:
            assert response.status_code == 200, (await response.aread()).decode()
            assert response.headers["content-type"] == "text/event-stream"
            yield Stream(message["id"], response)


class Stream:
    def __init__(self, request_id: int, response: httpx2.Response) -> None:
        self.id = request_id
        self.headers = response.headers
        self.comments = 0
        self._events = _events(response)

    async def next(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """The next message. Raises TimeoutError, and StopAsyncIteration after the last."""
        async with asyncio.timeout(timeout_s):
            while True:
                kind, value = await anext(self._events)
                if kind == "data":
                    return dict(value)
                self.comments += 1

    async def comment(self, timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            kind, _ = await anext(self._events)
            assert kind == "comment"


async def _events(response: httpx2.Response) -> AsyncIterator[tuple[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield "data", json.loads(line.removeprefix("data: "))
        elif line.startswith(":"):
            yield "comment", line
        else:
            assert line == "", f"neither a one-line event nor a comment: {line!r}"


_RESULTS = {"server/discover": "DiscoverResult", "tools/list": "ListToolsResult"}
_TASK_RESULTS = {"tasks/get": "GetTaskResult", "tasks/update": "UpdateTaskResult", "tasks/cancel": "CancelTaskResult"}
_CALL_RESULTS = {
    "complete": ("CallToolResult", CORE),
    "input_required": ("InputRequiredResult", CORE),
    "task": ("CreateTaskResult", TASKS),
}


def _check_response(method: str, body: Mapping[str, Any]) -> None:
    """Whatever is answered is of the published shape."""
    if "error" in body:
        check("JSONRPCErrorResponse", body)
        return
    result = body["result"]
    assert result["_meta"][modern.SERVER_INFO_KEY]["name"]
    if method in _RESULTS:
        check(_RESULTS[method], result)
    elif method in _TASK_RESULTS:
        check(_TASK_RESULTS[method], result, TASKS)
    elif method == "tools/call":
        check(*(_CALL_RESULTS[result["resultType"]][0], result), document=_CALL_RESULTS[result["resultType"]][1])


@dataclass
class FrontEnd:
    url: str
    base: str
    server: GracefulServer
    serving: asyncio.Task[None]
    crowd: Crowd

    async def stop(self) -> None:
        """As SIGTERM would."""
        self.server.should_exit = True
        await self.serving


@asynccontextmanager
async def front_end(
    app: Any, path: str = "/mcp", *, grace_s: int = 5, port: int = 0, bounds: Bounds | None = None
) -> AsyncIterator[FrontEnd]:
    """`app` under uvicorn on a free port, unless one is given; guarded as `taskengine serve` is."""
    guard = guarded(bounds or Bounds())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", port))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="auto",
            timeout_graceful_shutdown=grace_s,
            http=guard,
            ws="none",
        )
        server = GracefulServer(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.005)
            if serving.done():
                serving.result()
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running = FrontEnd(f"{base}{path}", base, server, serving, guard.crowd)
        try:
            yield running
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def serving(engine: TaskEngine, settings: Settings) -> AsyncIterator[Peer]:
    """A peer of a front end that serves `engine`."""
    async with front_end(create_app(engine, settings), settings.path) as running, peer_of(running) as peer:
        yield peer


@asynccontextmanager
async def peer_of(running: FrontEnd) -> AsyncIterator[Peer]:
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(timeout=20, limits=limits, trust_env=False) as http:
        yield Peer(running.url, http)


class Hands:
    """Does a worker's work, step by step, as a test says."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def rows(self, where: str = "TRUE") -> Sequence[Any]:
        return await self.store._database.run(
            text(f"SELECT id, queue, attempt, status, phase FROM tasks WHERE {where} ORDER BY created_at")
        )

    async def hears(self, sessions: int = 1) -> None:
        """Wait until that many front ends listen to the database: an announcement before reaches nobody."""
        listening = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'"
            " AND application_name = 'taskengine listener' AND query LIKE '%LISTEN%tools%'"
        )
        async with asyncio.timeout(5):
            while (await self.store._database.run(listening)).scalar_one() < sessions:
                await asyncio.sleep(0.01)

    async def take(self, timeout_s: float = 5.0) -> Claim:
        """Claim the task that has waited longest."""
        async with asyncio.timeout(timeout_s):
            while True:
                claim = await self.store.attempts.claim_next(QUEUES, WORKER)
                if claim is not None:
                    return claim
                await asyncio.sleep(0.01)

    async def complete(self, claim: Claim, said: str = "done", *, is_error: bool = False) -> None:
        result = encode_json(text_result(said, is_error=is_error))
        await self.store.attempts.complete(claim, result, is_error=is_error, status_message="Completed")

    async def fail(self, claim: Claim, code: int, message: str, data: Any = None) -> None:
        error = {"code": code, "message": message, **({} if data is None else {"data": data})}
        await self.store.attempts.fail(claim, encode_json(error), status_message=message)

    async def ask(self, claim: Claim, *questions: Question) -> None:
        await self.store.attempts.suspend(claim, questions, "Waiting for answers")

    async def progress(self, claim: Claim, progress: float, total: float | None = None) -> None:
        await self.store.attempts.progress(claim, progress, total, f"at {progress}", f"at {progress}")

    async def run(self, engine: TaskEngine) -> None:
        """One attempt at the next task that is due, with the tool's own function."""
        claim = await self.take()
        tool = engine.tools[claim.tool]
        port = _HandPort(claim)
        limits: dict[str, Any] = {"show_exceptions": True, "max_result_bytes": 1 << 20}
        try:
            if tool.is_async:
                outcome: Outcome = await call_async(tool, claim.arguments, port, **limits)
            else:
                outcome = await asyncio.to_thread(call_sync, tool, claim.arguments, _SyncHandPort(port), **limits)
        except Suspended:
            await self.ask(claim, *port.asked)
            return
        if outcome.error is not None:
            await self.store.attempts.fail(claim, outcome.error, status_message=outcome.message or "Failed")
        else:
            assert outcome.result is not None
            await self.store.attempts.complete(
                claim, outcome.result, is_error=outcome.is_error, status_message="Completed"
            )


class _HandPort:
    durable = None  # its questions are asked by the test

    def __init__(self, claim: Claim) -> None:
        self.task_id: str | None = claim.task_id
        self.attempt = claim.attempt
        self.capabilities = claim.capabilities
        self.first = claim.first
        self.caller = claim.caller
        self.cancelled = False
        self.asked: list[Question] = []
        self._answers = claim.answers

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        pass

    async def log(self, level: str, data: Any, logger: str | None) -> None:
        pass

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        self.asked = [question for question in questions if question.key not in self._answers]
        if self.asked:
            raise Suspended
        return {question.key: self._answers[question.key].response for question in questions}

    async def tools_changed(self) -> None:
        pass


class _SyncHandPort:
    def __init__(self, port: _HandPort) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


def form(key: str = "elicit-1", message: str = "Sure?", **properties: Any) -> Question:
    schema = {"type": "object", "properties": properties or {"ok": {"type": "boolean"}}, "required": ["ok"]}
    if properties:
        schema["required"] = list(properties)
    return Question(key, "elicitation/create", {"mode": "form", "message": message, "requestedSchema": schema})


def accept(**content: Any) -> dict[str, Any]:
    return {"action": "accept", "content": content}


def methods(messages: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> list[str]:
    return [message["method"] for message in messages]
