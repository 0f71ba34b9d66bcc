"""The four tools of the engine itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.bridge.tools import engine
from tests.server.peer import Hands, Peer, Reply, accept


async def begin(peer: Peer, tool: str = "impatient", **arguments: Any) -> str:
    """The id that a call past its bound gives."""
    reply = await peer.call(tool, arguments or None)
    task_id: str = reply.result["structuredContent"]["task_id"]
    return task_id


async def wait(peer: Peer, task_id: str, **rest: Any) -> Reply:
    return await peer.call("task_wait", {"task_id": task_id}, **rest)


def is_error(reply: Reply) -> bool:
    return bool(reply.result.get("isError", False))


async def test_a_wait_gives_the_result_of_the_tool_as_it_is(peer: Peer, hands: Hands) -> None:
    task_id = await begin(peer, "report", n=7)
    waiting = asyncio.create_task(wait(peer, task_id))
    await hands.run(engine)
    reply = await waiting
    assert reply.result["structuredContent"] == {"pages": 7}
    assert (await wait(peer, task_id)).result == reply.result, "and gives it again"


async def test_a_wait_ends_with_the_state_when_the_bound_has_passed(peer: Peer, hands: Hands) -> None:
    task_id = await begin(peer)
    await hands.progress(await hands.take(), 3, 7)
    reply = await wait(peer, task_id)
    state = reply.result["structuredContent"]
    assert (state["status"], state["progress"], state["total"]) == ("working", 3, 7)
    assert state["next"] == "task_wait"
    assert "(at 3)" in reply.text


async def test_a_wait_reports_progress_where_a_token_was_given(peer: Peer, hands: Hands) -> None:
    task_id = await begin(peer)
    claim = await hands.take()
    waiting = asyncio.create_task(wait(peer, task_id, meta={"progressToken": 1}))
    await asyncio.sleep(0.15)
    await hands.progress(claim, 1, 2)
    await asyncio.sleep(0.1)
    await hands.complete(claim, "end")
    reply = await waiting
    assert [note["params"]["progress"] for note in reply.notifications] == [1]
    assert reply.text == "end"


async def test_a_wait_tells_of_every_end(peer: Peer, hands: Hands) -> None:
    failed, cancelled, wrong = [await begin(peer) for _ in range(3)]
    await hands.fail(await hands.take(), 1234, "Not today")
    await peer.cancel(cancelled)
    await hands.complete(await hands.take(), "no such file", is_error=True)
    for task_id, says in ((failed, "Not today (1234)"), (cancelled, "cancelled"), (wrong, "no such file")):
        reply = await wait(peer, task_id)
        assert is_error(reply)
        assert says in reply.text


async def test_all_kinds_of_questions_are_told_and_answered(peer: Peer, hands: Hands) -> None:
    everything: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
    calling = asyncio.create_task(peer.call("interview", capabilities=everything))
    await asyncio.sleep(0.6)
    task_id = (await calling).result["structuredContent"]["task_id"]
    await hands.run(engine)
    asked = await wait(peer, task_id)
    assert set(asked.result["structuredContent"]["questions"]) == {"name", "move", "page", "poem", "folders"}
    assert "https://example.org/" in asked.text
    answers: dict[str, Any] = {
        "name": accept(name="Ann"),
        "move": {"action": "accept"},
        "page": "accept",
        "poem": "Roses",
    }
    half = await peer.call("task_answer", {"task_id": task_id, "answers": answers})
    assert set(half.result["structuredContent"]["questions"]) == {"folders"}
    rest = await peer.call("task_answer", {"task_id": task_id, "answers": {"folders": ["file:///home"]}})
    assert rest.result["structuredContent"]["next"] == "task_wait"
    await hands.run(engine)
    assert (await wait(peer, task_id)).text == "Ann, accept, accept, Roses, 1"


@pytest.mark.parametrize("decision", ["decline", "cancel"])
async def test_a_question_can_be_declined_in_one_word(peer: Peer, hands: Hands, decision: str) -> None:
    calling = asyncio.create_task(peer.call("confirm"))
    await hands.run(engine)
    task_id = (await calling).result["structuredContent"]["task_id"]
    await peer.call("task_answer", {"task_id": task_id, "answers": {"sure": decision}})
    await hands.run(engine)
    assert (await wait(peer, task_id)).text == f"{decision} None"


async def test_an_answer_that_cannot_be_taken_says_why_and_changes_nothing(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("confirm"))
    await hands.run(engine)
    task_id = (await calling).result["structuredContent"]["task_id"]
    wrong: list[tuple[Any, str]] = [
        ({"sure": {"ok": "maybe"}}, "must be"),
        ({"sure": {}}, "missing"),
        ({"sure": "yes"}, "accept"),
        ({"sure": 5}, "give a result object"),
        ({"other": {"ok": True}}, "open questions: sure"),
        ({}, "open questions: sure"),
    ]
    for answers, says in wrong:
        reply = await peer.call("task_answer", {"task_id": task_id, "answers": answers})
        assert is_error(reply)
        assert says in reply.text, reply.text
    assert (await wait(peer, task_id)).result["structuredContent"]["status"] == "input_required"


async def test_a_tool_without_the_bridge_takes_no_answer_from_a_model(peer: Peer, hands: Hands) -> None:
    task_id = (await peer.call("consent", tasks=True, capabilities={"elicitation": {}})).result["taskId"]
    await hands.run(engine)
    reply = await peer.call("task_answer", {"task_id": task_id, "answers": {"sure": {"ok": True}}})
    assert is_error(reply)
    assert "from a person" in reply.text
    assert (await peer.get(task_id)).result["status"] == "input_required"


async def test_cancel_stops_a_task_and_leaves_an_ended_one_alone(peer: Peer, hands: Hands) -> None:
    task_id = await begin(peer)
    reply = await peer.call("task_cancel", {"task_id": task_id})
    assert not is_error(reply)
    assert reply.result["structuredContent"]["status"] == "cancelled"
    ended = await begin(peer)
    await hands.run(engine)
    reply = await peer.call("task_cancel", {"task_id": ended})
    assert "ended before (completed)" in reply.text
    assert (await wait(peer, ended)).text == "later"


async def test_the_list_finds_what_was_lost(peer: Peer, hands: Hands) -> None:
    assert (await peer.call("task_list")).result["structuredContent"] == {"tasks": []}
    first, second = await begin(peer), await begin(peer, "report")
    await hands.run(engine)
    reply = await peer.call("task_list")
    found = reply.result["structuredContent"]["tasks"]
    assert [(task["task_id"], task["tool"], task["status"]) for task in found] == [
        (second, "report", "working"),
        (first, "impatient", "completed"),
    ]
    assert f"{second} report: working" in reply.text


async def test_a_long_list_is_cut_and_says_so(peer: Peer, hands: Hands) -> None:
    for _ in range(21):
        await begin(peer)
    reply = await peer.call("task_list")
    assert len(reply.result["structuredContent"]["tasks"]) == 20
    assert "more" in reply.text


@pytest.mark.parametrize("tool", ["task_wait", "task_answer", "task_cancel"])
async def test_an_unknown_task_and_wrong_arguments_are_results_a_model_can_act_on(peer: Peer, tool: str) -> None:
    more = {"answers": {"a": "accept"}} if tool == "task_answer" else {}
    unknown = await peer.call(tool, {"task_id": "tsk_nothere", **more})
    assert is_error(unknown)
    assert "Check the task_id" in unknown.text
    missing = await peer.call(tool, {"id": 5})
    assert is_error(missing)
    assert "`task_id` is missing" in missing.text


async def test_the_tools_serve_tasks_of_clients_that_know_them(peer: Peer, hands: Hands) -> None:
    task_id = (await peer.call("job", tasks=True)).result["taskId"]
    await hands.run(engine)
    assert (await wait(peer, task_id)).text == "did 1"
    bridged = await begin(peer)
    await hands.run(engine)
    assert (await peer.get(bridged)).result["status"] == "completed"
