"""Tools that run in the front end (requirements 1.12, 1.17, 1.18, 1.20 to 1.22)."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from taskengine.settings import Settings
from taskengine.wire import modern
from tests.server.peer import Hands, Peer, accept, methods, serving
from tests.server.tools import ended, engine

FORMS: dict[str, Any] = {"elicitation": {}}
EVERYTHING: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}
ADA = {"user_name": accept(name="Ada")}


async def test_a_forbidden_tool_answers_at_once_and_makes_no_row(peer: Peer, hands: Hands) -> None:
    for tasks in (False, True):
        reply = await peer.call("greet", {"name": "Ada"}, tasks=tasks, task={"ttl": 60000, "pollInterval": 100})
        assert reply.text == "Hello, Ada!"
        assert reply.result["resultType"] == "complete"
        assert "task" not in reply.result
    assert (await peer.call("greet")).text == "Hello, you!"
    assert (await peer.call("add", {"a": 1, "b": 2})).result["structuredContent"] == 3
    assert await hands.rows() == []


async def test_an_unknown_tool_and_malformed_params_are_invalid_params(peer: Peer) -> None:
    assert (await peer.call("nonsense")).refused == (400, -32602)
    assert (await peer.send("tools/call", {})).refused == (400, -32602)
    assert (await peer.send("tools/call", {"name": 5})).refused == (400, -32602)
    malformed: list[Any] = [[], "x", None, 5]
    for arguments in malformed:
        reply = await peer.send("tools/call", {"name": "greet", "arguments": arguments})
        assert reply.refused == (400, -32602)


async def test_arguments_that_do_not_fit_are_a_result_a_model_can_act_on(peer: Peer, hands: Hands) -> None:
    for tool, tasks in (("add", False), ("job", True), ("report", True), ("job", False)):
        reply = await peer.call(tool, {"a": "one", "n": "one"}, tasks=tasks)
        assert reply.status == 200
        assert reply.result["isError"] is True
        assert "integer" in reply.text
    assert await hands.rows() == []


async def test_each_way_to_fail_has_its_answer(peer: Peer) -> None:
    reply = await peer.call("fail", {"kind": "tool"})
    assert (reply.result["isError"], reply.text) == (True, "No such file")
    reply = await peer.call("fail", {"kind": "value"})
    assert (reply.result["isError"], reply.text) == (True, "ValueError: broken")
    reply = await peer.call("fail", {"kind": "protocol"})
    assert reply.status == 200
    assert reply.error == {"code": 1234, "message": "Not today", "data": {"why": "Sunday"}}
    assert (await peer.call("fail", {"kind": "reserved"})).refused == (200, -32603)


async def test_a_result_that_is_no_json_or_too_large_is_an_error_result(peer: Peer) -> None:
    assert "NaN" in (await peer.call("not_a_number")).text
    reply = await peer.call("large")
    assert reply.result["isError"] is True
    assert "max_result_bytes" in reply.text


async def test_a_tool_past_its_time_limit_is_stopped(peer: Peer) -> None:
    reply = await peer.call("slow_direct")
    assert reply.result["isError"] is True
    assert "100ms" in reply.text


@pytest.mark.parametrize("token", ["progress-test-1", 7])
async def test_progress_is_reported_to_who_gave_a_token(peer: Peer, token: str | int) -> None:
    for tool in ("steps", "sync_steps"):
        reply = await peer.call(tool, meta={"progressToken": token})
        assert reply.headers["content-type"] == "text/event-stream"
        assert reply.headers["x-accel-buffering"] == "no"
        assert methods(reply.notifications) == ["notifications/progress"] * 3
        assert [note["params"]["progress"] for note in reply.notifications] == [0, 50, 100]
        assert all(note["params"]["progressToken"] == token for note in reply.notifications)
        assert reply.result["resultType"] == "complete"


async def test_without_token_and_level_the_answer_is_plain_json(peer: Peer) -> None:
    for tool in ("steps", "sync_steps"):
        reply = await peer.call(tool)
        assert reply.headers["content-type"] == "application/json"
        assert reply.notifications == []


async def test_log_messages_go_to_who_asked_from_the_level_on(peer: Peer) -> None:
    reply = await peer.call("steps", meta={modern.LOG_LEVEL_KEY: "info"})
    assert methods(reply.notifications) == ["notifications/message"] * 3
    assert reply.notifications[0]["params"] == {"level": "info", "data": "info 0"}
    assert len((await peer.call("steps", meta={modern.LOG_LEVEL_KEY: "debug"})).notifications) == 6
    reply = await peer.call("sync_steps", meta={modern.LOG_LEVEL_KEY: "notice"})
    assert reply.notifications[0]["params"] == {"level": "warning", "data": {"step": 0}, "logger": "mine"}
    assert (await peer.call("steps", meta={modern.LOG_LEVEL_KEY: "loud"})).refused == (400, -32602)


async def test_a_long_call_is_kept_alive_by_comments(peer: Peer) -> None:
    reply = await peer.call("steps", {"pause": 0.3})
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.comments >= 1
    assert reply.text == "walked"


async def test_a_client_that_goes_away_cancels_its_call(peer: Peer) -> None:
    ended.clear()
    async with peer.stream("tools/call", {"name": "hang"}) as stream:
        await stream.comment()
    async with asyncio.timeout(3):
        while ended != ["hang"]:
            await asyncio.sleep(0.01)


# questions


async def test_a_question_is_asked_and_its_answer_taken_with_and_without_state(peer: Peer) -> None:
    asked = await peer.call("ask_name", capabilities=FORMS)
    assert asked.result["resultType"] == "input_required"
    assert asked.result["inputRequests"]["user_name"]["method"] == "elicitation/create"
    assert "taskId" not in asked.result
    state = asked.result["requestState"]
    assert (
        await peer.call("ask_name", capabilities=FORMS, inputResponses=ADA, requestState=state)
    ).text == "Hello, Ada!"
    extra = {**ADA, "unknown": {"x": 1}, "another": 5}
    assert (await peer.call("ask_name", capabilities=FORMS, inputResponses=extra)).text == "Hello, Ada!"
    declined = {"user_name": {"action": "decline"}}
    assert (await peer.call("ask_name", capabilities=FORMS, inputResponses=declined)).text == "They decline"


async def test_missing_or_misnamed_answers_are_asked_for_again(peer: Peer) -> None:
    for responses in ({}, {"wrong_key": accept(name="Ada")}):
        reply = await peer.call("ask_name", capabilities=FORMS, inputResponses=responses)
        assert set(reply.result["inputRequests"]) == {"user_name"}


@pytest.mark.parametrize(
    "responses", [None, [], "x", {"user_name": 12345}, {"user_name": {}}, {"user_name": {"action": "maybe"}},
                  {"user_name": {"action": "accept", "content": {}}},
                  {"user_name": {"action": "accept", "content": {"name": 5}}}],
)  # fmt: skip
async def test_answers_that_do_not_fit_are_refused(peer: Peer, responses: Any) -> None:
    reply = await peer.call("ask_name", capabilities=FORMS, inputResponses=responses)
    assert reply.refused == (400, -32602)


async def test_rounds_follow_each_other_with_answers_carried_by_the_state(peer: Peer) -> None:
    first = await peer.call("ask_twice", capabilities=FORMS)
    second = await peer.call(
        "ask_twice",
        capabilities=FORMS,
        inputResponses={"step1": accept(name="Ada")},
        requestState=first.result["requestState"],
    )
    assert set(second.result["inputRequests"]) == {"step2"}
    assert second.result["requestState"] != first.result["requestState"]
    assert "Ada" not in second.result["requestState"]
    third = await peer.call(
        "ask_twice",
        capabilities=FORMS,
        inputResponses={"step2": accept(color="red")},
        requestState=second.result["requestState"],
    )
    assert third.text == "Ada likes red (run 3)"


async def test_several_questions_are_asked_at_once_and_only_the_open_ones_again(peer: Peer) -> None:
    asked = await peer.call("ask_much", capabilities=EVERYTHING)
    assert {key: value["method"] for key, value in asked.result["inputRequests"].items()} == {
        "user_name": "elicitation/create",
        "greeting": "sampling/createMessage",
        "roots": "roots/list",
    }
    sample = {"role": "assistant", "content": {"type": "text", "text": "Hey"}, "model": "m"}
    again = await peer.call(
        "ask_much",
        capabilities=EVERYTHING,
        inputResponses={**ADA, "greeting": sample},
        requestState=asked.result["requestState"],
    )
    assert set(again.result["inputRequests"]) == {"roots"}
    reply = await peer.call(
        "ask_much",
        capabilities=EVERYTHING,
        inputResponses={"roots": {"roots": [{"uri": "file:///home"}]}},
        requestState=again.result["requestState"],
    )
    assert reply.text == "Ada, Hey, 1"


@pytest.mark.parametrize(
    ("tool", "capabilities", "missing"),
    [
        ("ask_name", {}, {"elicitation": {}}),
        ("ask_name", {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        ("ask_url", {"elicitation": {}}, {"elicitation": {"url": {}}}),
        ("ask_much", {"elicitation": {}}, {"sampling": {}, "roots": {}}),
    ],
)
async def test_what_the_client_did_not_declare_is_not_asked(
    peer: Peer, tool: str, capabilities: dict[str, Any], missing: dict[str, Any]
) -> None:
    reply = await peer.call(tool, capabilities=capabilities)
    assert reply.refused == (400, -32021)
    assert reply.error["data"]["requiredCapabilities"] == missing


async def test_a_state_that_was_changed_or_is_not_ours_is_refused(peer: Peer) -> None:
    state = (await peer.call("ask_name", capabilities=FORMS)).result["requestState"]
    for forged in (f"{state}-TAMPERED", state[:-4] + "AAA=", "", "ä", 5, None):
        reply = await peer.call("ask_name", capabilities=FORMS, inputResponses=ADA, requestState=forged)
        assert reply.refused == (400, -32602), forged


async def test_a_state_belongs_to_one_call(peer: Peer) -> None:
    state = (await peer.call("ask_name", capabilities=FORMS)).result["requestState"]
    reply = await peer.call("ask_twice", capabilities=FORMS, requestState=state)
    assert reply.refused == (400, -32602)
    assert "another call" in reply.error["message"]


async def test_a_state_expires(settings: Settings) -> None:
    async with serving(engine, settings.model_copy(update={"request_state_ttl": timedelta(seconds=1)})) as peer:
        state = (await peer.call("ask_name", capabilities=FORMS)).result["requestState"]
        await asyncio.sleep(2.1)
        reply = await peer.call("ask_name", capabilities=FORMS, inputResponses=ADA, requestState=state)
        assert reply.refused == (400, -32602)


async def test_any_front_end_serves_the_next_round_also_after_a_restart(settings: Settings) -> None:
    async with serving(engine, settings) as first:
        state = (await first.call("ask_name", capabilities=FORMS)).result["requestState"]
    async with serving(engine, settings) as second:
        reply = await second.call("ask_name", capabilities=FORMS, inputResponses=ADA, requestState=state)
        assert reply.text == "Hello, Ada!"


async def test_answers_travel_unharmed(peer: Peer) -> None:
    odd = 'Ada \u2028 "quoted" \U0001f600 \x7f'
    reply = await peer.call("ask_name", capabilities=FORMS, inputResponses={"user_name": accept(name=odd)})
    assert reply.text == f"Hello, {odd}!"
    assert json.dumps(reply.body)


async def test_an_answer_to_one_sentence_is_no_answer_to_another(peer: Peer) -> None:
    asked = await peer.call("ask_fickle", capabilities=FORMS)
    reply = await peer.call(
        "ask_fickle",
        capabilities=FORMS,
        inputResponses={"sure": accept(ok=True)},
        requestState=asked.result["requestState"],
    )
    assert reply.status == 200
    assert "'sure'" in reply.error["message"]
