"""The client against servers that are not ours: the official SDK's, and an old one with faults, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from taskengine.client import Client, Progress, RemoteError, ServerUnreachable
from taskengine.lifecycle import Status
from taskengine.records import Question
from tests.server.peer import front_end

LEGACY = "2025-11-25"
FORM = {"message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}
SESSION = "mcp-session-id"


class Name(BaseModel):
    name: str


def official(**options: Any) -> Starlette:
    """A server of the official SDK, which has no tasks."""
    server = MCPServer("official")

    @server.tool()
    async def steps(context: Context[Any, Any]) -> str:
        await context.report_progress(1, 2, "half")
        return "walked"

    @server.tool()
    async def greet(context: Context[Any, Any]) -> str:
        answer = await context.elicit("Who?", Name)
        return f"Hello, {answer.data.name}!" if answer.action == "accept" else f"They {answer.action}"

    return server.streamable_http_app(**options)


def without_2026(app: Any) -> Any:
    """The same as a server that has never heard of 2026-07-28."""

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (b"mcp-protocol-version", b"2026-07-28") in scope["headers"]:
            await PlainTextResponse("Bad Request: unsupported protocol version", 400)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return refusing


def _ada(_question: Question) -> dict[str, Any]:
    return {"action": "accept", "content": {"name": "Ada"}}


@pytest.mark.parametrize("revision", [None, LEGACY, "2025-06-18"])
@pytest.mark.parametrize("options", [{}, {"stateless_http": True}])
async def test_a_server_without_tasks_is_called_plainly(options: dict[str, Any], revision: str | None) -> None:
    told: list[Progress] = []
    async with front_end(official(**options)) as running, Client(running.url, revision=revision) as client:
        assert {tool["name"] for tool in await client.list_tools()} == {"steps", "greet"}
        outcome = await client.call("steps", on_progress=told.append)
        assert (outcome.status, outcome.text, outcome.task_id) == (Status.COMPLETED, "walked", None)
        assert told == [Progress("half", 1, 2)]
        assert await client.list_tasks() is None
        task = await client.submit("steps")
        assert (task.id, (await task.result()).text) == (None, "walked")


async def test_a_question_on_the_stream_of_a_call_is_answered_there() -> None:
    async with front_end(without_2026(official())) as running, Client(running.url) as client:
        assert await client.revision() == LEGACY
        assert (await client.call("greet", on_question=_ada)).text == "Hello, Ada!"
        outcome = await client.call("greet", on_question=lambda _: {"action": "decline"})
        assert outcome.text == "They decline"
        outcome = await client.call("greet")  # nobody there
        assert outcome.status is Status.INPUT_REQUIRED
        assert outcome.questions[0].params["message"] == "Who?"
        with pytest.raises(ZeroDivisionError):
            await client.call("greet", on_question=lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
        assert (await client.call("steps")).text == "walked"


async def test_plain_json_answers_do() -> None:
    async with front_end(without_2026(official(json_response=True))) as running, Client(running.url) as client:
        assert (await client.call("steps")).text == "walked"


class OldServer:
    """Speaks 2025-11-25 with tasks, badly: each fault is switched on by a test. A question is put to its client once
    and never again, as servers do that keep messages in a queue."""

    def __init__(self) -> None:
        self.methods: list[str] = []
        self.notes: list[dict[str, Any]] = []
        self.sessions: set[str] = set()
        self.deleted: list[str] = []
        self.forgets_sessions = 0
        self.breaks_streams = 0
        self.hangs = False
        self.asks = False
        self.answered_in: str | None = None
        self.calls = 0
        self.last_call = 0
        self.support = "required"
        self.listed = "required"
        self.put = False
        self.endless = False
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.app = Starlette(routes=[Route("/mcp", self.serve, methods=["GET", "POST", "DELETE"])])

    async def serve(self, request: Request) -> Response:
        session = request.headers.get(SESSION)
        if request.method == "DELETE":
            self.deleted.append(str(session))
            return Response(status_code=204)
        if request.method == "GET":
            assert request.headers["last-event-id"] == "e1"
            return self._stream(self._answered(self.last_call, resumed=True))
        message = await request.json()
        method = message.get("method", "response")
        self.methods.append(method)
        if method == "initialize":
            session = f"s-{len(self.sessions)}"
            self.sessions.add(session)
            capabilities = {"tools": {}, "tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}}
            result = {"protocolVersion": LEGACY, "capabilities": capabilities, "serverInfo": {"name": "old"}}
            return self._result(message, result, {SESSION: session})
        if session is None:
            return PlainTextResponse("Bad Request: Missing session ID", 400)
        assert request.headers["mcp-protocol-version"] == LEGACY
        if self.forgets_sessions:
            self.forgets_sessions -= 1
            return PlainTextResponse("Session not found", 404)
        if "id" not in message or method == "response":
            self.notes.append(message)
            if method == "response" and not self.answer.done():
                self.answered_in = session
                self.answer.set_result(message)
            return Response(status_code=202)
        handle: Callable[[dict[str, Any]], Response] = getattr(self, method.replace("/", "_"))
        return handle(message)

    def tools_list(self, message: dict[str, Any]) -> Response:
        tool = {"name": "job", "inputSchema": {"type": "object"}, "execution": {"taskSupport": self.listed}}
        self.listed = self.support
        return self._result(message, {"tools": [tool]})

    def tools_call(self, message: dict[str, Any]) -> Response:
        if ("task" in message["params"]) != (self.support == "required"):
            return self._error(message, -32601, "The other way")
        self.calls += 1
        self.last_call = message["id"]
        if self.support == "required":
            return self._result(message, {"task": self._task("working")})
        return self._stream(self._answered(message["id"]))

    def tasks_get(self, message: dict[str, Any]) -> Response:
        return self._result(message, self._task("completed" if self.answer.done() else "input_required"))

    def tasks_list(self, message: dict[str, Any]) -> Response:
        if self.endless:
            return self._result(message, {"tasks": [], "nextCursor": "again"})
        if "cursor" in message["params"]:
            return self._result(message, {"tasks": [self._task("completed") | {"taskId": "t-2"}]})
        return self._result(message, {"tasks": [self._task("working")], "nextCursor": "opaque"})

    def tasks_result(self, message: dict[str, Any]) -> Response:
        return self._stream(self._asking(message["id"]))

    async def _asking(self, request_id: int) -> AsyncIterator[str]:
        if not self.put:
            self.put = True
            yield _event({"jsonrpc": "2.0", "id": "q1", "method": "elicitation/create", "params": FORM})
        answer = await asyncio.shield(self.answer)
        text = answer["result"]["action"] + " " + str(answer["id"])
        yield _event({"jsonrpc": "2.0", "id": request_id, "result": {"content": [{"type": "text", "text": text}]}})

    async def _answered(self, request_id: int, *, resumed: bool = False) -> AsyncIterator[str]:
        if self.breaks_streams and not resumed:
            self.breaks_streams -= 1
            yield "id: e1\nretry: 10\ndata:\n\n"
            return
        if self.hangs:
            yield ": keep-alive\n\n"
            await self.answer
        if self.asks:
            yield _event({"jsonrpc": "2.0", "id": "q1", "method": "elicitation/create", "params": FORM})
            await asyncio.shield(self.answer)
        yield _event({"jsonrpc": "2.0", "id": request_id, "result": {"content": [{"type": "text", "text": "ok"}]}})

    def _stream(self, events: AsyncIterator[str]) -> Response:
        return StreamingResponse(events, media_type="text/event-stream")

    def _task(self, status: str) -> dict[str, Any]:
        moment = "2026-01-01T00:00:00Z"
        return {
            "taskId": "t-1",
            "status": status,
            "createdAt": moment,
            "lastUpdatedAt": moment,
            "ttl": None,
            "pollInterval": 20,
        }

    def _result(self, message: dict[str, Any], result: Any, headers: dict[str, str] | None = None) -> Response:
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers)

    def _error(self, message: dict[str, Any], code: int, text: str) -> Response:
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": text}})


def _event(message: dict[str, Any]) -> str:
    return f"event: message\ndata: {json.dumps(message)}\n\n"


@asynccontextmanager
async def old_server() -> AsyncIterator[tuple[OldServer, str]]:
    server = OldServer()
    async with front_end(server.app) as running:
        try:
            yield server, running.url
        finally:
            if not server.answer.done():
                server.answer.set_result({"id": None, "result": {"action": "late"}})


def _accept(_question: Question) -> dict[str, Any]:
    return {"action": "accept", "content": {}}


async def test_the_handshake_is_fallen_back_to_and_the_session_is_ended() -> None:
    async with old_server() as (server, url):
        async with Client(url) as client:
            assert await client.revision() == LEGACY
            assert (await client.call("job", on_question=_accept)).text == "accept q1"
        assert server.methods[:3] == ["server/discover", "initialize", "notifications/initialized"]
        assert server.deleted == ["s-0"]


async def test_a_question_that_is_put_only_once_is_answered_later_too() -> None:
    async with old_server() as (server, url):
        async with Client(url) as client:
            outcome = await client.call("job")
            assert outcome.status is Status.INPUT_REQUIRED
            await client.answer("t-1", {outcome.questions[0].key: {"action": "decline"}})
            assert (await client.wait("t-1")).text == "decline q1"
            with pytest.raises(RemoteError, match="does not ask other"):
                await client.answer("t-1", {"other": {}})
        cancelled = [note for note in server.notes if note.get("method") == "notifications/cancelled"]
        assert cancelled  # streams that nobody reads any more


async def test_a_session_with_an_open_task_is_not_ended() -> None:
    async with old_server() as (server, url):
        async with Client(url) as client:
            assert (await client.call("job")).task_id == "t-1"
        assert server.deleted == []


async def test_a_forgotten_session_is_begun_again_without_a_second_call() -> None:
    async with old_server() as (server, url), Client(url) as client:
        await client.list_tools()
        server.forgets_sessions = 1
        assert (await client.submit("job")).id == "t-1"
        assert len(server.sessions) == 2
        assert server.calls == 1
        server.forgets_sessions = 5
        with pytest.raises(ServerUnreachable, match="404"):
            await client.get("t-1")


async def test_an_answer_outlives_the_session_that_was_asked() -> None:
    async with old_server() as (server, url), Client(url) as client:
        outcome = await client.call("job")
        server.forgets_sessions, server.put = 1, False
        await client.answer("t-1", {outcome.questions[0].key: {"action": "decline"}})
        assert len(server.sessions) == 2
        assert (await client.wait("t-1")).text == "decline q1"


async def test_what_a_plain_call_asks_is_answered_in_the_session_it_was_sent_in() -> None:
    """L-SESS-13: the session that the client knew is forgotten, and the call was sent in another."""
    async with old_server() as (server, url):
        server.support = server.listed = "forbidden"
        server.asks = True
        async with Client(url, revision=LEGACY) as client:
            await client.list_tools()
            server.forgets_sessions = 1
            assert (await client.call("job", on_question=_accept)).text == "ok"
        assert server.answered_in == "s-1"


async def test_a_stream_that_ends_before_the_answer_is_taken_up_again() -> None:
    async with old_server() as (server, url):
        server.support = server.listed = "forbidden"
        server.breaks_streams = 1
        async with Client(url, revision=LEGACY) as client:
            await client.list_tools()
            assert (await client.call("job")).text == "ok"
        assert (server.calls, server.breaks_streams) == (1, 0)


async def test_a_tool_that_changed_its_mind_since_it_was_listed_is_listed_again() -> None:
    async with old_server() as (server, url):
        server.support, server.listed = "forbidden", "required"
        async with Client(url) as client:
            await client.list_tools()
            assert (await client.call("job")).text == "ok"
        assert server.methods.count("tools/list") == 2


async def test_a_plain_call_that_is_given_up_is_cancelled_and_the_client_goes_on() -> None:
    async with old_server() as (server, url):
        server.support = server.listed = "forbidden"
        server.hangs = True
        async with Client(url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.call("job")
            (cancelled,) = [note for note in server.notes if note["method"] == "notifications/cancelled"]
            assert cancelled["params"]["requestId"] == server.last_call
            assert [tool["name"] for tool in await client.list_tools()] == ["job"]


async def test_tasks_are_listed_page_by_page() -> None:
    async with old_server() as (_, url), Client(url) as client:
        tasks = await client.list_tasks()
        assert tasks is not None
        assert [task.id for task in tasks] == ["t-1", "t-2"]


async def test_a_list_of_tasks_without_an_end_is_an_error() -> None:
    async with old_server() as (server, url), Client(url) as client:
        server.endless = True
        with pytest.raises(ServerUnreachable, match="never ends"):
            await client.list_tasks()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (PlainTextResponse("away", 503), "HTTP 503 away"),
        (JSONResponse({"error": "invalid_token"}, 401), "HTTP 401 \\(it wants a token"),
        (PlainTextResponse("Not Found", 404), "HTTP 404"),
        (PlainTextResponse("{", 200, media_type="application/json"), "not JSON-RPC"),
        (PlainTextResponse("data: {\n\n", 200, media_type="text/event-stream"), "not JSON-RPC"),
        (JSONResponse({"jsonrpc": "2.0", "id": 1, "result": 7}), "no object"),
        (
            JSONResponse(
                {"jsonrpc": "2.0", "id": 1, "error": {"code": -32022, "message": "x", "data": {"supported": ["2099"]}}}
            ),
            "it speaks 2099",
        ),
    ],
)
async def test_what_is_no_answer_is_one_clear_error(answer: Response, said: str) -> None:
    async def serve(_request: Request) -> Response:
        return answer

    app = Starlette(routes=[Route("/mcp", serve, methods=["GET", "POST"])])
    async with front_end(app) as running, Client(running.url.replace("//", "//user:s3cr3t@") + "?k=s3cr3t") as client:
        with pytest.raises(ServerUnreachable, match=said) as caught:
            await client.list_tools()
    assert "s3cr3t" not in str(caught.value)
