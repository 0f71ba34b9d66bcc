"""Paused queues."""

from __future__ import annotations

from taskengine.lifecycle import Phase
from taskengine.records import Slot
from taskengine.store import Store
from tests.store.calls import OWNER, claimed, stored, take, worker
from tests.store.sql import execute


async def test_a_paused_queue_accepts_calls_and_runs_none(store: Store) -> None:
    await worker(store, "w1")
    await store.queues.pause("default", "the tape is full")
    for route in ("default", "default.sync"):
        bell = await stored(store, queue=route)
        assert await store.attempts.claim(bell, "w1") is None
        assert await store.attempts.claim_next(["default", "default.sync"], "w1") is None
        assert (await store.tasks.get(bell.task_id, OWNER)).phase is Phase.QUEUED
    other = await stored(store, queue="other")
    assert await take(store, other) is not None


async def test_a_resumed_queue_is_run_again(store: Store) -> None:
    bell = await stored(store)
    await store.queues.pause("default")
    assert await store.queues.resume("default")
    assert not await store.queues.resume("default")
    assert await take(store, bell) is not None


async def test_limits_do_not_get_round_a_pause(store: Store) -> None:
    await worker(store, "w1")
    bell = await stored(store, slots=(Slot("count:total", 1),))
    await store.queues.pause("default")
    assert await store.attempts.claim(bell, "w1") is None
    assert await store.attempts.claim_next(["default"], "w1") is None


async def test_what_runs_already_goes_on_and_what_comes_back_waits(store: Store) -> None:
    running = await claimed(store)
    await store.queues.pause("default")
    bell = await store.attempts.release(running)
    assert await take(store, bell) is None


async def test_the_relay_leaves_a_paused_queue_alone_and_rings_when_it_is_resumed(
    store: Store, database_url: str
) -> None:
    await stored(store)
    await execute(database_url, "UPDATE tasks SET rung_at = now() - interval '1 h'")
    await store.queues.pause("default")
    assert await store.upkeep.due(1.0) == {}
    assert await store.upkeep.ring_again("default", 1.0, 10) == []
    await store.queues.resume("default")
    assert await store.upkeep.due(1.0) == {"default": 1}


async def test_an_operator_sees_what_waits_and_what_is_paused(store: Store) -> None:
    await worker(store, "w1")
    for _ in range(3):
        await stored(store, slots=(Slot("count:total", 1),))
    await stored(store, queue="default.sync")
    claims = [await store.attempts.claim_next(["default"], "w1") for _ in range(2)]
    assert [claim is not None for claim in claims] == [True, False]
    assert await store.queues.waiting() == [{"name": "default", "waiting": 3, "blocked": 2}]
    await store.queues.pause("default", "why")
    (paused,) = await store.queues.paused()
    assert (paused["name"], paused["reason"]) == ("default", "why")
