"""The order of a queue: fair among owners."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from taskengine.lifecycle import Phase
from taskengine.records import Claim, Entry
from taskengine.store import Store
from tests.store.calls import OWNER, claimed, new_task, question, stored, worker
from tests.store.sql import execute


async def order(store: Store, times: int, queues: tuple[str, ...] = ("default",)) -> list[Claim]:
    """What a free slot takes, one after the other."""
    claims = [await store.attempts.claim_next(queues, "w1") for _ in range(times)]
    return [claim for claim in claims if claim is not None]


@pytest.fixture(autouse=True)
async def _working(store: Store) -> None:
    await worker(store, "w1")


async def test_one_owners_backlog_does_not_stand_before_the_first_call_of_another(store: Store) -> None:
    for _ in range(60):
        await stored(store, owner="ann")
    await stored(store, owner="bob")
    assert [claim.owner for claim in await order(store, 2)] == ["ann", "bob"]


async def test_owners_take_turns_however_much_each_has_sent(store: Store) -> None:
    for owner, many in (("ann", 9), ("bob", 3), ("eve", 3)):
        for _ in range(many):
            await stored(store, owner=owner)
    owners = [claim.owner for claim in await order(store, 9)]
    assert owners == ["ann", "bob", "eve"] * 3


async def test_whoever_comes_late_begins_at_the_front_and_gets_no_more_than_a_share(store: Store) -> None:
    for _ in range(30):
        await stored(store, owner="ann")
    await order(store, 20)
    for _ in range(5):
        await stored(store, owner="bob")
    owners = [claim.owner for claim in await order(store, 10)]
    assert owners.count("bob") == 5
    assert owners.index("bob") <= 1
    assert all(owners[n : n + 2].count("bob") == 1 for n in range(0, 10, 2))


async def test_each_owners_own_calls_keep_their_order(store: Store) -> None:
    sent: dict[str, list[str]] = {"ann": [], "bob": []}
    for owner in ("ann", "ann", "bob", "ann", "bob", "bob"):
        sent[owner].append((await stored(store, owner=owner)).task_id)
    claims = await order(store, 6)
    for owner, ids in sent.items():
        assert [claim.task_id for claim in claims if claim.owner == owner] == ids


async def test_an_empty_queue_leaves_nothing_to_catch_up_with(store: Store) -> None:
    """Whoever was served alone for long is not behind those who come then, nor before them."""
    for _ in range(20):
        await stored(store, owner="ann")
    await order(store, 20)
    for owner in ("bob", "ann", "bob", "ann"):
        await stored(store, owner=owner)
    assert [claim.owner for claim in await order(store, 4)] == ["bob", "ann", "bob", "ann"]


async def test_what_comes_back_does_not_go_behind_its_owners_own_backlog(store: Store) -> None:
    asking = await claimed(store)
    await store.attempts.suspend(asking, [question()], "Waiting")
    for _ in range(30):
        await stored(store)
    await store.inputs.answer(asking.task_id, OWNER, {"name": {"action": "accept"}})
    assert asking.task_id in {claim.task_id for claim in await order(store, 2)}


async def test_many_that_wake_at_once_do_not_stand_before_another_owner(store: Store) -> None:
    asleep = [await claimed(store, owner="ann") for _ in range(20)]
    for claim in asleep:
        await store.waits.park(claim, message="Sleeping", wake_at=datetime.now(UTC))
    woken = await store.waits.wake_due()
    assert len(woken) == 20
    await stored(store, owner="bob")
    assert "bob" in [claim.owner for claim in await order(store, 2)]


async def test_the_calls_that_one_task_makes_at_once_do_not_stand_before_another_owner(store: Store) -> None:
    parent = await claimed(store, owner="ann")
    children = [new_task(owner="ann", parent=parent.task_id) for _ in range(20)]
    entries = [Entry(str(n), "call", "count", done=False, child_id=child.id) for n, child in enumerate(children, 1)]
    await store.journal.record(parent, entries, children)
    await stored(store, owner="bob")
    assert "bob" in [claim.owner for claim in await order(store, 2)]


async def test_a_higher_priority_goes_first_and_owners_take_turns_within_each(store: Store) -> None:
    for owner, priority in (("ann", 0), ("ann", 5), ("ann", 5), ("bob", 5), ("eve", 9)):
        await stored(store, owner=owner, priority=priority)
    assert [claim.owner for claim in await order(store, 5)] == ["eve", "ann", "bob", "ann", "ann"]


async def test_a_backlog_in_one_queue_does_not_starve_another_of_the_same_worker(store: Store) -> None:
    for _ in range(40):
        await stored(store, queue="default")
    await stored(store, queue="other")
    claims = await order(store, 40, ("default", "other"))
    assert "other" in [claim.queue for claim in claims]  # 39 times the one and never the other: 1 in 2^39


async def test_calls_at_one_instant_get_turns_that_are_fair_all_the_same(store: Store) -> None:
    await asyncio.gather(*(stored(store, owner="ann") for _ in range(40)))
    await stored(store, owner="bob")
    assert "bob" in [claim.owner for claim in await order(store, 12)]


async def test_a_call_is_placed_without_reading_the_backlog(store: Store, database_url: str) -> None:
    await stored(store)
    copies = "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object({}))).* FROM tasks t, n"
    numbers = "WITH n AS (SELECT generate_series(1, 5000) n) "
    await execute(database_url, numbers + copies.format("'id', 'c' || n, 'turn', t.turn + n"))
    await execute(database_url, "ANALYZE tasks")
    plan = "\n".join(
        row[0]
        for row in await execute(
            database_url,
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT max(turn) FROM tasks WHERE owner = 'ann'"
            " AND queue = 'default' AND priority = 0 AND phase = 'queued' AND attempt = 0",
        )
    )
    assert "ix_tasks_first" in plan
    assert "rows=1" in plan.split("ix_tasks_first", 1)[1]
    late = await stored(store)
    is_last = "SELECT turn = (SELECT max(turn) FROM tasks) FROM tasks WHERE id = $1"
    assert (await execute(database_url, is_last, late.task_id))[0][0] is True
    assert (await store.tasks.get(late.task_id, OWNER)).phase is Phase.QUEUED


async def test_slots_that_ask_at_the_same_time_get_different_tasks_in_their_order(store: Store) -> None:
    tasks = [(await store.tasks.create(new_task(owner=owner)))[0].id for owner in ("a", "a", "b")]
    claims = await asyncio.gather(*(store.attempts.claim_next(["default"], "w1") for _ in range(5)))
    assert sorted(claim.task_id for claim in claims if claim is not None) == sorted(tasks)
    assert sum(claim is None for claim in claims) == 2


async def test_of_those_that_ask_together_for_fewer_than_wait_the_first_by_turn_go(store: Store) -> None:
    first, _, other = [(await store.tasks.create(new_task(owner=owner)))[0].id for owner in ("a", "a", "b")]
    claims = await asyncio.gather(*(store.attempts.claim_next(["default"], "w1") for _ in range(2)))
    assert {claim.task_id for claim in claims if claim is not None} == {first, other}
