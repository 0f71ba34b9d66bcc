"""How many run at once: at the claim, whoever claims at the same instant."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from taskengine.lifecycle import Phase
from taskengine.records import Claim, Doorbell, Entry, Slot
from taskengine.settings import Settings
from taskengine.store import Store
from tests.store.calls import OWNER, RESULT, new_task, question, stored, take, worker
from tests.store.sql import execute

ONE = (Slot("count:total", 1),)
TWO = (Slot("count:total", 2),)


@pytest.fixture(autouse=True)
async def _working(store: Store) -> None:
    await worker(store, "w1")


async def claim_next(store: Store) -> Claim | None:
    return await store.attempts.claim_next(["default"], "w1")


async def end(store: Store, claim: Claim) -> list[Doorbell]:
    """As a worker ends it."""
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    return await store.limits.free(claim.limits)


async def test_no_more_run_than_the_limit_says(store: Store) -> None:
    for _ in range(4):
        await stored(store, slots=TWO)
    claims = [await claim_next(store) for _ in range(4)]
    assert [claim is not None for claim in claims] == [True, True, False, False]


async def test_an_end_makes_room_for_the_next_one(store: Store) -> None:
    first, second = await stored(store, slots=ONE), await stored(store, slots=ONE)
    running = await claim_next(store)
    assert running is not None
    assert running.task_id == first.task_id
    assert await claim_next(store) is None
    assert [bell.task_id for bell in await end(store, running)] == [second.task_id]
    following = await claim_next(store)
    assert following is not None
    assert following.task_id == second.task_id


async def test_what_is_held_back_says_so(store: Store) -> None:
    await stored(store, slots=ONE)
    waiting = await stored(store, slots=ONE)
    assert await claim_next(store) is not None
    assert await claim_next(store) is None
    record = await store.tasks.get(waiting.task_id, OWNER)
    assert record.phase is Phase.QUEUED
    assert (record.status_message or "").startswith("Waiting: as many run as its limit allows")


async def test_what_may_not_run_stands_in_nobodys_way(store: Store) -> None:
    for _ in range(30):
        await stored(store, slots=ONE)
    free = [await stored(store, owner="bob", tool="add") for _ in range(3)]
    claims = [await claim_next(store) for _ in range(4)]
    ids = {claim.task_id for claim in claims if claim is not None}
    assert {bell.task_id for bell in free} < ids
    assert len(ids) == 4


async def test_each_key_has_a_count_of_its_own_and_all_must_have_room(store: Store) -> None:
    def slots(customer: str) -> tuple[Slot, ...]:
        return Slot(f"count:arg:{customer}", 1), Slot("count:total", 2)

    a1, _, b, _ = [await stored(store, slots=slots(customer)) for customer in ("a", "a", "b", "c")]
    claims = [await claim_next(store) for _ in range(4)]
    assert {claim.task_id for claim in claims if claim is not None} == {a1.task_id, b.task_id}


@pytest.mark.parametrize("doorbell", [True, False])
async def test_of_many_claims_at_once_only_as_many_go_through_as_may_run(store: Store, doorbell: bool) -> None:
    bells = [await stored(store, slots=TWO) for _ in range(12)]
    for n in range(8):
        await worker(store, f"c{n}")
    if doorbell:
        claims = await asyncio.gather(*(take(store, bell, f"c{n % 8}") for n, bell in enumerate(bells)))
    else:
        claims = await asyncio.gather(*(store.attempts.claim_next(["default"], f"c{n}") for n in range(8)))
    assert len([claim for claim in claims if claim is not None]) == 2


async def test_a_claim_waits_for_one_that_has_not_committed_and_counts_it(
    store: Store, settings: Settings, database_url: str
) -> None:
    """Staged: another session has claimed the first under the key's lock, and holds its transaction open."""
    first, second = await stored(store, slots=ONE), await stored(store, slots=ONE)
    other = await asyncpg.connect(database_url)
    looking = await asyncpg.connect(database_url)
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('count:total', 0))")
        await other.execute(
            "UPDATE tasks SET phase = 'running', attempt = 1, worker_id = 'w1', claimed_at = now() WHERE id = $1",
            first.task_id,
        )
        claiming = asyncio.create_task(store.attempts.claim(second, "w1"))
        async with asyncio.timeout(30):
            while not await looking.fetchval(
                "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
                " WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted"
            ):
                await asyncio.sleep(0.01)
        assert not claiming.done()
        await transaction.commit()
        assert await claiming is None
    finally:
        await other.close()
        await looking.close()
    assert await store.limits.free(["count:total"]) == []


async def test_a_task_that_waits_holds_no_place_and_counts_again_when_it_goes_on(store: Store) -> None:
    await stored(store, slots=ONE)
    asking = await claim_next(store)
    assert asking is not None
    await store.attempts.suspend(asking, [question()], "Waiting")
    other = await stored(store, slots=ONE)
    running = await claim_next(store)
    assert running is not None
    assert running.task_id == other.task_id
    await store.inputs.answer(asking.task_id, OWNER, {"name": {"action": "accept"}})
    assert await claim_next(store) is None
    await end(store, running)
    again = await claim_next(store)
    assert again is not None
    assert again.task_id == asking.task_id


async def test_an_attempt_that_lingers_keeps_its_place(store: Store) -> None:
    await stored(store, slots=ONE)
    asking = await claim_next(store)
    assert asking is not None
    await store.waits.park(asking, message="Waiting", questions=[question()], linger_s=60)
    await stored(store, slots=ONE)
    assert await claim_next(store) is None
    await store.inputs.answer(asking.task_id, OWNER, {"name": {"action": "accept"}})
    assert await store.waits.take_back(asking) is not None
    assert await claim_next(store) is None


async def test_an_attempt_that_comes_back_too_late_has_lost_its_place(store: Store, database_url: str) -> None:
    """Its worker was slow: what is counted by now is that it lingers no more, and another has the place."""
    await stored(store, slots=ONE)
    asking = await claim_next(store)
    assert asking is not None
    await store.waits.park(asking, message="Waiting", questions=[question()], linger_s=60)
    await execute(database_url, "UPDATE tasks SET kept_until = clock_timestamp() - interval '2 s'")
    other = await stored(store, slots=ONE)
    running = await claim_next(store)
    assert running is not None
    assert running.task_id == other.task_id
    await store.inputs.answer(asking.task_id, OWNER, {"name": {"action": "accept"}})
    assert await store.waits.take_back(asking) is None
    assert await claim_next(store) is None
    await end(store, running)
    again = await claim_next(store)
    assert again is not None
    assert again.task_id == asking.task_id


async def test_what_a_dead_worker_left_blocked_is_freed_by_the_janitor(store: Store, database_url: str) -> None:
    await stored(store, slots=ONE)
    blocked = await stored(store, slots=ONE)
    running = await claim_next(store)
    assert running is not None
    assert await claim_next(store) is None
    assert await store.limits.free_all() == []
    await store.tasks.cancel(running.task_id, OWNER)
    assert [bell.task_id for bell in await store.limits.free_all()] == [blocked.task_id]


async def test_the_held_back_become_due_by_turn_so_that_owners_share_a_limit(store: Store) -> None:
    for _ in range(20):
        await stored(store, owner="ann", slots=ONE)
    running = await claim_next(store)
    assert await claim_next(store) is None
    await stored(store, owner="bob", slots=ONE)
    served = []
    for _ in range(4):
        assert running is not None
        served.append(running.owner)
        await end(store, running)
        running = await claim_next(store)
    assert "bob" in served[:3]


async def test_a_cancelled_task_that_was_held_back_stays_cancelled(store: Store) -> None:
    await stored(store, slots=ONE)
    blocked = await stored(store, slots=ONE)
    running = await claim_next(store)
    assert running is not None
    assert await claim_next(store) is None
    await store.tasks.cancel(blocked.task_id, OWNER)
    assert await end(store, running) == []
    assert await claim_next(store) is None


async def test_blocked_tasks_are_not_rung_again(store: Store, database_url: str) -> None:
    for _ in range(3):
        await stored(store, slots=ONE)
    assert await claim_next(store) is not None
    assert await claim_next(store) is None
    await execute(database_url, "UPDATE tasks SET rung_at = now() - interval '1 h'")
    assert await store.upkeep.due(1.0) == {}


async def test_the_children_of_a_task_count_too(store: Store) -> None:
    parent = await take(store, await stored(store, tool="parent"))
    assert parent is not None
    children = [new_task(parent=parent.task_id, slots=ONE, priority=2) for _ in range(2)]
    entries = [Entry(str(n), "call", "count", done=False, child_id=child.id) for n, child in enumerate(children, 1)]
    await store.journal.record(parent, entries, children)
    claims = [await claim_next(store) for _ in range(2)]
    assert [claim is not None for claim in claims] == [True, False]
    assert claims[0] is not None
    assert claims[0].limits == ("count:total",)
