"""Durable calls of clients without the extension, where the bridge is off (M-TASK-05, M-TASK-06, A-33, A-53)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from taskengine.errors import StoreUnavailable
from taskengine.server import create_app, waiting
from taskengine.settings import Settings
from tests.server.peer import EXTENSION, Hands, Peer, accept, form, front_end, methods, peer_of, serving
from tests.server.tools import engine

FORMS: dict[str, Any] = {"elicitation": {}}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Without the engine's own tools a call is a synchronous one; `tests/bridge` has them."""
    return settings.model_copy(update={"handle_tools": "none"})


async def test_a_required_tool_needs_the_extension_before_any_work_starts(peer: Peer, hands: Hands) -> None:
    undeclared: list[dict[str, Any]] = [{}, {"tasks": {}}, FORMS]
    for capabilities in undeclared:
        reply = await peer.call("report", {"n": "wrong"}, capabilities=capabilities)
        assert reply.refused == (400, -32021)
        assert reply.error["data"]["requiredCapabilities"] == EXTENSION
    assert await hands.rows() == []


async def test_an_optional_tool_runs_as_if_it_were_synchronous(settings: Settings, hands: Hands) -> None:
    quiet = settings.model_copy(update={"keep_alive": timedelta(seconds=15)})
    async with serving(engine, quiet) as peer:
        calling = asyncio.create_task(peer.call("job", {"n": 3}))
        await hands.run(engine)
        reply = await calling
    assert reply.text == "did 3"
    assert reply.result["resultType"] == "complete"
    assert not {"taskId", "task"} & set(reply.result)
    assert reply.headers["content-type"] == "application/json"


async def test_the_open_request_reports_progress_and_is_kept_alive(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("job", meta={"progressToken": "t"}))
    claim = await hands.take()
    for progress in (1, 2):
        await hands.progress(claim, progress, 10)
        await asyncio.sleep(0.2)
    await asyncio.sleep(0.4)
    await hands.complete(claim, "end")
    reply = await calling
    assert methods(reply.notifications) == ["notifications/progress"] * 2
    assert [note["params"]["progress"] for note in reply.notifications] == [1, 2]
    assert reply.comments >= 1
    assert reply.text == "end"


async def test_an_error_of_the_call_is_the_answer(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("job"))
    await hands.fail(await hands.take(), 1234, "Not today", {"why": 1})
    reply = await calling
    assert reply.status == 200
    assert reply.error == {"code": 1234, "message": "Not today", "data": {"why": 1}}


async def test_a_capability_the_job_misses_is_refused_with_its_status(settings: Settings, hands: Hands) -> None:
    """Unless the stream has begun by then, with a comment for instance: its status is sent (M-TRANS-26)."""
    quiet = settings.model_copy(update={"keep_alive": timedelta(seconds=15)})
    async with serving(engine, quiet) as peer:
        calling = asyncio.create_task(peer.call("confirm"))
        await hands.run(engine)
        reply = await calling
    assert reply.refused == (400, -32021)
    assert reply.error["data"]["requiredCapabilities"] == {"elicitation": {}}


async def test_a_question_half_way_is_asked_and_the_retry_resumes_the_same_job(
    peer: Peer, hands: Hands, settings: Settings
) -> None:
    calling = asyncio.create_task(peer.call("confirm", capabilities=FORMS))
    await hands.run(engine)
    asked = await calling
    assert asked.result["resultType"] == "input_required"
    assert set(asked.result["inputRequests"]) == {"elicit-1"}
    assert "taskId" not in asked.result
    retry: dict[str, Any] = {
        "capabilities": FORMS,
        "inputResponses": {"elicit-1": accept(ok=True)},
        "requestState": asked.result["requestState"],
    }
    async with serving(engine, settings) as other:
        calling = asyncio.create_task(other.call("confirm", **retry))
        await hands.run(engine)
        assert (await calling).text == "accept True"
        assert (await other.call("confirm", **retry)).text == "accept True", "a repeated retry gets the same result"
    assert len(await hands.rows()) == 1


async def test_an_open_question_is_asked_again_until_it_is_answered_well(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("job", capabilities=FORMS))
    await hands.ask(await hands.take(), form("a"), form("b"))
    asked = await calling
    state = asked.result["requestState"]
    for responses in ({}, {"c": accept(ok=True)}):
        again = await peer.call("job", capabilities=FORMS, requestState=state, inputResponses=responses)
        assert set(again.result["inputRequests"]) == {"a", "b"}
        assert again.result["requestState"] != state
    wrong = await peer.call("job", capabilities=FORMS, requestState=state, inputResponses={"a": 5})
    assert wrong.refused == (400, -32602)
    half = await peer.call("job", capabilities=FORMS, requestState=state, inputResponses={"a": accept(ok=True)})
    assert set(half.result["inputRequests"]) == {"b"}
    undeclared = await peer.call("job", requestState=state)
    assert undeclared.refused == (400, -32021)


async def test_a_retry_that_declares_the_extension_goes_on_as_a_task(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("confirm", capabilities=FORMS))
    await hands.run(engine)
    state = (await calling).result["requestState"]
    reply = await peer.call("confirm", tasks=True, requestState=state, inputResponses={"elicit-1": accept(ok=False)})
    assert reply.result["resultType"] == "task"
    assert reply.result["taskId"] == (await hands.rows())[0].id


async def test_a_state_of_another_call_does_not_resume_the_job(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("job", {"n": 1}, capabilities=FORMS))
    await hands.ask(await hands.take(), form("a"))
    state = (await calling).result["requestState"]
    assert (await peer.call("job", {"n": 2}, capabilities=FORMS, requestState=state)).refused == (400, -32602)
    assert (await peer.call("confirm", capabilities=FORMS, requestState=state)).refused == (400, -32602)


async def test_what_is_asked_first_composes_with_a_synchronous_run(peer: Peer, hands: Hands) -> None:
    asked = await peer.call("asked_inline", capabilities=FORMS)
    calling = asyncio.create_task(
        peer.call(
            "asked_inline",
            capabilities=FORMS,
            inputResponses={"user_name": accept(name="Ada")},
            requestState=asked.result["requestState"],
        )
    )
    await hands.run(engine)
    assert (await calling).text == "for Ada"


async def test_a_client_that_goes_away_cancels_its_synchronous_call(peer: Peer, hands: Hands) -> None:
    async with peer.stream("tools/call", {"name": "job"}, capabilities={}) as stream:
        await stream.comment()
        claim = await hands.take()
    async with asyncio.timeout(3):
        while (await hands.rows())[0].status != "cancelled":
            await asyncio.sleep(0.02)
    assert (await hands.rows())[0].id == claim.task_id


async def test_a_client_that_goes_away_leaves_a_task_alone(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("quick_job", tasks=True))
    claim = await hands.take()
    calling.cancel()
    await asyncio.sleep(0.3)
    await hands.complete(claim, "kept")
    assert (await peer.get(claim.task_id)).result["status"] == "completed"


async def test_a_call_that_somebody_cancels_ends_with_an_error_result(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("job"))
    claim = await hands.take()
    await peer.cancel(claim.task_id)
    reply = await calling
    assert reply.result["isError"] is True
    assert "cancelled" in reply.text


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_stopping_server_lets_the_client_go_on_elsewhere(
    settings: Settings, hands: Hands, streaming: bool
) -> None:
    calm = settings if streaming else settings.model_copy(update={"keep_alive": timedelta(seconds=15)})
    async with front_end(create_app(engine, calm)) as running, peer_of(running) as peer:
        calling = asyncio.create_task(peer.call("job"))
        claim = await hands.take()
        await running.stop()
        reply = await calling
        assert reply.headers["content-type"].startswith("text/event-stream" if streaming else "application/json")
    assert reply.result["resultType"] == "input_required"
    assert "inputRequests" not in reply.result
    assert (await hands.rows())[0].status == "working"
    async with serving(engine, settings) as other:
        calling = asyncio.create_task(other.call("job", requestState=reply.result["requestState"]))
        await hands.complete(claim, "at last")
        assert (await calling).text == "at last"


async def test_a_stopping_server_waits_for_calls_that_end_in_time(settings: Settings, hands: Hands) -> None:
    async with front_end(create_app(engine, settings)) as running, peer_of(running) as peer:
        calling = asyncio.create_task(peer.call("job"))
        claim = await hands.take()
        stopping = asyncio.create_task(running.stop())
        await asyncio.sleep(0.2)
        await hands.complete(claim, "in time")
        assert (await calling).text == "in time"
        await stopping


async def test_a_tool_of_the_front_end_is_ended_by_its_stop_with_an_error(settings: Settings) -> None:
    async with front_end(create_app(engine, settings)) as running, peer_of(running) as peer:
        calling = asyncio.create_task(peer.call("hang"))
        await asyncio.sleep(0.1)
        await running.stop()
        reply = await calling
        assert reply.error["code"] == -32603
        assert "again" in reply.error["message"]


async def test_a_database_that_is_away_for_a_while_is_waited_for(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as peer:
        tasks = app.state.service.store.tasks
        create, get = Away(tasks.create), Away(tasks.get)
        monkeypatch.setattr(tasks, "create", create)
        monkeypatch.setattr(tasks, "get", get)
        calling = asyncio.create_task(peer.call("job", {"n": 4}))
        await hands.run(engine)
        assert (await calling).text == "did 4"
    assert create.refused == get.refused == 2
    assert len(await hands.rows()) == 1


async def test_a_client_whose_call_outlives_the_database_goes_on_with_the_same_task(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(engine, settings)
    monkeypatch.setattr(waiting, "LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr(waiting, "LONGEST_OUTAGE_S", 0.0)
    async with front_end(app) as running, peer_of(running) as peer:
        tasks = app.state.service.store.tasks
        monkeypatch.setattr(tasks, "get", Away(tasks.get, times=3))
        reply = await peer.call("job", {"n": 5})
        assert reply.result["resultType"] == "input_required"
        monkeypatch.undo()
        resumed = asyncio.create_task(peer.call("job", {"n": 5}, requestState=reply.result["requestState"]))
        await hands.run(engine)
        assert (await resumed).text == "did 5"
    assert len(await hands.rows()) == 1


class Away:
    """A method of the store that fails some times before it works."""

    def __init__(self, method: Any, times: int = 2) -> None:
        self.method = method
        self.times = times
        self.refused = 0

    async def __call__(self, *args: Any) -> Any:
        if self.refused < self.times:
            self.refused += 1
            raise StoreUnavailable("ConnectionRefusedError")
        return await self.method(*args)
