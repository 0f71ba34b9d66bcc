"""What is left to show of the revisions with a handshake (requirements 1.8, 1.10, 1.11, 1.16 and 1.21)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from taskengine.errors import StoreUnavailable
from taskengine.server.legacy import direct
from tests.legacy.peer import DOCUMENT, call_params
from tests.legacy.test_tasks import RELATED, related
from tests.requirements.conftest import Front
from tests.requirements.tools import engine
from tests.server.peer import Hands
from tests.wire.schemas import check

TASK = {"taskId", "status", "statusMessage", "createdAt", "lastUpdatedAt", "ttl", "pollInterval"}


async def test_each_stream_carries_its_own_request_and_is_resumed_without_the_others(front: Front) -> None:
    """L-TRANS-12, L-TRANS-16 to L-TRANS-18, L-TRANS-22: nothing of a call reaches the session's own stream."""
    peer = await front.legacy()
    async with peer.listen() as own:
        await own.event()
        async with (
            peer.stream("tools/call", call_params("slow", token="a")) as one,
            peer.stream("tools/call", call_params("slow", token="b")) as other,
        ):
            assert (await one.next())["params"]["progressToken"] == "a"
            said = [await other.next() for _ in range(4)]
        assert [each["params"]["progressToken"] for each in said[:3]] == ["b"] * 3
        assert said[3]["id"] == other.id
        async with peer.listen(one.last_event) as resumed:
            said = [await resumed.next() for _ in range(3)]
        assert [each["params"]["progressToken"] for each in said[:2]] == ["a"] * 2
        assert said[2]["id"] == one.id
        with pytest.raises(TimeoutError):
            await own.next(0.5)


async def test_a_wish_for_a_task_counts_on_calls_only(front: Front) -> None:
    """L-TASK-02, L-TASK-03."""
    peer = await front.legacy()
    plain, wished = await peer.send("tools/list"), await peer.send("tools/list", {"task": {"ttl": 1}})
    assert wished.result == plain.result
    for method in ("ping", "logging/setLevel"):
        assert (await peer.send(method, {"task": {}, "level": "info"})).body["result"] == {}


async def test_a_task_has_the_members_of_its_revision_and_is_named_by_the_parameter(front: Front, hands: Hands) -> None:
    """L-BASE-19, L-TASK-13, L-TASK-14, L-TASK-43, L-TASK-45."""
    peer = await front.legacy()
    created = (await peer.call("job", task={})).result["task"]
    assert set(created) == TASK
    task_id = created["taskId"]
    assert (await peer.call("job", task={})).result["task"]["taskId"] != task_id
    misleading: dict[str, Any] = {"taskId": task_id, "_meta": related("tsk_other")}
    read = (await peer.send("tasks/get", misleading)).result
    assert (read["taskId"], set(read)) == (task_id, TASK)
    listed = (await peer.send("tasks/list")).result
    assert "_meta" not in listed
    assert {frozenset(task) for task in listed["tasks"]} == {frozenset(TASK)}
    await hands.complete(await hands.take(), "mine")
    answer = (await peer.send("tasks/result", misleading)).result
    assert answer["_meta"] == related(task_id)
    other = listed["tasks"][0]["taskId"]
    cancelled = await peer.send("tasks/cancel", {"taskId": other, "_meta": related(task_id)})
    assert (cancelled.result["taskId"], set(cancelled.result)) == (other, TASK)
    check("CancelTaskResult", cancelled.result, DOCUMENT)


async def test_all_that_is_said_of_a_task_names_it(front: Front, hands: Hands) -> None:
    """L-TASK-36, L-TASK-42: a question, and its being taken back, too."""
    peer = await front.legacy()
    task_id = await peer.begin("confirm", token="t")
    await hands.run(engine)
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        question = await stream.next()
        await peer.send("tasks/cancel", {"taskId": task_id})
        taken_back = await stream.next()
        assert "error" in await stream.next()
    assert (question["method"], taken_back["method"]) == ("elicitation/create", "notifications/cancelled")
    for message in (question, taken_back):
        assert message["params"]["_meta"] == related(task_id)


async def test_a_cancelled_notification_is_no_way_to_cancel_a_task(
    front: Front, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    """L-TASK-58, L-CANC-12, X-CANC-08, X-CANC-09."""
    peer = await front.legacy()
    reply = await peer.call("job", task={})
    params = {"requestId": reply.body["id"], "reason": "no patience\nleft"}
    with caplog.at_level(logging.INFO, "taskengine.server"):
        assert (await peer.notify("notifications/cancelled", params)).status == 202
    (line,) = [record.getMessage() for record in caplog.records if "no patience" in record.getMessage()]
    assert len(line.splitlines()) == 1
    await asyncio.sleep(0.2)
    assert [row.status for row in await hands.rows()] == ["working"]
    await hands.complete(await hands.take(), "whole")
    assert (await peer.result(reply.result["task"]["taskId"])).text == "whole"


async def test_a_fault_of_the_server_is_an_internal_error(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """L-TASK-65, L-TRANS-27."""
    peer = await front.legacy()

    async def away(*_: object) -> Any:
        raise StoreUnavailable("ConnectionRefusedError: db.internal")

    for name, method, params in (
        ("get", "tasks/get", {"taskId": "tsk_1"}),
        ("get", "tasks/result", {"taskId": "tsk_1"}),
        ("page", "tasks/list", {}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(front.app.state.service.store.tasks, name, away)
            reply = await peer.send(method, params)
        assert reply.refused == (200, -32603)
        assert "db.internal" not in reply.error["message"]


async def test_a_question_that_nobody_answers_in_time_is_taken_back(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-LIFE-10: whatever progress arrives meanwhile."""
    monkeypatch.setattr(direct, "ANSWER_S", 0.3)
    peer = await front.legacy()
    async with peer.stream("tools/call", call_params("ask_name")) as stream:
        question = await stream.next()
        token = {"progressToken": question["id"], "progress": 1}
        await peer.notify("notifications/progress", token)
        told = await stream.next()
        assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", question["id"])
        result = (await stream.next())["result"]
        assert result["isError"] is True
    late = await peer.answer(question, {"action": "decline"})
    assert late.status == 202, "what comes too late is taken and ignored"


@pytest.mark.parametrize(("declared", "asked"), [({}, False), ({"tools": {}}, True)])
async def test_tools_go_into_a_sample_only_where_the_client_takes_them(
    front: Front, declared: dict[str, Any], asked: bool
) -> None:
    """L-CAP-12, X-SAMP-03."""
    peer = await front.legacy(capabilities={"sampling": declared})
    if asked:
        async with peer.stream("tools/call", call_params("use_tools")) as stream:
            question = await stream.next()
            assert question["method"] == "sampling/createMessage"
            assert question["params"]["tools"]
    else:
        reply = await peer.call("use_tools")
        assert reply.result["isError"] is True
        assert "sampling.tools" in reply.text
        assert [message for message in reply.messages if "method" in message] == []


async def test_the_error_that_names_addresses_keeps_its_code_here_only(front: Front) -> None:
    """L-ELIC-22, M-BASE-14."""
    session, modern = await front.legacy(), await front.modern()
    reply = await session.call("needs_consent")
    assert (reply.status, reply.error["code"]) == (200, -32042)
    assert all(each["elicitationId"] for each in reply.error["data"]["elicitations"])
    assert (await modern.call("needs_consent")).refused == (200, -32603)


async def test_what_a_session_declared_means_nothing_to_a_modern_request_in_it(front: Front) -> None:
    """X-SEL-02, X-SEL-08."""
    session, modern = await front.legacy(), await front.modern()
    headers = {"mcp-session-id": session.session}
    assert (await modern.call("ask_name", headers=headers)).refused == (400, -32021)
    assert RELATED not in (await modern.call("greet", headers=headers)).result["_meta"]
