"""Calls that are handed in, followed by stream or by polls, and resumed by id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from taskengine.client import Client, QuestionFirst, RemoteError, ServerUnreachable, listening
from taskengine.lifecycle import Status

TASK = {"taskId": "tsk_1", "createdAt": "x", "lastUpdatedAt": "x", "ttlMs": 1000, "pollIntervalMs": 1}
FORM = {"method": "elicitation/create", "params": {"message": "Sure?", "requestedSchema": {"type": "object"}}}
DONE = {"status": "completed", "result": {"content": [{"type": "text", "text": "done"}]}, **TASK}
Answer = dict[str, Any] | httpx2.Response | Exception


class Server:
    """Answers by method, from a list each; the last answer is repeated."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers = answers
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        self.requests.append(request)
        left = self.answers[body["method"].partition("/")[2]]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return answer
        member = "error" if "code" in answer else "result"
        return httpx2.Response(200, json={"jsonrpc": "2.0", "id": body["id"], member: answer})

    @property
    def methods(self) -> list[str]:
        return [body["method"].partition("/")[2] for body in self.bodies]

    def client(self, **options: Any) -> Client:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        return Client(
            "http://server/mcp", http=http, **{"revision": "2026-07-28", "listen_after": timedelta(0), **options}
        )


def stream(*messages: dict[str, Any], honoured: bool = True) -> httpx2.Response:
    first = {
        "method": "notifications/subscriptions/acknowledged",
        "params": {"notifications": {"taskIds": ["tsk_1"] if honoured else []}},
    }
    whole = [first, *({"method": "notifications/tasks", "params": message} for message in messages)]
    text = "".join(f"data: {json.dumps({'jsonrpc': '2.0', **message})}\n\n" for message in whole)
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=text)


def working(message: str) -> dict[str, Any]:
    return {"status": "working", "statusMessage": message, **TASK}


NO_STREAM: dict[str, Any] = {"code": -32601, "message": "Method not found"}
CREATED = {"resultType": "task", **working("begun")}


async def test_a_task_handed_in_is_followed_by_a_stream() -> None:
    server = Server(call=[CREATED], listen=[stream(working("half"), DONE)], get=[working("read")])
    async with server.client() as client:
        task = await client.submit("long")
        seen = [change.message or change.status.value async for change in task]
    assert task.id == "tsk_1"
    assert seen == ["read", "half", "completed"]
    assert server.methods == ["call", "listen", "get"]
    capabilities = server.bodies[0]["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]
    assert capabilities["elicitation"] == {}  # its questions can be answered later


async def test_without_streams_it_is_polled_and_never_asked_for_one_again() -> None:
    server = Server(call=[CREATED], listen=[NO_STREAM], get=[working("half"), DONE])
    async with server.client() as client:
        task = await client.submit("long")
        assert (await task.wait()).text == "done"
    assert server.methods == ["call", "listen", "get", "get"]


async def test_a_stream_that_breaks_is_followed_by_polls() -> None:
    server = Server(call=[CREATED], listen=[stream(working("half"))], get=[working("read"), working("again"), DONE])
    async with server.client() as client:
        assert (await (await client.submit("long")).result()).text == "done"
    assert server.methods == ["call", "listen", "get", "get", "get"]


async def test_a_task_that_is_not_honoured_on_a_stream_is_polled() -> None:
    server = Server(listen=[stream(honoured=False)], get=[working("half"), DONE])
    async with server.client() as client:
        assert (await client.task("tsk_1").wait()).text == "done"


async def _silence() -> AsyncIterator[bytes]:
    yield b": keep-alive\n\n"
    await asyncio.sleep(3600)


async def _silence_after(*messages: dict[str, Any]) -> AsyncIterator[bytes]:
    yield stream(*messages).content
    await asyncio.sleep(3600)


def _streaming(content: AsyncIterator[bytes]) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=content)


async def test_a_stream_that_is_held_back_on_its_way_is_given_up_for_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "FIRST_S", 0.05)
    server = Server(call=[CREATED], listen=[_streaming(_silence())], get=[working("half"), DONE])
    async with server.client() as client:
        before = asyncio.all_tasks()
        assert (await (await client.submit("long")).result()).text == "done"
        assert asyncio.all_tasks() == before
    assert server.methods == ["call", "listen", "get", "get"]


async def test_a_stream_that_lost_something_is_checked_by_a_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LOOK_AGAIN_S", 0.05)
    server = Server(call=[CREATED], listen=[_streaming(_silence_after(working("half")))], get=[working("read"), DONE])
    async with server.client() as client:
        seen = [change.message or change.status.value async for change in await client.submit("long")]
    assert seen == ["read", "half", "completed"]


async def test_streams_that_tell_nothing_are_tried_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "SHORTEST_STREAM_S", 0.02)
    refused = {"code": -32602, "message": "Not this one"}
    server = Server(call=[CREATED], listen=[refused], get=[working("half")] * 300 + [DONE])
    async with server.client() as client:
        assert (await (await client.submit("long")).result()).text == "done"
    assert 1 <= server.methods.count("listen") < 12


async def test_a_task_that_was_created_as_ended_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "FIRST_S", 0.05)
    server = Server(call=[{"resultType": "task", "status": "completed", **TASK}], get=[DONE])
    async with server.client() as client:
        assert (await client.call("long")).text == "done"
    assert server.methods == ["call", "get"]


@pytest.mark.parametrize(
    "odd",
    [
        {"taskId": "tsk_1"},
        {"status": "working"},
        {"taskId": "tsk_1", "status": "paused"},
        {"taskId": "tsk_1", "status": "input_required", "inputRequests": ["q"]},
        {"taskId": "tsk_1", "status": "input_required", "inputRequests": {"q": {}}},
    ],
)
async def test_a_task_that_is_none_is_one_clear_error(odd: dict[str, Any]) -> None:
    server = Server(get=[odd])
    async with server.client(patience=timedelta(0)) as client:
        with pytest.raises(ServerUnreachable, match="it speaks of"):
            await client.get("tsk_1")


async def test_a_task_is_resumed_by_its_id_answered_and_cancelled() -> None:
    asking = {"status": "input_required", "inputRequests": {"q": FORM}, **TASK}
    server = Server(get=[asking], update=[{"resultType": "complete"}], cancel=[{"resultType": "complete"}])
    async with server.client() as client:
        task = client.task("tsk_1")
        assert (await task.status()).status is Status.INPUT_REQUIRED
        outcome = await task.wait()
        assert [question.key for question in outcome.questions] == ["q"]
        await task.answer({"q": {"action": "decline"}})
        await task.cancel()
    assert server.bodies[-2]["params"]["inputResponses"] == {"q": {"action": "decline"}}
    assert server.requests[-1].headers["mcp-name"] == "tsk_1"


async def test_a_wait_can_end_before_its_task() -> None:
    server = Server(listen=[NO_STREAM], get=[working("for ever")])
    async with server.client() as client:
        with pytest.raises(TimeoutError):
            await client.task("tsk_1").wait(timeout=timedelta(milliseconds=50))


async def test_a_call_that_was_quick_is_a_task_that_has_ended() -> None:
    server = Server(call=[{"resultType": "complete", "content": [{"type": "text", "text": "hi"}]}])
    async with server.client() as client:
        task = await client.submit("quick")
        assert task.id is None
        assert (await task.status()).status is Status.COMPLETED
        assert (await task.result()).text == "hi"
        assert [change.status async for change in task] == [Status.COMPLETED]


async def test_what_is_asked_before_the_task_needs_somebody_to_answer() -> None:
    asking = {"resultType": "input_required", "inputRequests": {"q": FORM}, "requestState": "s"}
    server = Server(call=[asking, asking, CREATED])
    async with server.client() as client:
        with pytest.raises(QuestionFirst, match=r"Sure\?"):
            await client.submit("ask")
        assert (await client.submit("ask", on_question=lambda _: {"action": "decline"})).id == "tsk_1"


async def test_a_failed_task_raises_its_error() -> None:
    failed = {"status": "failed", "error": {"code": 7, "message": "no"}, **TASK}
    server = Server(listen=[NO_STREAM], get=[failed])
    async with server.client() as client:
        with pytest.raises(RemoteError) as caught:
            await client.task("tsk_1").result()
    assert caught.value.task_id == "tsk_1"


async def test_a_task_is_no_answer_to_anything_but_a_call() -> None:
    server = Server(list=[CREATED])
    async with server.client() as client:
        with pytest.raises(ServerUnreachable, match="no answer to tools/list"):
            await client.list_tools()


async def _renewed() -> str:
    await asyncio.sleep(0)
    return "second"


@pytest.mark.parametrize(("auth", "header"), [("first", "Bearer first"), (_renewed, "Bearer second")])
async def test_each_request_carries_the_token(auth: str | Callable[[], Any], header: str) -> None:
    server = Server(get=[DONE])
    async with server.client(auth=auth) as client:
        await client.get("tsk_1")
    assert server.requests[0].headers["authorization"] == header
