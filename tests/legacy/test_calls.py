from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskengine.settings import Settings
from taskengine.store.tasks import Tasks
from tests.legacy.peer import ALL, FORMS, Peer, call_params, serving
from tests.legacy.tools import engine
from tests.server.peer import Hands, accept, form


async def tools(peer: Peer) -> dict[str, dict[str, Any]]:
    return {tool["name"]: tool for tool in (await peer.send("tools/list")).result["tools"]}


async def test_tools_say_whether_they_make_tasks(peer: Peer) -> None:
    """L-TOOL-26, X-TOOL-28, D-04. A required tool that is bridged can be called without a task too."""
    listed = await tools(peer)
    support = {name: listed[name]["execution"]["taskSupport"] for name in ("greet", "job", "bridged", "unbridged")}
    assert support == {"greet": "forbidden", "job": "optional", "bridged": "optional", "unbridged": "required"}


async def test_only_objects_are_structured_results(peer: Peer) -> None:
    """L-TOOL-13, L-TOOL-29, X-TOOL-15, A-40, D-47."""
    listed = await tools(peer)
    assert listed["point"]["outputSchema"]["type"] == "object"
    assert (await peer.call("point")).result["structuredContent"] == {"x": 1, "y": 2}
    assert "outputSchema" not in listed["add"]
    reply = await peer.call("add", {"a": 1, "b": 2})
    assert "structuredContent" not in reply.result
    assert reply.text == "3"


async def test_older_revisions_get_what_they_know(newcomer: Peer) -> None:
    await newcomer.initialize("2025-06-18")
    assert {"name", "description", "inputSchema", "outputSchema"} == set((await tools(newcomer))["point"])
    assert (await newcomer.call("point")).result["structuredContent"] == {"x": 1, "y": 2}
    await newcomer.initialize("2025-03-26")
    assert {"name", "description", "inputSchema"} == set((await tools(newcomer))["point"])
    assert "structuredContent" not in (await newcomer.call("point")).result
    assert (await newcomer.call("link")).result["content"] == [{"type": "text", "text": "https://example.org/page"}]


async def test_the_list_has_one_page(peer: Peer) -> None:
    """X-PAGE-01, X-PAGE-02."""
    assert "nextCursor" not in (await peer.send("tools/list", {})).result
    assert (await peer.send("tools/list", {"cursor": "x"})).refused == (200, -32602)


@pytest.mark.parametrize(
    "params", [{}, {"name": 1}, {"name": "nope"}, {"name": "greet", "arguments": []}, {"name": "job", "task": 1}]
)
async def test_malformed_calls_are_errors(peer: Peer, params: dict[str, Any]) -> None:
    """X-TOOL-19, X-TOOL-20."""
    assert (await peer.send("tools/call", params)).refused == (200, -32602)


async def test_arguments_that_do_not_fit_are_a_result(peer: Peer) -> None:
    """X-TOOL-21, A-22."""
    reply = await peer.call("add", {"a": "x"})
    assert reply.result["isError"] is True
    assert "add" in reply.text


async def test_what_a_tool_raises(peer: Peer) -> None:
    """X-TOOL-22, A-42."""
    assert (await peer.call("fail", {"kind": "tool"})).result["isError"] is True
    assert (await peer.call("fail", {"kind": "protocol"})).error == {
        "code": 1234,
        "message": "Not today",
        "data": {"why": "Sunday"},
    }
    assert (await peer.call("fail", {"kind": "reserved"})).refused == (200, -32603)


async def test_progress_precedes_the_result_on_the_stream(peer: Peer) -> None:
    """X-PROG-01, X-PROG-02, L-TRANS-10, L-TRANS-11, L-TRANS-07."""
    reply = await peer.call("steps", token="t")
    progress = [message["params"] for message in reply.messages if message.get("method") == "notifications/progress"]
    assert [step["progress"] for step in progress] == [0, 50, 100]
    assert {step["progressToken"] for step in progress} == {"t"}
    first = reply.events[0]
    assert first.message is None
    assert first.id is not None
    ids = [event.id for event in reply.events]
    assert len(set(ids)) == len(ids)


async def test_without_a_token_there_is_no_progress(peer: Peer) -> None:
    assert all(each.get("method") != "notifications/progress" for each in (await peer.call("steps")).messages)
    assert (await peer.call("steps", token=1.5)).refused == (200, -32602)


async def test_a_durable_tool_is_followed_on_the_stream_of_its_call(peer: Peer, hands: Hands) -> None:
    """L-TASK-07, D-07."""
    async with peer.stream("tools/call", call_params("job", token=9)) as stream:
        claim = await hands.take()
        await hands.progress(claim, 1, 4)
        assert (await stream.next())["params"] == {"progressToken": 9, "progress": 1, "total": 4, "message": "at 1"}
        await hands.store.attempts.log(claim, [{"level": "info", "logger": None, "data": '"a line"'}])
        assert (await stream.next())["params"] == {"level": "info", "data": "a line"}
        await hands.complete(claim, "there")
        result = (await stream.next())["result"]
    assert result == {"content": [{"type": "text", "text": "there"}]}


async def test_a_durable_tool_that_ends_with_an_error(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("job"))
    await hands.fail(await hands.take(), 77, "broke")
    assert (await calling).error == {"code": 77, "message": "broke"}


async def test_a_capability_that_is_missing_is_a_result(newcomer: Peer, hands: Hands) -> None:
    """L-CAP-13, A-42."""
    await newcomer.initialize(capabilities={"elicitation": {}})
    calling = asyncio.create_task(newcomer.call("plain_job"))
    await hands.fail(await hands.take(), -32021, "This call needs sampling", {"requiredCapabilities": {"sampling": {}}})
    reply = await calling
    assert reply.result["isError"] is True
    assert reply.text == "This call needs sampling"
    reply = await newcomer.call("ask_url")
    assert reply.result["isError"] is True


async def test_the_tasks_extension_of_2026_means_nothing_here(newcomer: Peer, hands: Hands) -> None:
    """X-SEL-11."""
    await newcomer.initialize(capabilities={"extensions": {"io.modelcontextprotocol/tasks": {}}})
    calling = asyncio.create_task(newcomer.call("plain_job"))
    await hands.complete(await hands.take(), "plain")
    assert (await calling).text == "plain"


async def test_a_question_goes_out_on_the_stream_of_the_call(peer: Peer, hands: Hands) -> None:
    """L-ELIC-30, D-21, D-22."""
    async with peer.stream("tools/call", call_params("confirm")) as stream:
        await hands.run(engine)
        question = await stream.next()
        assert question["method"] == "elicitation/create"
        assert "_meta" not in question["params"]
        assert (await peer.answer(question, accept(ok=True))).status == 202
        await hands.run(engine)
        assert (await stream.next())["result"]["content"][0]["text"] == "accept True"


async def test_past_the_bound_the_call_names_its_task(peer: Peer, hands: Hands) -> None:
    reply = await peer.call("short_wait")
    task_id = reply.result["structuredContent"]["task_id"]
    await hands.complete(await hands.take(), "done at last")
    assert (await peer.call("task_wait", {"task_id": task_id})).text == "done at last"


async def test_a_tool_that_is_a_task_at_once_never_holds_its_call(
    peer: Peer, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for a question either, that the task asks before the front end has looked at it for the first time."""
    create = Tasks.create

    async def asked_meanwhile(self: Tasks, *given: Any) -> Any:
        created = await create(self, *given)
        await hands.ask(await hands.take(), form("sure"))
        return created

    monkeypatch.setattr(Tasks, "create", asked_meanwhile)
    reply = await peer.call("at_once")
    assert reply.result["structuredContent"]["task_id"].startswith("tsk_")
    assert [message for message in reply.messages if "method" in message] == []


async def test_a_question_that_cannot_be_asked_here_ends_a_bridged_call(newcomer: Peer, hands: Hands) -> None:
    await newcomer.initialize()
    calling = asyncio.create_task(newcomer.call("confirm"))
    await hands.ask(await hands.take(), form("sure"))
    reply = await calling
    task_id = reply.result["structuredContent"]["task_id"]
    await newcomer.call("task_answer", {"task_id": task_id, "answers": {"sure": {"ok": True}}})
    assert (await hands.rows())[0].status == "working"


async def test_a_required_tool_without_a_bridge_must_be_called_as_a_task(peer: Peer, hands: Hands) -> None:
    """L-TASK-06, A-24, D-06."""
    assert (await peer.call("unbridged")).refused == (200, -32601)
    assert await hands.rows() == []
    assert await peer.begin("unbridged")


@pytest.mark.parametrize("tool", ["greet", "task_wait"])
async def test_a_tool_that_makes_no_tasks_cannot_be_called_as_one(peer: Peer, tool: str) -> None:
    """L-TASK-05, D-05."""
    assert (await peer.call(tool, task={})).refused == (200, -32601)


async def test_older_revisions_ignore_the_wish_for_a_task(newcomer: Peer) -> None:
    """L-TASK-03."""
    await newcomer.initialize("2025-06-18")
    assert (await newcomer.call("greet", task={})).text == "Hello, you!"


async def test_a_client_that_leaves_cancels_nothing(peer: Peer, hands: Hands) -> None:
    """L-TRANS-13, L-CANC-11, D-41."""
    async with peer.stream("tools/call", call_params("plain_job", token=1)) as stream:
        claim = await hands.take()
        await hands.progress(claim, 1)
        await stream.next()
    await asyncio.sleep(0.2)
    assert (await hands.rows())[0].status == "working"


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_call_can_be_cancelled_at_any_front_end(settings: Settings, hands: Hands, elsewhere: bool) -> None:
    """L-CANC-10, X-CANC-14, D-42."""
    async with serving(engine, settings) as peer, serving(engine, settings) as other:
        await peer.initialize(capabilities=ALL)
        other.session, other.version = peer.session, peer.version
        async with peer.stream("tools/call", call_params("plain_job", token=1)) as stream:
            await hands.progress(await hands.take(), 1)
            await stream.next()
            await (other if elsewhere else peer).notify("notifications/cancelled", {"requestId": stream.id})
            with pytest.raises(StopAsyncIteration):
                await stream.next()
        async with asyncio.timeout(3):
            while (await hands.rows())[0].status != "cancelled":
                await asyncio.sleep(0.02)


async def test_another_session_cannot_cancel_a_call(settings: Settings, hands: Hands) -> None:
    """X-CANC-14."""
    async with serving(engine, settings) as peer, serving(engine, settings) as other:
        await peer.initialize(capabilities=FORMS)
        await other.initialize(capabilities=FORMS)
        calling = asyncio.create_task(peer.call("plain_job"))
        claim = await hands.take()
        for request_id in range(5):
            await other.notify("notifications/cancelled", {"requestId": request_id})
        await hands.complete(claim, "whole")
        assert (await calling).text == "whole"


async def test_a_bridged_task_is_not_touched_by_the_end_of_its_request(peer: Peer, hands: Hands) -> None:
    async with peer.stream("tools/call", call_params("job", token=1)) as stream:
        await hands.progress(await hands.take(), 1)
        await stream.next()
        await peer.notify("notifications/cancelled", {"requestId": stream.id})
        with pytest.raises(StopAsyncIteration):
            await stream.next()
    await asyncio.sleep(0.2)
    assert (await hands.rows())[0].status == "working"
