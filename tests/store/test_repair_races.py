"""The repairs against what they meet at the same moment, staged by a row that somebody else has locked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from taskengine.errors import ClaimLost, TaskNotFound
from taskengine.lifecycle import Phase, Status
from taskengine.store import Store
from tests.store.calls import LEASE_S, OWNER, RESULT, claimed, question, stored, take, worker
from tests.store.sql import execute
from tests.store.test_cancel_locks import wait_for_locks
from tests.store.test_workers import NO_GRACE_S

YES = {"action": "accept", "content": {"name": "Ann"}}
EXPIRED = json.dumps({"code": -31001, "message": "Nobody answered"})
LAPSED = "UPDATE workers SET lease_until = now() - interval '1 second'"


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Somebody who has rows locked; never the one that Postgres ends when two wait for each other."""
    connection = await asyncpg.connect(database_url, server_settings={"deadlock_timeout": "600s"})
    yield connection
    await connection.close()


async def _in_turn(other: asyncpg.Connection[Any], lock: str, first: Any, then: Any) -> list[Any]:
    """Both meet a locked row: `first` has come before `then`. What they gave or raised."""
    async with other.transaction():
        await other.execute(lock)
        one = asyncio.ensure_future(first)
        await wait_for_locks(other, 1)
        two = asyncio.ensure_future(then)
        await asyncio.wait({two}, timeout=0.2)  # it waits too, or has passed over the row
    return await asyncio.gather(one, two, return_exceptions=True)


async def test_a_heartbeat_at_the_last_moment_keeps_its_worker(
    store: Store, database_url: str, other: asyncpg.Connection[Any]
) -> None:
    """The row is locked by the renewal when the reaper comes: it passes over it, and finds nobody dead afterwards."""
    claim = await claimed(store)
    await execute(database_url, LAPSED)
    async with other.transaction():
        await other.execute("UPDATE workers SET lease_until = now() + interval '15 seconds'")
        assert (await store.workers.reap(NO_GRACE_S, 3)).workers == ()
    assert (await store.workers.reap(NO_GRACE_S, 3)).workers == ()
    assert await store.workers.renew(claim.worker_id, LEASE_S) == {(claim.task_id, 1)}


async def test_a_heartbeat_that_comes_while_its_worker_is_buried_is_told_so(
    store: Store, other: asyncpg.Connection[Any]
) -> None:
    """The reaper has the worker's row: the renewal waits for the reaper, and finds nothing."""
    claim = await claimed(store)
    async with other.transaction():
        await other.execute("DELETE FROM workers WHERE id = $1", claim.worker_id)  # as the reaper does at its end
        renewing = asyncio.ensure_future(store.workers.renew(claim.worker_id, LEASE_S))
        await wait_for_locks(other, 1)
    assert await renewing is None


async def test_a_completion_that_comes_before_the_reaper_stays(
    store: Store, database_url: str, other: asyncpg.Connection[Any]
) -> None:
    claim = await claimed(store)
    await execute(database_url, LAPSED)
    completed, reaped = await _in_turn(
        other,
        f"SELECT id FROM tasks WHERE id = '{claim.task_id}' FOR UPDATE",
        store.attempts.complete(claim, RESULT, is_error=False, status_message="Done"),
        store.workers.reap(NO_GRACE_S, 3),
    )
    assert completed is None or isinstance(completed, ClaimLost)  # lost: a repeated write that had been committed
    assert reaped.doorbells == ()
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, record.attempt, record.result) == (Status.COMPLETED, 1, RESULT)


async def test_a_completion_that_comes_while_the_reaper_has_its_task_is_refused(
    store: Store, other: asyncpg.Connection[Any]
) -> None:
    claim = await claimed(store)
    async with other.transaction():
        await other.execute("UPDATE tasks SET phase = 'queued', worker_id = NULL")  # as the reaper does
        completing = asyncio.ensure_future(
            store.attempts.complete(claim, RESULT, is_error=False, status_message="Done")
        )
        await wait_for_locks(other, 1)
    with pytest.raises(ClaimLost):
        await completing
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.phase, record.attempt, record.result) == (Phase.QUEUED, 1, None)


async def test_a_reaper_that_comes_while_a_completion_is_under_way_leaves_the_task_to_it(
    store: Store, database_url: str, other: asyncpg.Connection[Any]
) -> None:
    await claimed(store)
    await execute(database_url, LAPSED)
    async with other.transaction():
        await other.execute("SELECT id FROM tasks FOR UPDATE")  # as the statement that completes it
        reaped = await store.workers.reap(NO_GRACE_S, 3)
    assert reaped.doorbells == ()
    assert [bell.attempt for bell in (await store.workers.reap(NO_GRACE_S, 3)).doorbells] == [2]


async def test_twenty_relays_at_once_ring_hardly_more_than_once_a_task(store: Store, database_url: str) -> None:
    """10,000 rows are due: each is rung for at most 1.2 times on average, and claimed once."""
    await stored(store)
    await execute(
        database_url,
        "INSERT INTO tasks (id, owner, tool, queue, status, phase, arguments, capabilities, base_ttl_ms, ttl_ms,"
        " expires_at, poll_interval_ms, created_at) SELECT 'tsk_' || n, owner, tool, queue, status, phase, '{}',"
        " '{}', base_ttl_ms, ttl_ms, expires_at, poll_interval_ms, created_at - interval '1 minute'"
        " FROM tasks, generate_series(1, 10000) AS n",
    )

    async def relay() -> list[str]:
        rung: list[str] = []
        while again := await store.upkeep.ring_again("default", 30.0, 1000):
            rung += [doorbell.task_id for doorbell in again]
        return rung

    rung = [task_id for each in await asyncio.gather(*(relay() for _ in range(20))) for task_id in each]
    assert len(rung) <= 1.2 * 10_000
    unrung = "SELECT count(*) FROM tasks WHERE rung_at IS NULL AND created_at < now() - interval '30 s'"
    assert (await execute(database_url, unrung))[0][0] == 0
    for name in ("w1", "w2"):
        await worker(store, name)
    claims = await asyncio.gather(
        *(store.attempts.claim_next(("default",), name, ("count",)) for name in ("w1", "w2") for _ in range(50))
    )
    taken = [claim.task_id for claim in claims if claim is not None]
    assert len(taken) >= 50
    assert len(taken) == len(set(taken))


async def test_an_answer_that_comes_before_the_end_of_the_wait_counts(
    store: Store, database_url: str, other: asyncpg.Connection[Any]
) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a")], "Waiting")
    await execute(database_url, "UPDATE tasks SET updated_at = now() - interval '31 days'")
    await _in_turn(
        other,
        f"SELECT id FROM tasks WHERE id = '{claim.task_id}' FOR UPDATE",
        store.inputs.answer(claim.task_id, OWNER, {"a": YES}),
        store.upkeep.expire(30 * 86_400, EXPIRED),
    )
    assert (await store.tasks.get(claim.task_id, OWNER)).phase is Phase.QUEUED


async def test_an_answer_that_comes_after_the_end_of_the_wait_changes_nothing(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a")], "Waiting")
    await execute(database_url, "UPDATE tasks SET updated_at = now() - interval '31 days'")
    await store.upkeep.expire(30 * 86_400, EXPIRED)
    ended = await store.tasks.get(claim.task_id, OWNER)
    assert ended.status is Status.FAILED
    assert await store.inputs.answer(claim.task_id, OWNER, {"a": YES}) is None
    assert replace(await store.tasks.get(claim.task_id, OWNER), now=ended.now) == ended


async def test_a_task_that_is_parked_past_its_ttl_stays_and_can_be_answered(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a")], "Waiting")
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 hour'")
    assert (await store.upkeep.sweep()).tasks == 0
    await store.upkeep.extend()
    record = await store.tasks.get(claim.task_id, OWNER)
    assert record.status is Status.INPUT_REQUIRED
    assert await store.inputs.answer(claim.task_id, OWNER, {"a": YES}) is not None


async def test_a_task_that_is_read_while_it_is_swept_is_there_or_gone_and_never_half(
    store: Store, database_url: str, other: asyncpg.Connection[Any]
) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a")], "Waiting")
    await store.tasks.cancel(claim.task_id, OWNER)
    async with other.transaction():
        await other.execute("DELETE FROM tasks")  # a sweep that has not committed
        read = await store.tasks.get(claim.task_id, OWNER)
        assert read.status is Status.CANCELLED
        answering = asyncio.ensure_future(store.inputs.answer(claim.task_id, OWNER, {"a": YES}))
        await asyncio.wait({answering}, timeout=0.2)
    answered = (await asyncio.gather(answering, return_exceptions=True))[0]
    assert answered is None or isinstance(answered, TaskNotFound)
    with pytest.raises(TaskNotFound):
        await store.tasks.get(claim.task_id, OWNER)
    assert await execute(database_url, "SELECT 1 FROM inputs") == []


async def test_a_question_of_thirty_days_ago_is_answered_to_another_fleet(store: Store, database_url: str) -> None:
    """Everything the row knows of time lies back thirty days; its worker is long gone."""
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a")], "Waiting")
    await store.workers.leave(claim.worker_id)
    await execute(
        database_url,
        "UPDATE tasks SET created_at = created_at - interval '30 days', claimed_at = claimed_at - interval '30 days',"
        " expires_at = expires_at - interval '30 days', updated_at = now() - interval '29 days 23 hours'",
    )
    await worker(store, "w2")
    for _ in range(2):
        await store.upkeep.extend()
        await store.upkeep.sweep()
        await store.upkeep.expire(30 * 86_400, EXPIRED)
        assert (await store.workers.reap(NO_GRACE_S, 3)).doorbells == ()
    doorbell = await store.inputs.answer(claim.task_id, OWNER, {"a": YES})
    assert doorbell is not None
    again = await take(store, doorbell, "w2")
    assert again is not None
    assert (again.attempt, again.answers["a"].response) == (2, YES)
    await store.attempts.complete(again, RESULT, is_error=False, status_message="Done")
    assert (await store.tasks.get(claim.task_id, OWNER)).status is Status.COMPLETED
