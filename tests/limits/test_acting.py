"""The rate of what is neither a call nor a poll: each method has a share in it, on both wires, and ordinary clients do
not meet it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from taskengine.settings import Settings
from taskengine.store import Store
from tests.legacy import peer as legacy
from tests.legacy.tools import engine
from tests.server.peer import EXTENSION, QUEUES, WORKER, Hands, accept, form, serving
from tests.server.test_tasks import begun

BURST = 4


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A few requests, and no more for a long time."""
    monkeypatch.setattr("taskengine.server.budgets.BURST", BURST)
    monkeypatch.setattr("taskengine.server.budgets.BURST_PER_S", 0.0)
    return settings.model_copy(update={"poll_rate": "2/day", "keep_alive": timedelta(seconds=0.3)})


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tasks/update", {"taskId": "tsk_none", "inputResponses": {}}),
        ("tasks/cancel", {"taskId": "tsk_none"}),
        ("subscriptions/listen", {"notifications": {"taskIds": []}}),
    ],
)
async def test_each_method_of_the_current_wire_is_counted(settings: Settings, method: str, params: Any) -> None:
    """X-SEC-09: by every front end, beside a burst of its own."""
    async with serving(engine, settings) as one, serving(engine, settings) as other:

        async def status(peer: Any) -> int:
            message = peer.message(method, params, EXTENSION, {})
            reply = await peer.post(legacy.json.dumps(message), peer.headers(method, params, {}))
            if reply.status == 429:
                assert reply.error["data"]["limit"] == "polls"
                assert reply.headers["retry-after"] == str(reply.error["data"]["retryAfterSeconds"])
            return int(reply.status)

        assert 429 not in [await status(one) for _ in range(BURST + 2)]
        assert await status(one) == 429
        assert 429 not in [await status(other) for _ in range(BURST)]
        assert await status(other) == 429


async def test_each_method_of_a_session_is_counted(settings: Settings, hands: Hands) -> None:
    """L-TASK-63, X-SEC-09: and nothing is done when it is refused."""
    async with legacy.serving(engine, settings) as peer:
        await peer.initialize(capabilities=legacy.ALL)
        task_id = await peer.begin("job", token=1)
        claim = await hands.take()
        async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
            await hands.ask(claim, form("first"))
            question = await stream.next()
        refused = 0
        async with asyncio.timeout(20):
            while not refused:
                reply = await peer.send("tasks/list")
                refused = "error" in reply.body
        for method, params in (
            ("tasks/list", {}),
            ("tasks/cancel", {"taskId": task_id}),
            ("tasks/result", {"taskId": "tsk_none"}),
            ("logging/setLevel", {"level": "debug"}),
        ):
            reply = await peer.send(method, params)
            assert reply.refused == (200, -31010), method
            assert reply.error["data"]["limit"] == "polls"
        for headers in ({}, {"last-event-id": stream.last_event}):
            events = {"content-type": None, "accept": "text/event-stream", **headers}
            assert (await peer.request("GET", headers=events)).refused == (429, -31010)
        posted = [
            await peer.request("DELETE"),
            await peer.answer(question, accept(ok=True)),
            await peer.notify("notifications/cancelled", {"requestId": 1}),
        ]
        for reply in posted:
            assert reply.refused == (429, -31010)
            assert int(reply.headers["retry-after"]) >= 1
        assert (await peer.send("ping")).result == {}
        assert [row.status for row in await hands.rows()] == ["input_required"]


async def test_results_that_are_there_are_polls_and_one_look_after_the_end_is_not_too_soon(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-TASK-28, L-TASK-63: what a client does for each task by the book costs it nothing."""
    monkeypatch.setattr("taskengine.server.budgets.EARLY", 3600.0)  # however slow the machine, polls come too soon
    async with legacy.serving(engine, settings) as peer:
        await peer.initialize()
        for _ in range(BURST + 4):
            task_id = await peer.begin("job")
            await hands.complete(await hands.take(), "whole")
            assert (await peer.get(task_id))["status"] == "completed"
            assert (await peer.result(task_id)).text == "whole"
        replies = [await peer.result(task_id) for _ in range(BURST + 3)]
        assert [("error" in reply.body) for reply in replies] == [False] * (BURST + 2) + [True]
        assert replies[-1].refused == (200, -31010)


async def test_how_a_task_ended_can_not_be_asked_for_again_and_again_for_nothing(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-TASK-63."""
    monkeypatch.setattr("taskengine.server.budgets.EARLY", 3600.0)
    async with legacy.serving(engine, settings) as peer:
        await peer.initialize()
        task_id = await peer.begin("job")
        await hands.complete(await hands.take(), "whole")
        replies = [await peer.send("tasks/get", {"taskId": task_id}) for _ in range(1 + BURST + 3)]
        assert [("error" in reply.body) for reply in replies] == [False] * (1 + BURST + 2) + [True]


async def test_tasks_can_be_answered_and_cancelled_without_waiting_where_no_rate_is_set(settings: Settings) -> None:
    """Where callers are not told apart there is none by default."""
    async with serving(engine, settings.model_copy(update={"poll_rate": None})) as peer:
        task_id = await begun(peer)
        for _ in range(BURST * 3):
            assert (await peer.update(task_id, {})).status == 200
