"""Limits as clients meet them: an error that says when to try again, in its data and as Retry-After."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskengine import TaskEngine
from taskengine.settings import Settings
from tests.server.peer import EXTENSION as TASKS_DECLARED
from tests.server.peer import QUEUES, WORKER, Peer, Reply, serving

engine = TaskEngine("limits")


@engine.tool(task="required", max_priority=5)
async def job(n: int) -> int:
    """Make a task."""
    return n


@engine.tool(task="forbidden")
async def echo(text: str) -> str:
    """Answer at once."""
    return text


async def begin(peer: Peer, **rest: Any) -> Reply:
    return await peer.call("job", {"n": 1}, tasks=True, **rest)


def assert_refused(reply: Reply, status: int, limit: str) -> None:
    assert reply.status == status
    data = reply.error["data"]
    assert data["limit"] == limit
    assert data["retryAfterSeconds"] >= 1
    assert reply.headers["retry-after"] == str(data["retryAfterSeconds"])
    assert f"Try again in {data['retryAfterSeconds']} s" in reply.error["message"]


async def test_an_owner_with_too_many_open_tasks_is_told_when_to_try_again(settings: Settings) -> None:
    limited = settings.model_copy(update={"max_open_tasks_per_owner": 2})
    async with serving(engine, limited) as one, serving(engine, limited) as other:
        for peer in (one, other):
            assert (await begin(peer)).result["resultType"] == "task"
        assert_refused(await begin(one), 429, "open_tasks_per_owner")
        task = (await begin(other)).error
        assert task["code"] == -31010


async def test_past_the_bound_of_the_queue_calls_get_the_busy_error_and_accepted_ones_run(
    settings: Settings, store: Any
) -> None:
    limited = settings.model_copy(update={"max_queued_per_queue": 2})
    async with serving(engine, limited) as peer:
        ids = [(await begin(peer)).result["taskId"] for _ in range(2)]
        refused = await begin(peer)
        assert_refused(refused, 503, "queued_tasks")
        assert refused.error["code"] == -31011
        await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
        for task_id in ids:
            claim = await store.attempts.claim_next(QUEUES, WORKER)
            assert claim.task_id == task_id
        assert (await begin(peer)).result["resultType"] == "task"


async def test_calls_more_often_than_the_rate_are_refused_by_every_front_end(settings: Settings) -> None:
    limited = settings.model_copy(update={"call_rate": "3/hour"})
    async with serving(engine, limited) as one, serving(engine, limited) as other:
        replies = [await peer.call("echo", {"text": "hi"}) for peer in (one, other, one, other)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429]
        assert_refused(replies[3], 429, "calls")


async def test_polls_that_come_too_soon_have_a_burst_and_then_are_told_the_interval(settings: Settings) -> None:
    limited = settings.model_copy(update={"poll_rate": "2/hour"})
    async with serving(engine, limited) as peer:
        codes = []
        async with asyncio.timeout(60):
            while -31010 not in codes:  # of a task that nobody has there is no interval to keep to
                reply = await peer.send("tasks/get", {"taskId": "tsk_of_nobody"}, capabilities=TASKS_DECLARED)
                codes.append(reply.error["code"])
        assert set(codes[:-1]) == {-32602}
        assert len(codes) > 60
        assert_refused(reply, 429, "polls")


async def test_polls_on_time_are_never_refused(settings: Settings) -> None:
    limited = settings.model_copy(update={"poll_rate": "1/day"})
    async with serving(engine, limited) as peer:
        task_id = (await begin(peer)).result["taskId"]
        for _ in range(8):
            reply = await peer.send("tasks/get", {"taskId": task_id}, capabilities=TASKS_DECLARED)
            assert reply.status == 200
            await asyncio.sleep(reply.result["pollIntervalMs"] / 1000)


async def test_arguments_past_the_limit_are_refused_before_anything_is_written(settings: Settings) -> None:
    limited = settings.model_copy(update={"max_argument_bytes": 2000})
    async with serving(engine, limited) as peer:
        reply = await peer.call("echo", {"text": "x" * 3000})
        assert reply.refused == (400, -32602)
        assert "2000 is the most" in reply.error["message"]
        assert (await peer.call("echo", {"text": "x" * 1000})).text == "x" * 1000


@pytest.mark.parametrize(("asked", "accepted"), [(5, True), (-100, True), (6, False), (-101, False), ("5", False)])
async def test_a_call_may_ask_for_a_priority_within_the_tools_bounds(
    settings: Settings, asked: Any, accepted: bool
) -> None:
    async with serving(engine, settings) as peer:
        reply = await begin(peer, meta={"dev.taskengine/priority": asked})
        assert ("result" in reply.body) == accepted
        if not accepted:
            assert reply.refused == (400, -32602)


async def test_what_was_refused_has_left_nothing_behind(settings: Settings, store: Any) -> None:
    limited = settings.model_copy(update={"max_open_tasks_per_owner": 1})
    async with serving(engine, limited) as peer:
        await begin(peer)
        for _ in range(3):
            assert (await begin(peer)).status == 429
        assert await store.queues.waiting() == [{"name": "default", "waiting": 1, "blocked": 0}]
