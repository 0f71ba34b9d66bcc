from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg

from taskengine.lifecycle import Status
from taskengine.store import Store
from taskengine.store.upkeep import SWEEPING, Due, Swept
from tests.store.calls import LEASE_S, OWNER, RESULT, claimed, question, stored
from tests.store.sql import execute

EXPIRED = '{"code":-31001,"message":"nobody answered"}'


async def test_only_unheard_doorbells_are_rung_again_and_only_once(store: Store) -> None:
    first, second = await stored(store), await stored(store, queue="gpu")
    assert await store.upkeep.due(rung_before_s=60) == {}
    assert await store.upkeep.due(rung_before_s=0) == {"default": 1, "gpu": 1}
    assert await store.upkeep.ring_again("default", 0, 10) == [first]
    assert await store.upkeep.ring_again("gpu", 60, 10) == []
    assert await store.upkeep.ring_again("gpu", 0, 10) == [second]


async def test_ringing_again_takes_the_oldest_first(store: Store) -> None:
    bells = [await stored(store) for _ in range(3)]
    assert set(await store.upkeep.ring_again("default", 0, 2)) == set(bells[:2])


async def test_a_live_task_keeps_its_retention_ahead_of_it(store: Store, database_url: str) -> None:
    running = await claimed(store, ttl_ms=1000)
    await execute(database_url, "UPDATE tasks SET created_at = now() - interval '10 seconds', expires_at = now()")
    assert (await store.tasks.get(running.task_id, OWNER)).status is Status.WORKING
    assert await store.upkeep.extend() == 1
    record = await store.tasks.get(running.task_id, OWNER)
    assert record.created_at + timedelta(milliseconds=record.ttl_ms) > record.now


async def test_extending_does_not_wait_for_a_task_that_another_has_locked(store: Store, database_url: str) -> None:
    locked, free = await claimed(store, ttl_ms=1000), await claimed(store, "w2", ttl_ms=1000)
    await execute(database_url, "UPDATE tasks SET created_at = now() - interval '10 seconds', expires_at = now()")
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", locked.task_id)
            async with asyncio.timeout(20):
                assert await store.upkeep.extend() == 1
    finally:
        await holder.close()
    assert (await store.tasks.get(free.task_id, OWNER)).ttl_ms > 1000
    assert await store.upkeep.extend() == 1


async def test_a_result_stays_readable_for_half_a_ttl_after_a_long_run(store: Store, database_url: str) -> None:
    claim = await claimed(store, ttl_ms=60_000)
    await execute(database_url, "UPDATE tasks SET created_at = now() - interval '1 hour', expires_at = now()")
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    record = await store.tasks.get(claim.task_id, OWNER)
    left = record.created_at + timedelta(milliseconds=record.ttl_ms) - record.now
    assert timedelta(seconds=29) < left <= timedelta(seconds=90)


async def test_only_expired_ends_are_swept_with_everything_of_theirs(store: Store, database_url: str) -> None:
    kept, live, swept = await claimed(store), await claimed(store), await claimed(store)
    await store.attempts.suspend(swept, [question()], "Waiting")
    await store.tasks.cancel(swept.task_id, OWNER)
    await store.attempts.complete(kept, RESULT, is_error=False, status_message="Completed")
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 s' WHERE id <> $1", kept.task_id)
    assert (await store.upkeep.sweep()).tasks == 1
    rows = await execute(database_url, "SELECT id FROM tasks ORDER BY created_at")
    assert [row["id"] for row in rows] == [kept.task_id, live.task_id]
    assert await execute(database_url, "SELECT 1 FROM inputs") == []


async def test_sweeping_goes_in_batches(store: Store, database_url: str) -> None:
    for _ in range(5):
        await store.tasks.cancel((await stored(store)).task_id, OWNER)
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 s'")
    assert [(await store.upkeep.sweep(2)).tasks for _ in range(4)] == [2, 2, 1, 0]


async def test_a_sweep_goes_on_where_its_last_batch_stopped(store: Store, database_url: str) -> None:
    for _ in range(3):
        await store.tasks.cancel((await stored(store)).task_id, OWNER)
    await execute(
        database_url,
        "UPDATE tasks SET expires_at = now() - n * interval '1 s' FROM"
        " (SELECT id AS each, row_number() OVER () AS n FROM tasks) AS numbered WHERE id = each",
    )
    first = await store.upkeep.sweep(1)
    assert (first.tasks, (await store.upkeep.sweep(2, first.until)).tasks) == (1, 2)
    assert await store.upkeep.sweep(1) == Swept(0, None)


async def test_one_sweep_goes_on_at_a_time(store: Store, database_url: str) -> None:
    await store.tasks.cancel((await stored(store)).task_id, OWNER)
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 s'")
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock($1)", SWEEPING)
            assert (await store.upkeep.sweep()).tasks == 0
    finally:
        await holder.close()
    assert (await store.upkeep.sweep()).tasks == 1


async def test_a_look_at_an_empty_database_finds_nothing_to_do(store: Store) -> None:
    assert await store.upkeep.look(LEASE_S, 2.0, thorough=True) == Due(
        dead=False,
        held_by_nobody=False,
        unheard=False,
        wake_in_s=None,
        blocked=False,
        parents=False,
        children=False,
        ending=False,
        expired=False,
    )


async def test_a_look_finds_what_has_expired_or_soon_will(store: Store, database_url: str) -> None:
    await store.tasks.cancel((await stored(store)).task_id, OWNER)
    await stored(store)
    due = await store.upkeep.look(LEASE_S, 2.0)
    assert not due.ending
    assert not due.expired
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 s'")
    due = await store.upkeep.look(LEASE_S, 2.0)
    assert due.ending
    assert due.expired


async def test_a_look_finds_an_unheard_doorbell_and_a_task_that_nobody_holds(store: Store, database_url: str) -> None:
    await stored(store)
    claim = await claimed(store)
    assert (await store.upkeep.look(LEASE_S, 0.0)).unheard
    assert not (await store.upkeep.look(LEASE_S, 60.0)).unheard
    await store.workers.leave(claim.worker_id)
    assert not (await store.upkeep.look(LEASE_S, 60.0, thorough=True)).held_by_nobody
    await execute(database_url, "UPDATE tasks SET claimed_at = claimed_at - interval '1 hour'")
    assert (await store.upkeep.look(LEASE_S, 60.0, thorough=True)).held_by_nobody
    assert not (await store.upkeep.look(LEASE_S, 60.0)).held_by_nobody


async def test_a_task_nobody_answers_fails_after_the_longest_retention(store: Store, database_url: str) -> None:
    claim, other = await claimed(store), await claimed(store)
    for each in (claim, other):
        await store.attempts.suspend(each, [question()], "Waiting")
    await execute(database_url, "UPDATE tasks SET updated_at = now() - interval '31 days' WHERE id = $1", claim.task_id)
    assert await store.upkeep.expire(timedelta(days=30).total_seconds(), EXPIRED) == 1
    assert (await store.tasks.get(claim.task_id, OWNER)).error == EXPIRED
    assert (await store.tasks.get(other.task_id, OWNER)).status is Status.INPUT_REQUIRED


async def test_the_sweep_reads_only_what_has_expired(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    await execute(
        database_url,
        "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object('id', 'c' || n))).*"
        " FROM tasks t, generate_series(1, 5000) n",
    )
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 second' WHERE id = 'c7'")
    await execute(database_url, "ANALYZE tasks")
    assert (await store.upkeep.sweep()).tasks == 1
    await store.close()  # a session that ends reports what it read
    statement = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'ix_tasks_sweep'"
    async with asyncio.timeout(10):
        while not (read := (await execute(database_url, statement))[0][0]):
            await asyncio.sleep(0.05)
    assert read < 20
