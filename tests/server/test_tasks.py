"""Durable calls over the tasks extension (requirements 1.15, 1.18, 1.25)."""

from __future__ import annotations

import asyncio
import base64
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, field_validator
from sqlalchemy import text

from taskengine import Context, Form, TaskEngine
from taskengine.records import Doorbell
from taskengine.server import create_app
from taskengine.settings import Settings
from tests.server.peer import EXTENSION, Hands, Peer, accept, form, front_end, peer_of, serving
from tests.server.tools import engine

FORMS: dict[str, Any] = {"elicitation": {}}


class Even(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def is_even(cls, n: int) -> int:
        if n % 2:
            raise ValueError("must be even")
        return n


async def begun(peer: Peer, tool: str = "report", **rest: Any) -> str:
    reply = await peer.call(tool, {"n": 7} if tool in ("report", "job") else {}, tasks=True, **rest)
    assert reply.status == 200
    assert reply.result["resultType"] == "task", reply.result
    return str(reply.result["taskId"])


async def status(peer: Peer, task_id: str) -> str:
    return str((await peer.get(task_id)).result["status"])


async def test_a_required_tool_answers_with_its_task_which_any_front_end_can_read_at_once(
    peer: Peer, settings: Settings
) -> None:
    created = await peer.call("report", {"n": 1}, tasks=True)
    assert created.result["status"] == "working"
    assert created.result["ttlMs"] == 30 * 86_400_000, "a year is cut to the setting max_ttl"
    assert 0 < created.result["pollIntervalMs"] <= 30_000
    assert datetime.fromisoformat(created.result["createdAt"]) <= datetime.fromisoformat(
        created.result["lastUpdatedAt"]
    )
    async with serving(engine, settings) as other:
        task = (await other.get(created.result["taskId"])).result
        assert (task["taskId"], task["status"]) == (created.result["taskId"], "working")


async def test_a_call_is_accepted_while_the_broker_is_away(settings: Settings) -> None:
    away = settings.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:1/0")})
    async with serving(engine, away) as peer:
        assert await status(peer, await begun(peer)) == "working"


async def test_a_created_task_rings_its_doorbell(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(engine, settings)
    rung: list[Doorbell] = []
    monkeypatch.setattr(app.state.service.bell, "ring", rung.append)
    async with front_end(app) as running, peer_of(running) as peer:
        task_id = await begun(peer)
    assert rung == [Doorbell(task_id, 1, "default.sync")]


async def test_task_ids_cannot_be_guessed(peer: Peer) -> None:
    ids = {await begun(peer) for _ in range(3)}
    assert len(ids) == 3
    assert all(len(task_id.removeprefix("tsk_")) >= 32 for task_id in ids)


async def test_the_row_holds_the_call_as_it_came(peer: Peer, hands: Hands) -> None:
    await begun(peer, capabilities={"elicitation": {}, "example": {"x": 1}}, task={"ttl": 1})
    claim = await hands.take()
    assert (claim.tool, claim.owner, claim.queue, claim.arguments) == ("report", "anonymous", "default.sync", {"n": 7})
    assert claim.capabilities == {"elicitation": {}, "example": {"x": 1}, **EXTENSION}


async def test_a_completed_task_carries_its_result_for_as_long_as_it_is_kept(peer: Peer, hands: Hands) -> None:
    task_id = await begun(peer)
    claim = await hands.take()
    await hands.complete(claim, "no", is_error=True)
    for _ in range(2):
        task = (await peer.get(task_id)).result
        assert task["status"] == "completed"
        assert task["result"] == {
            "resultType": "complete", "content": [{"type": "text", "text": "no"}], "isError": True,
        }  # fmt: skip


async def test_a_failed_task_carries_the_error(peer: Peer, hands: Hands) -> None:
    task_id = await begun(peer)
    await hands.fail(await hands.take(), 1234, "Not today", {"why": 1})
    task = (await peer.get(task_id)).result
    assert task["error"] == {"code": 1234, "message": "Not today", "data": {"why": 1}}
    assert task["statusMessage"] == "Not today"
    assert "result" not in task


async def test_an_error_with_numbers_or_nesting_past_what_others_take_can_be_read(peer: Peer, hands: Hands) -> None:
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    for data in ({"n": 2**70}, deep):
        task_id = await begun(peer)
        await hands.fail(await hands.take(), 1234, "Not today", data)
        assert (await peer.get(task_id)).result["error"]["data"] == data


async def test_progress_shows_in_the_status_message_and_moves_the_time(peer: Peer, hands: Hands) -> None:
    task_id = await begun(peer, meta={"progressToken": 1})
    claim = await hands.take()
    before = (await peer.get(task_id)).result
    await hands.progress(claim, 3, 10)
    after = (await peer.get(task_id)).result
    assert after["statusMessage"] == "at 3"
    assert after["lastUpdatedAt"] > before["lastUpdatedAt"]
    assert after["createdAt"] == before["createdAt"]


def base64_value(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


@pytest.mark.parametrize("task_id", ["tsk_unknown", "", "x" * 500, "tsk_1'; --", "ü", "tsk_\0"])
async def test_an_unknown_task_is_one_error_with_one_message(peer: Peer, task_id: str) -> None:
    encoded = {} if task_id.isprintable() and task_id.isascii() else {"mcp-name": base64_value(task_id)}
    replies = [
        await peer.get(task_id, headers=encoded),
        await peer.update(task_id, {}, headers=encoded),
        await peer.cancel(task_id, headers=encoded),
    ]
    assert {reply.refused for reply in replies} == {(400, -32602)}
    assert len({reply.error["message"] for reply in replies}) == 1


async def test_an_expired_or_foreign_task_is_like_an_unknown_one(peer: Peer, hands: Hands) -> None:
    unknown = (await peer.get("tsk_unknown")).error
    expired, foreign = await begun(peer), await begun(peer)
    await hands.store._database.run(
        text("UPDATE tasks SET created_at = now() - interval '40 days', expires_at = now() - interval '1 s',"
             f" phase = 'done', status = 'cancelled', ended_at = now() WHERE id = '{expired}'")
    )  # fmt: skip
    await hands.store._database.run(text(f"UPDATE tasks SET owner = 'another' WHERE id = '{foreign}'"))
    for task_id in (expired, foreign):
        assert (await peer.get(task_id)).error == unknown
        assert (await peer.update(task_id, {"k": {}})).error == unknown
        assert (await peer.cancel(task_id)).error == unknown


async def test_cancelling_is_acknowledged_alike_before_and_after_the_end(peer: Peer, hands: Hands) -> None:
    queued, running, asking, ended = [await begun(peer) for _ in range(4)]
    claims = {claim.task_id: claim for claim in [await hands.take() for _ in range(4)]}
    await hands.store.attempts.release(claims[queued])
    await hands.ask(claims[asking], form())
    await hands.complete(claims[ended])
    for task_id in (queued, running, asking, ended, queued):
        reply = await peer.cancel(task_id)
        assert set(reply.result) == {"resultType", "_meta"}
        assert reply.result["resultType"] == "complete"
    assert [await status(peer, task_id) for task_id in (queued, running, asking)] == ["cancelled"] * 3
    assert await status(peer, ended) == "completed"


async def test_the_end_of_the_request_and_cancelled_notifications_leave_tasks_alone(
    peer: Peer, hands: Hands, settings: Settings
) -> None:
    async with serving(engine, settings) as other:
        task_id = await begun(other)
    body = '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}'
    headers = {"content-type": "application/json", "mcp-protocol-version": "2026-07-28"}
    assert (await peer.post(body, headers)).status == 202
    assert await status(peer, task_id) == "working"


# quick ends


async def test_a_call_that_ends_within_the_quick_wait_gives_the_plain_result(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("quick_job", tasks=True))
    await hands.run(engine)
    reply = await calling
    assert reply.text == "quick"
    assert reply.result["resultType"] == "complete"
    assert "taskId" not in reply.result


async def test_the_quick_wait_is_a_setting_and_can_be_switched_off(settings: Settings) -> None:
    async with serving(engine, settings.model_copy(update={"quick_wait": timedelta(seconds=3)})) as peer:
        began = time.monotonic()
        await begun(peer, "patient_job")
        await begun(peer, "report")
        assert time.monotonic() - began < 3
        began = time.monotonic()
        await begun(peer, "job")
        assert time.monotonic() - began >= 3


async def test_a_call_that_asks_or_fails_quickly_gives_its_task_at_once(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("quick_job", tasks=True))
    await hands.ask(await hands.take(), form())
    assert (await calling).result["status"] == "input_required"
    calling = asyncio.create_task(peer.call("quick_job", tasks=True))
    await hands.fail(await hands.take(), 1, "No")
    reply = await calling
    assert reply.result["resultType"] == "task"
    assert reply.result["status"] == "failed"


async def test_a_call_answered_by_a_task_reports_no_progress(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("quick_job", tasks=True, meta={"progressToken": 1}))
    claim = await hands.take()
    await hands.progress(claim, 1, 2)
    await hands.ask(claim, form())
    reply = await calling
    assert reply.result["resultType"] == "task"
    assert reply.notifications == []


# questions of a task


async def test_open_questions_show_and_their_answers_resume_the_task(peer: Peer, hands: Hands) -> None:
    task_id = await begun(peer, "confirm", capabilities=FORMS)
    await hands.run(engine)
    task = (await peer.get(task_id)).result
    assert task["status"] == "input_required"
    assert task["inputRequests"]["elicit-1"]["method"] == "elicitation/create"
    assert "requestState" not in task
    reply = await peer.update(task_id, {"elicit-1": accept(ok=True, extra="ignored")})
    assert set(reply.result) == {"resultType", "_meta"}
    task = (await peer.get(task_id)).result
    assert task["status"] == "working"
    assert "inputRequests" not in task
    await hands.run(engine)
    assert (await peer.get(task_id)).result["result"]["content"][0]["text"] == "accept True"


async def test_questions_can_be_answered_one_by_one(peer: Peer, hands: Hands) -> None:
    task_id = await begun(peer, capabilities=FORMS)
    await hands.ask(await hands.take(), form("a"), form("b"))
    await peer.update(task_id, {"a": accept(ok=True)})
    task = (await peer.get(task_id)).result
    assert (task["status"], set(task["inputRequests"])) == ("input_required", {"b"})
    await peer.update(task_id, {"a": accept(ok=False), "b": {"action": "decline"}})
    assert await status(peer, task_id) == "working"
    claim = await hands.take()
    assert claim.answers["a"].response == accept(ok=True), "the first answer counts"
    assert claim.answers["b"].response == {"action": "decline"}


async def test_answers_to_other_than_open_questions_are_ignored_unseen(peer: Peer, hands: Hands) -> None:
    task_id = await begun(peer, capabilities=FORMS)
    odd = {"unknown-key": {"ignored": True}, "number": 5, "": None}
    assert (await peer.update(task_id, odd)).status == 200
    claim = await hands.take()
    await hands.ask(claim, form("a"))
    assert (await peer.update(task_id, odd)).status == 200
    assert await status(peer, task_id) == "input_required"
    await peer.update(task_id, {"a": accept(ok=True)})
    assert (await peer.update(task_id, {"a": 5})).status == 200
    await hands.complete(await hands.take())
    assert (await peer.update(task_id, {"a": 5})).status == 200
    assert await status(peer, task_id) == "completed"


@pytest.mark.parametrize(
    "answer", [5, None, "yes", {}, {"action": "maybe"}, accept(ok="yes"), accept(), {"action": "accept", "content": 5}]
)
async def test_an_answer_that_does_not_fit_is_refused_and_the_question_stays_open(
    peer: Peer, hands: Hands, answer: Any
) -> None:
    task_id = await begun(peer, capabilities=FORMS)
    await hands.ask(await hands.take(), form("a"), form("b"))
    reply = await peer.update(task_id, {"b": accept(ok=True), "a": answer})
    assert reply.refused == (400, -32602)
    assert "'a'" in reply.error["message"]
    assert set((await peer.get(task_id)).result["inputRequests"]) == {"a", "b"}


@pytest.mark.parametrize("responses", [None, [], "x", 5])
async def test_input_responses_must_be_an_object(peer: Peer, responses: Any) -> None:
    task_id = await begun(peer)
    assert (await peer.update(task_id, responses)).refused == (400, -32602)
    reply = await peer.send("tasks/update", {"taskId": task_id}, capabilities=EXTENSION)
    assert reply.refused == (400, -32602)


# questions before there is a task


async def test_what_a_tool_asks_first_is_asked_before_there_is_a_task(peer: Peer, hands: Hands) -> None:
    client: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}
    asked = await peer.call("asked_first", tasks=True, capabilities=client)
    assert set(asked.result["inputRequests"]) == {"user_name", "page"}
    assert "taskId" not in asked.result
    half = await peer.call(
        "asked_first",
        tasks=True,
        capabilities=client,
        inputResponses={"page": {"action": "accept"}, "other": 1},
        requestState=asked.result["requestState"],
    )
    assert set(half.result["inputRequests"]) == {"user_name"}
    assert half.result["requestState"] != asked.result["requestState"]
    assert await hands.rows() == []
    last: dict[str, Any] = {
        "tasks": True,
        "capabilities": client,
        "inputResponses": {"user_name": accept(name="Alice")},
        "requestState": half.result["requestState"],
    }
    created = await peer.call("asked_first", **last)
    assert created.result["resultType"] == "task"
    assert not {"requestState", "inputRequests"} & set(created.result)
    again = await peer.call("asked_first", **last)
    assert again.result["taskId"] == created.result["taskId"], "a repeated retry makes no second task"
    assert len(await hands.rows()) == 1
    await hands.run(engine)
    task = (await peer.get(created.result["taskId"])).result
    assert task["result"]["content"][0]["text"] == "for Alice"


async def test_what_is_asked_first_needs_its_capabilities_and_fitting_answers(peer: Peer, hands: Hands) -> None:
    reply = await peer.call("asked_first", tasks=True, capabilities={"elicitation": {}})
    assert reply.refused == (400, -32021)
    assert reply.error["data"]["requiredCapabilities"] == {"elicitation": {"url": {}}}
    reply = await peer.call("asked_inline", tasks=True, capabilities=FORMS, inputResponses={"user_name": 12345})
    assert reply.refused == (400, -32602)
    reply = await peer.call("asked_inline", {"x": 1}, tasks=True, capabilities=FORMS)
    assert reply.result["isError"] is True, "arguments are checked before anything is asked"
    assert await hands.rows() == []


async def test_an_answer_that_its_model_refuses_makes_no_task(settings: Settings, hands: Hands) -> None:
    picky = TaskEngine("picky")

    @picky.tool(ask_first={"number": Form("Which?", Even)})
    async def halve(ctx: Context) -> int:
        """Halve a number."""
        return int(ctx.first["number"].data.n) // 2

    async with serving(picky, settings) as peer:
        asked = await peer.call("halve", tasks=True, capabilities=FORMS)
        state = asked.result["requestState"]
        refused = await peer.call(
            "halve", tasks=True, capabilities=FORMS, requestState=state, inputResponses={"number": accept(n=3)}
        )
        assert refused.refused == (400, -32602)
        assert "must be even" in refused.error["message"]
        assert await hands.rows() == []
        made = await peer.call(
            "halve", tasks=True, capabilities=FORMS, requestState=state, inputResponses={"number": accept(n=4)}
        )
        assert made.result["resultType"] == "task"


async def test_a_state_outlives_no_task_it_may_have_made(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the task is swept, the same state would make a second one."""
    engine = TaskEngine("brief")

    @engine.tool(ttl="2m", ask_first={"number": Form("Which?", Even)})
    async def halve(ctx: Context) -> int:
        """Halve a number."""
        return int(ctx.first["number"].data.n) // 2

    async with serving(engine, settings) as peer:
        asked = await peer.call("halve", tasks=True, capabilities=FORMS)
        answered = {"requestState": asked.result["requestState"], "inputResponses": {"number": accept(n=4)}}
        now = time.time
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda: now() + 150)
            late = await peer.call("halve", tasks=True, capabilities=FORMS, **answered)
        assert late.refused == (400, -32602)
        assert await hands.rows() == []
        in_time = await peer.call("halve", tasks=True, capabilities=FORMS, **answered)
        assert in_time.result["resultType"] == "task"


async def test_answers_without_state_begin_the_call_at_once(peer: Peer, hands: Hands) -> None:
    reply = await peer.call(
        "asked_inline", tasks=True, capabilities=FORMS, inputResponses={"user_name": accept(name="Ada")}
    )
    assert reply.result["resultType"] == "task"
    assert (await hands.take()).first == {"user_name": accept(name="Ada")}
