from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest
from sqlalchemy import text, update

from taskengine.errors import ClaimLost, StoreUnavailable
from taskengine.lifecycle import Phase, Status
from taskengine.settings import Settings
from taskengine.store import Store, database
from taskengine.store.presence import hold_presence
from taskengine.store.tables import tasks
from tests.store.calls import LEASE_S, OWNER, RESULT, claimed, worker
from tests.store.sql import execute

NO_GRACE_S = 0.0
"""A lease of nothing: Postgres counts as settled although the tests have only just started it."""


async def _expire_lease(url: str, worker_id: str) -> None:
    await execute(url, "UPDATE workers SET lease_until = now() - interval '1 second' WHERE id = $1", worker_id)


async def test_a_worker_whose_lease_ended_is_buried_and_its_tasks_are_due(store: Store, database_url: str) -> None:
    await worker(store, "w1")
    claim = await claimed(store, "w1")
    await _expire_lease(database_url, "w1")
    assert (await store.upkeep.look(NO_GRACE_S, 2)).dead
    reaped = await store.workers.reap(NO_GRACE_S, 3)
    assert reaped.workers == ("w1",)
    assert [(bell.task_id, bell.attempt) for bell in reaped.doorbells] == [(claim.task_id, 2)]
    assert await store.workers.renew("w1", LEASE_S) is None


async def test_a_live_worker_keeps_its_tasks(store: Store) -> None:
    await worker(store, "w1")
    claim = await claimed(store, "w1")
    assert not (await store.upkeep.look(LEASE_S, 2)).dead
    assert (await store.workers.reap(LEASE_S, 3)).doorbells == ()
    assert await store.workers.renew("w1", LEASE_S) == {(claim.task_id, 1)}


async def test_a_task_that_lost_too_many_workers_fails(store: Store, database_url: str) -> None:
    await worker(store, "w1")
    claim = await claimed(store, "w1")
    await _expire_lease(database_url, "w1")
    reaped = await store.workers.reap(NO_GRACE_S, 1)
    assert reaped.failed == (claim.task_id,)
    record = await store.tasks.get(claim.task_id, OWNER)
    assert record.status is Status.FAILED
    assert json.loads(record.error or "")["data"] == {
        "attempts": [{"attempt": 1, "cause": "its worker died or was cut off"}]
    }
    assert "peak memory unknown" in (record.status_message or "")
    (lost,) = (await store.inspection.show(claim.task_id))["losses"]
    assert (lost["attempt"], lost["worker"]) == (1, "w1")


async def test_no_lease_ends_soon_after_postgres_started(store: Store, database_url: str) -> None:
    await worker(store, "w1")
    await claimed(store, "w1")
    await _expire_lease(database_url, "w1")
    a_day_s = 86_400.0
    assert (await store.workers.reap(a_day_s, 3)).workers == ()


async def test_a_free_presence_lock_must_be_seen_twice(store: Store, database_url: str) -> None:
    await worker(store, "w1", presence_key=77)
    await claimed(store, "w1")
    await store.upkeep.look(NO_GRACE_S, 2)
    assert (await store.workers.reap(LEASE_S, 3)).workers == ()
    await execute(database_url, "UPDATE workers SET suspected_at = suspected_at - interval '2 seconds'")
    assert (await store.workers.reap(LEASE_S, 3)).workers == ("w1",)


async def test_a_worker_that_holds_its_lock_again_is_no_longer_suspected(store: Store, database_url: str) -> None:
    await worker(store, "w1", presence_key=78)
    await store.upkeep.look(NO_GRACE_S, 2)
    session = await asyncpg.connect(database_url)
    try:
        await hold_presence(session, 78)
        await store.upkeep.look(NO_GRACE_S, 2)
        (row,) = await execute(database_url, "SELECT suspected_at FROM workers")
        assert row["suspected_at"] is None
    finally:
        await session.close()


async def test_a_task_held_by_an_unregistered_worker_is_due_again(store: Store, database_url: str) -> None:
    claim = await claimed(store, "gone")
    await store.workers.leave("gone")
    await execute(database_url, "UPDATE tasks SET claimed_at = now() - interval '1 minute'")
    reaped = await store.workers.reap(LEASE_S, 3)
    assert [bell.task_id for bell in reaped.doorbells] == [claim.task_id]
    assert (await store.tasks.get(claim.task_id, OWNER)).phase is Phase.QUEUED


async def test_a_task_that_somebody_has_locked_does_not_hold_up_the_burial_of_others(
    store: Store, database_url: str
) -> None:
    """As by a worker that froze between two statements of a transaction."""
    locked, free = await claimed(store, "w1"), await claimed(store, "w1")
    await _expire_lease(database_url, "w1")
    frozen = await asyncpg.connect(database_url)
    try:
        async with frozen.transaction():
            await frozen.execute("SELECT 1 FROM tasks WHERE id = $1 FOR SHARE", locked.task_id)
            async with asyncio.timeout(10):
                first = await store.workers.reap(NO_GRACE_S, 3)
            assert [bell.task_id for bell in first.doorbells] == [free.task_id]
            assert first.workers == ()  # so that the next look finds it again
            assert (await store.upkeep.look(NO_GRACE_S, 2)).dead
        second = await store.workers.reap(NO_GRACE_S, 3)
    finally:
        await frozen.close()
    assert [bell.task_id for bell in second.doorbells] == [locked.task_id]
    assert second.workers == ("w1",)


async def test_whoever_stands_still_in_a_transaction_loses_its_locks(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process may be frozen: it is Postgres that ends it, and the transaction is as if it had never begun."""
    monkeypatch.setattr(database, "_BEGIN", database._BEGIN.replace("'5s'", "'100ms'"))
    store = await Store.open(settings)
    claim = await claimed(store)
    both = await asyncio.gather(*(_stand_still(store, claim.task_id) for _ in range(2)), return_exceptions=True)
    assert [type(error) for error in both] == [StoreUnavailable] * 2
    record = await store.tasks.get(claim.task_id, OWNER)
    assert record.status_message == "Running"
    assert await execute(database_url, "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == []
    await store.attempts.log(claim, [{"level": "info", "logger": None, "data": '"still fit for use"'}])
    await store.close()


async def _stand_still(store: Store, task_id: str) -> None:
    """The other of two waits for the lock of the one until that has lost it."""
    async with store._database.transaction() as connection:
        await connection.execute(update(tasks).where(tasks.c.id == task_id).values(status_message="half"))
        while True:
            await asyncio.sleep(0.2)
            await connection.execute(text("SELECT 1"))


async def test_who_resigns_hands_back_what_it_held_with_nothing_held_against_it(
    store: Store, database_url: str
) -> None:
    claim, other = await claimed(store, "w1"), await claimed(store, "w2")
    await execute(database_url, "UPDATE tasks SET claimed_at = now() - interval '10 min';")
    await execute(database_url, "UPDATE workers SET lease_until = now() - interval '9 min' WHERE id = 'w1'")
    assert await store.workers.resign("w1") == 1
    row = await store.inspection.show(claim.task_id)
    assert (row["phase"], row["worker_id"], row["crashes"], row["losses"]) == (Phase.QUEUED, None, 0, [])
    (ran,) = await execute(database_url, "SELECT ran_ms FROM tasks WHERE id = $1", claim.task_id)
    assert 59_000 <= ran["ran_ms"] <= 61_000  # the time after its lease was nobody's running time
    assert [each["id"] for each in await store.workers.alive()] == ["w2"]
    assert (await store.tasks.get(other.task_id, OWNER)).phase is Phase.RUNNING
    assert await store.workers.resign("w1") == 0
    again = await store.attempts.claim_next(["default"], "w2")
    assert again is not None
    assert (again.task_id, again.attempt) == (claim.task_id, 2)
    with pytest.raises(ClaimLost):
        await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")


async def test_leaving_forgets_the_worker(store: Store) -> None:
    await worker(store, "w1")
    assert [each["id"] for each in await store.workers.alive()] == ["w1"]
    await store.workers.leave("w1")
    assert await store.workers.alive() == []
