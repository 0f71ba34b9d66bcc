"""The client against a scripted server: what it sends, and what it makes of each shape of answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from taskengine.client import Client, Progress, Remote, RemoteError, ServerUnreachable
from taskengine.client.modern import header_value
from taskengine.client.results import without_secrets
from taskengine.lifecycle import Status
from taskengine.records import Question

Script = Callable[[httpx2.Request, dict[str, Any]], httpx2.Response]
TASK = {"taskId": "tsk_1", "createdAt": "x", "lastUpdatedAt": "x", "ttlMs": 1000, "pollIntervalMs": 1}
FORM = {"method": "elicitation/create", "params": {"message": "Sure?", "requestedSchema": {"type": "object"}}}


class Server:
    """Answers request after request from a list, and keeps what it got."""

    def __init__(self, *answers: dict[str, Any] | Exception | httpx2.Response) -> None:
        self.answers = iter(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return answer
        member = "error" if "code" in answer else "result"
        return httpx2.Response(200, json={"jsonrpc": "2.0", "id": self.body(-1)["id"], member: answer})

    def body(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.requests[index].content)
        return found

    @property
    def methods(self) -> list[str]:
        return [self.body(index)["method"] for index in range(len(self.requests))]

    def client(self, **options: Any) -> Client:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        return Client("http://server/mcp", http=http, **{"revision": "2026-07-28", **options})


def sse(*messages: dict[str, Any]) -> httpx2.Response:
    text = ": keep-alive\n\n" + "".join(f"event: message\ndata: {json.dumps(message)}\n\n" for message in messages)
    return httpx2.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, text=text)


def _complete(text: str) -> dict[str, Any]:
    return {"resultType": "complete", "content": [{"type": "text", "text": text}]}


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have slept, each time."""
    pauses: list[float] = []
    yield_once = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await yield_once(0)

    monkeypatch.setattr("taskengine.client.client.asyncio.sleep", sleep)
    return pauses


async def test_every_request_carries_the_envelope_and_the_headers_of_the_revision() -> None:
    server = Server(_complete("hi"))
    async with server.client() as client:
        outcome = await client.call("greet", {"name": "Ada"})
    request, body = server.requests[0], server.body(0)
    assert outcome.text == "hi"
    assert request.headers["mcp-protocol-version"] == "2026-07-28"
    assert request.headers["mcp-method"] == "tools/call"
    assert request.headers["mcp-name"] == "greet"
    assert request.headers["accept"] == "application/json, text/event-stream"
    meta = body["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert meta["io.modelcontextprotocol/clientInfo"]["name"]
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {
        "elicitation": {},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    }
    assert body["params"]["arguments"] == {"name": "Ada"}


async def test_without_tasks_the_extension_is_not_declared() -> None:
    server = Server(_complete("hi"))
    async with server.client(tasks=False, capabilities={}) as client:
        await client.call("greet")
    assert server.body(0)["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {}


async def test_request_ids_are_never_used_twice() -> None:
    server = Server(_complete("1"), _complete("2"))
    async with server.client() as client:
        await client.call("a")
        await client.call("a")
    assert server.body(0)["id"] != server.body(1)["id"]


async def test_a_task_is_polled_at_its_interval_until_it_ends(pauses: list[float]) -> None:
    server = Server(
        {"resultType": "task", "status": "working", **TASK, "pollIntervalMs": 250},
        {"resultType": "complete", "status": "working", "statusMessage": "half", **TASK, "pollIntervalMs": 700},
        {"resultType": "complete", "status": "completed", "result": _complete("done"), **TASK},
    )
    tasks: list[Remote] = []
    told: list[Progress] = []
    async with server.client() as client:
        outcome = await client.call("long", on_task=tasks.append, on_progress=told.append)
    assert (outcome.status, outcome.text, outcome.task_id) == (Status.COMPLETED, "done", "tsk_1")
    assert [task.id for task in tasks] == ["tsk_1"]
    assert [progress.message for progress in told] == ["half"]
    assert server.methods == ["tools/call", "tasks/get", "tasks/get"]
    assert server.requests[1].headers["mcp-name"] == "tsk_1"
    assert pauses == [0.25, 0.7]


async def test_a_failed_task_raises_its_error_with_its_id() -> None:
    error = {"code": -32021, "message": "no", "data": {"a": 1}}
    server = Server(
        {"resultType": "task", "status": "working", **TASK},
        {"resultType": "complete", "status": "failed", "error": error, **TASK},
    )
    async with server.client() as client:
        with pytest.raises(RemoteError) as caught:
            await client.call("long")
    assert (caught.value.code, caught.value.data, caught.value.task_id) == (-32021, {"a": 1}, "tsk_1")


async def test_a_cancelled_task_is_an_outcome() -> None:
    server = Server({"resultType": "complete", "status": "cancelled", **TASK})
    async with server.client() as client:
        outcome = await client.wait("tsk_1")
    assert outcome.status is Status.CANCELLED
    assert outcome.text == ""


async def test_a_question_of_a_task_is_answered_once_and_polling_goes_on() -> None:
    asking = {"resultType": "complete", "status": "input_required", "inputRequests": {"q-1": FORM}, **TASK}
    server = Server(
        {"resultType": "task", "status": "working", **TASK},
        asking,
        {"resultType": "complete"},
        asking,  # the acknowledgement may come before the change is seen (M-TASK-48)
        {"resultType": "complete", "status": "completed", "result": _complete("ok"), **TASK},
    )
    asked: list[Question] = []

    async def answer(question: Question) -> dict[str, Any]:
        asked.append(question)
        return {"action": "accept", "content": {}}

    async with server.client() as client:
        outcome = await client.call("ask", on_question=answer)
    assert outcome.text == "ok"
    assert [question.key for question in asked] == ["q-1"]
    assert server.methods == ["tools/call", "tasks/get", "tasks/update", "tasks/get", "tasks/get"]
    assert server.body(2)["params"]["inputResponses"] == {"q-1": {"action": "accept", "content": {}}}
    capabilities = server.body(0)["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]
    assert capabilities["elicitation"] == {}


async def test_without_somebody_to_ask_the_open_questions_come_back() -> None:
    server = Server({"resultType": "complete", "status": "input_required", "inputRequests": {"q": FORM}, **TASK})
    async with server.client() as client:
        outcome = await client.wait("tsk_1")
    assert outcome.status is Status.INPUT_REQUIRED
    assert [question.key for question in outcome.questions] == ["q"]


async def test_an_input_required_call_is_retried_with_its_state_unchanged_and_only_then() -> None:
    server = Server(
        {"resultType": "input_required", "inputRequests": {"a": FORM}, "requestState": "s1"},
        {"resultType": "input_required", "inputRequests": {"b": FORM}},
        _complete("done"),
    )
    async with server.client() as client:
        outcome = await client.call("ask", {"x": 1}, on_question=lambda question: {"action": "decline"})
    assert outcome.text == "done"
    assert server.body(1)["params"]["requestState"] == "s1"
    assert server.body(1)["params"]["inputResponses"] == {"a": {"action": "decline"}}
    assert server.body(1)["params"]["arguments"] == {"x": 1}
    assert "requestState" not in server.body(2)["params"]
    assert server.body(2)["params"]["inputResponses"] == {"b": {"action": "decline"}}


async def test_progress_on_the_stream_of_a_call_is_told() -> None:
    progress = {"progressToken": "t", "progress": 1, "total": 2, "message": "half"}
    server = Server(
        sse(
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": progress},
            {"jsonrpc": "2.0", "id": 1, "result": _complete("streamed")},
        )
    )
    told: list[Progress] = []

    async def show(progress: Progress) -> None:
        told.append(progress)

    async with server.client() as client:
        outcome = await client.call("quick", on_progress=show)
    assert outcome.text == "streamed"
    assert told == [Progress("half", 1, 2)]
    assert "progressToken" in server.body(0)["params"]["_meta"]


async def test_a_stream_that_breaks_before_the_answer_is_no_answer() -> None:
    server = Server(sse())
    async with server.client() as client:
        with pytest.raises(ServerUnreachable, match="stream ended"):
            await client.call("quick")


async def test_what_is_not_mcp_is_said_with_its_status() -> None:
    server = Server(httpx2.Response(502, text="Bad Gateway"), httpx2.Response(200, json=[1]))
    async with server.client() as client:
        with pytest.raises(ServerUnreachable, match="HTTP 502 Bad Gateway"):
            await client.discover()
        with pytest.raises(ServerUnreachable, match="not JSON-RPC"):
            await client.discover()


async def test_a_server_that_is_away_for_a_while_does_not_end_the_wait() -> None:
    server = Server(
        httpx2.ConnectError("refused"),
        httpx2.Response(503, text="starting"),
        {"code": -32603, "message": "database away"},
        {"resultType": "complete", "status": "completed", "result": _complete("there"), **TASK},
    )
    async with server.client() as client:
        assert (await client.wait("tsk_1")).text == "there"


async def test_patience_ends() -> None:
    server = Server(*[httpx2.ConnectError("refused")] * 3)
    async with server.client(patience=timedelta(0)) as client:
        with pytest.raises(ServerUnreachable):
            await client.wait("tsk_1")


async def test_an_unknown_task_ends_the_wait_at_once() -> None:
    server = Server({"code": -32602, "message": "Unknown or expired task"})
    async with server.client() as client:
        with pytest.raises(RemoteError, match="Unknown or expired task"):
            await client.wait("tsk_1")


async def test_a_call_is_never_sent_again_by_itself() -> None:
    server = Server(httpx2.ReadError("reset"))
    async with server.client() as client:
        with pytest.raises(ServerUnreachable):
            await client.call("long")
    assert server.methods == ["tools/call"]


async def test_all_pages_of_the_tools_are_read_the_empty_cursor_included() -> None:
    server = Server({"tools": [{"name": "a"}], "nextCursor": ""}, {"tools": [{"name": "b"}]})
    async with server.client() as client:
        assert [tool["name"] for tool in await client.list_tools()] == ["a", "b"]
    assert server.body(1)["params"]["cursor"] == ""


async def test_a_list_without_an_end_is_an_error() -> None:
    """Some servers give the empty cursor, which is one (M-PAGE-04), with their last page."""
    server = Server(*({"tools": [], "nextCursor": cursor} for cursor in ("", "a", "a", "a")))
    async with server.client() as client:
        with pytest.raises(ServerUnreachable, match="never ends"):
            await client.list_tools()


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cr3t@server:x/mcp",
        "http://user:s3cr3t/x@server/mcp",
        "http://user:s3cr3t?x@server/mcp",
        "http://user:x#s3cr3t@server/mcp",
    ],
)
async def test_an_address_that_is_none_is_not_repeated_with_its_password(url: str) -> None:
    async with Client(url, revision="2026-07-28") as client:
        with pytest.raises(ServerUnreachable) as caught:
            await client.list_tools()
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:pass@[::1]:80/mcp?key=x", "http://[::1]:80/mcp"),
        ("http://server/@me/mcp", "http://server/@me/mcp"),
        ("http://server:80x/mcp", "http://server:80x/mcp"),
        ("server/mcp?key=x", "server/mcp"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


async def test_arguments_a_tool_mirrors_go_into_headers_as_well() -> None:
    schema = {
        "properties": {
            "tenant": {"type": "string", "x-mcp-header": "Tenant"},
            "deep": {"properties": {"flag": {"type": "boolean", "x-mcp-header": "Flag"}}},
            "absent": {"type": "integer", "x-mcp-header": "Absent"},
        }
    }
    server = Server(
        {"code": -32020, "message": "header missing"},
        {"tools": [{"name": "t", "inputSchema": schema}]},
        _complete("ok"),
    )
    async with server.client() as client:
        outcome = await client.call("t", {"tenant": "Zürich", "deep": {"flag": True}})
    assert outcome.text == "ok"
    headers = server.requests[2].headers
    assert headers["mcp-param-tenant"] == "=?base64?WsO8cmljaA==?="
    assert headers["mcp-param-flag"] == "true"
    assert "mcp-param-absent" not in headers


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("plain", "plain"),
        ("two words", "two words"),
        (" edge", "=?base64?IGVkZ2U=?="),
        ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
        ("line\nbreak", "=?base64?bGluZQpicmVhaw==?="),
        ("", ""),
    ],
)
def test_values_that_a_header_cannot_carry_are_encoded(text: str, header: str) -> None:
    assert header_value(text) == header


async def test_giving_up_on_a_call_leaves_the_task_alone() -> None:
    server = Server({"resultType": "task", "status": "working", **TASK})
    async with server.client() as client:
        calling = asyncio.ensure_future(client.call("long", on_task=lambda _: calling.cancel()))
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert "tasks/cancel" not in server.methods
