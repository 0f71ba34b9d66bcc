"""Subscriptions (requirements 1.19, and M-TASK-68 to M-TASK-73)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from taskengine import TaskEngine
from taskengine.server import create_app
from taskengine.server.listen import READS_AT_ONCE
from taskengine.settings import Settings
from taskengine.store.changes import Watch
from tests.server.peer import EXTENSION, Hands, Peer, Stream, accept, form, front_end, peer_of, serving
from tests.server.test_tasks import begun
from tests.server.tools import engine
from tests.wire.schemas import TASKS, check

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


def listening(peer: Peer, capabilities: Any = EXTENSION, **notifications: Any) -> Any:
    return peer.stream("subscriptions/listen", {"notifications": notifications}, capabilities=capabilities)


async def acknowledged(stream: Stream) -> dict[str, Any]:
    message = await stream.next()
    check("SubscriptionsAcknowledgedNotification", message)
    assert message["method"] == "notifications/subscriptions/acknowledged"
    assert message["params"]["_meta"] == {SUBSCRIPTION: stream.id}
    return dict(message["params"]["notifications"])


async def reported(stream: Stream) -> dict[str, Any]:
    message = await stream.next()
    check("TaskStatusNotification", message, TASKS)
    assert message["params"]["_meta"] == {SUBSCRIPTION: stream.id}
    return dict(message["params"])


async def ended(stream: Stream) -> None:
    message = await stream.next()
    check("SubscriptionsListenResultResponse", message)
    assert message["id"] == message["result"]["_meta"][SUBSCRIPTION] == stream.id
    with pytest.raises(StopAsyncIteration):
        await stream.next()


@pytest.mark.parametrize("params", [{}, {"notifications": None}, {"notifications": []}])
async def test_a_subscription_needs_a_filter(peer: Peer, params: dict[str, Any]) -> None:
    assert (await peer.send("subscriptions/listen", params)).refused == (400, -32602)


async def test_tasks_can_be_watched_with_the_extension_only(peer: Peer) -> None:
    reply = await peer.send("subscriptions/listen", {"notifications": {"taskIds": []}})
    assert reply.refused == (400, -32021)
    assert reply.error["data"]["requiredCapabilities"] == EXTENSION
    malformed: list[Any] = ["x", [5], {}, ["x"] * 2000]
    for task_ids in malformed:
        reply = await peer.send(
            "subscriptions/listen", {"notifications": {"taskIds": task_ids}}, capabilities=EXTENSION
        )
        assert reply.refused == (400, -32602)


async def test_what_is_not_served_is_acknowledged_as_nothing_and_the_stream_stays_open(peer: Peer) -> None:
    wanted = {"promptsListChanged": True, "resourceSubscriptions": ["file:///x"], "toolsListChanged": False}
    async with listening(peer, {}, **wanted) as stream:
        assert await acknowledged(stream) == {}
        assert stream.headers["x-accel-buffering"] == "no"
        await stream.comment()
        await stream.comment()


async def test_the_state_of_each_task_is_sent_first_and_then_every_change_until_all_have_ended(
    peer: Peer, hands: Hands
) -> None:
    one, two = await begun(peer), await begun(peer)
    async with listening(peer, taskIds=[one, two, one, "tsk_unknown"]) as stream:
        assert await acknowledged(stream) == {"taskIds": [one, two]}
        assert {(await reported(stream))["taskId"], (await reported(stream))["taskId"]} == {one, two}
        claim = await hands.take()
        assert (await reported(stream))["statusMessage"] == "Running"
        await hands.progress(claim, 5, 10)
        assert (await reported(stream))["statusMessage"] == "at 5"
        await hands.ask(claim, form("a"))
        assert set((await reported(stream))["inputRequests"]) == {"a"}
        await peer.cancel(two)
        assert (await reported(stream))["status"] == "cancelled"
        await peer.update(one, {"a": accept(ok=True)})
        assert (await reported(stream))["status"] == "working"
        await hands.complete(await hands.take(), "end")
        last = await reported(stream)
        while last["status"] == "working":  # the claim may come as a change of its own
            last = await reported(stream)
        assert last["result"]["content"][0]["text"] == "end"
        task = (await peer.get(one)).result
        assert {key: last[key] for key in ("status", "result", "lastUpdatedAt")} == {
            key: task[key] for key in ("status", "result", "lastUpdatedAt")
        }
        await ended(stream)


async def test_a_subscription_to_ended_or_unknown_tasks_ends_at_once(peer: Peer, hands: Hands) -> None:
    task_id = await begun(peer)
    await hands.complete(await hands.take())
    async with listening(peer, taskIds=[task_id]) as stream:
        assert await acknowledged(stream) == {"taskIds": [task_id]}
        assert (await reported(stream))["status"] == "completed"
        await ended(stream)
    async with listening(peer, taskIds=["tsk_unknown"]) as stream:
        assert await acknowledged(stream) == {"taskIds": []}
        await ended(stream)


async def test_an_id_that_no_task_can_have_is_left_out_like_an_unknown_one(peer: Peer) -> None:
    async with peer.stream("subscriptions/listen", {"notifications": {"taskIds": ["a\0b", "x" * 10_000]}}) as stream:
        assert (await stream.next())["params"]["notifications"] == {"taskIds": []}
        assert (await stream.next())["result"]["resultType"] == "complete"


class Reads:
    """How many tasks each read of this front end asked for, by the method of the store."""

    def __init__(self, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.whole: list[int] = []
        self.heads: list[int] = []
        tasks = app.state.service.store.tasks
        for name, sizes in (("get_many", self.whole), ("heads", self.heads)):
            monkeypatch.setattr(tasks, name, self._spy(getattr(tasks, name), sizes))

    @staticmethod
    def _spy(read: Any, sizes: list[int]) -> Any:
        async def spied(task_ids: Any, owner: str) -> Any:
            sizes.append(len(task_ids))
            return await read(task_ids, owner)

        return spied


async def test_outcomes_are_read_a_few_at_a_time_however_many_tasks_are_watched(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M-SUB-18: what one stream has in memory does not grow with its filter."""
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as peer:
        ended_before = [await begun(peer) for _ in range(9)]
        for _ in ended_before:
            await hands.complete(await hands.take(), "x" * 50_000)
        at_work = [await begun(peer) for _ in range(9)]
        reads = Reads(app, monkeypatch)
        async with listening(peer, taskIds=[*ended_before, *at_work]) as stream:
            assert len((await acknowledged(stream))["taskIds"]) == 18
            told = [await reported(stream) for _ in range(18)]
            assert {task["taskId"] for task in told if "result" in task} == set(ended_before)
            assert (reads.heads, sum(reads.whole)) == ([18], 9)
            with pytest.MonkeyPatch.context() as unheard:
                unheard.setattr(Watch, "mark", lambda *_: None)
                for _ in at_work:
                    await hands.complete(await hands.take(), "x" * 50_000)
            app.state.service.store.changes._mark_all()  # all at once
            told = [await reported(stream) for _ in range(9)]
            assert {task["taskId"] for task in told if "result" in task} == set(at_work)
            await ended(stream)
        assert reads.heads == [18, 9]
        assert max(reads.whole) <= READS_AT_ONCE


async def test_a_completion_reaches_its_stream_by_one_read(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as peer:
        task_id = await begun(peer)
        claim = await hands.take()
        reads = Reads(app, monkeypatch)
        async with listening(peer, taskIds=[task_id]) as stream:
            await acknowledged(stream)
            await reported(stream)
            await hands.complete(claim)
            assert (await reported(stream))["status"] == "completed"
            await ended(stream)
        assert reads.heads == [1]
        assert set(reads.whole) == {1}


async def test_closing_the_stream_leaves_the_task_alone(peer: Peer, hands: Hands) -> None:
    task_id = await begun(peer)
    async with listening(peer, taskIds=[task_id]) as stream:
        await acknowledged(stream)
    await asyncio.sleep(0.1)
    assert (await peer.get(task_id)).result["status"] == "working"


async def test_changes_of_the_tools_reach_those_who_asked_and_no_others(
    peer: Peer, settings: Settings, hands: Hands
) -> None:
    task_id = await begun(peer)
    async with (
        serving(engine, settings) as other,
        listening(peer, {}, toolsListChanged=True) as first,
        listening(other, toolsListChanged=True, taskIds=[task_id]) as second,
        listening(peer, taskIds=[task_id]) as third,
    ):
        assert await acknowledged(first) == {"toolsListChanged": True}
        assert await acknowledged(second) == {"toolsListChanged": True, "taskIds": [task_id]}
        await acknowledged(third)
        await reported(second)
        await reported(third)
        await hands.hears(2)
        assert (await peer.call("add_tool")).text == "said"
        for stream in (first, second):
            message = await stream.next(2)
            check("ToolListChangedNotification", message)
            assert message["params"]["_meta"] == {SUBSCRIPTION: stream.id}
        await peer.cancel(task_id)
        assert (await reported(third))["status"] == "cancelled"
        await ended(third)
        assert (await reported(second))["status"] == "cancelled"
        assert (await peer.call("add_tool")).text == "said"
        assert (await second.next())["method"] == "notifications/tools/list_changed"


async def test_a_tool_added_to_the_engine_is_announced_and_listed(settings: Settings, hands: Hands) -> None:
    growing = TaskEngine("growing")

    @growing.tool(task="forbidden")
    def first() -> str:
        """First."""
        return "1"

    def second() -> str:
        """Second."""
        return "2"

    async with serving(growing, settings) as peer, listening(peer, {}, toolsListChanged=True) as stream:
        await acknowledged(stream)
        await hands.hears()
        await asyncio.to_thread(growing.add_tool, second, task="forbidden")
        assert (await stream.next(2))["method"] == "notifications/tools/list_changed"
        assert [tool["name"] for tool in (await peer.send("tools/list")).result["tools"]][:2] == ["first", "second"]
    assert growing.on_tools_changed == []


async def test_a_stopping_server_ends_its_subscriptions_at_once(settings: Settings, hands: Hands) -> None:
    patient = settings.model_copy(update={"shutdown_grace": timedelta(seconds=30)})
    async with front_end(create_app(engine, patient), grace_s=30) as running, peer_of(running) as peer:
        task_id = await begun(peer)
        async with listening(peer, taskIds=[task_id]) as one, listening(peer, toolsListChanged=True) as two:
            await acknowledged(one)
            await reported(one)
            await acknowledged(two)
            stopping = asyncio.create_task(running.stop())
            async with asyncio.timeout(10):
                await ended(one)
                await ended(two)
            await stopping
    assert (await hands.rows())[0].status == "working"


async def test_a_server_that_cancels_its_requests_still_says_goodbye(settings: Settings) -> None:
    app = create_app(engine, settings)
    async with (
        front_end(app, grace_s=1) as running,
        peer_of(running) as peer,
        listening(peer, toolsListChanged=True) as stream,
    ):
        await acknowledged(stream)
        app.state.service.stopping = True  # as under a server that tells us nothing: drain does nothing
        stopping = asyncio.create_task(running.stop())
        await ended(stream)
        await stopping
