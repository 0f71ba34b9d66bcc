"""Where a task stands that waits for a worker."""

from __future__ import annotations

from taskengine.records import Slot
from taskengine.store import Store
from taskengine.store.places import MOST
from tests.store.calls import OWNER, stored, worker
from tests.store.sql import execute


async def message(store: Store, task_id: str, owner: str = OWNER) -> str | None:
    return (await store.tasks.get(task_id, owner)).status_message


async def test_a_task_says_how_many_go_before_it(store: Store) -> None:
    first, second = await stored(store), await stored(store)
    for _ in range(3):
        last = await stored(store)
    urgent = await stored(store, priority=9)
    other = await stored(store, owner="bob")
    assert await message(store, urgent.task_id) == "Waiting for a worker"
    assert await message(store, first.task_id) == "Waiting for a worker, 1 before it"
    assert await message(store, other.task_id, "bob") == "Waiting for a worker, 2 before it"
    assert await message(store, second.task_id) == "Waiting for a worker, 3 before it"
    assert await message(store, last.task_id) == "Waiting for a worker, 6 before it"


async def test_a_running_task_says_nothing_of_the_queue(store: Store) -> None:
    await worker(store, "w1")
    bells = [await stored(store) for _ in range(3)]
    claim = await store.attempts.claim_next(["default"], "w1")
    assert claim is not None
    assert await message(store, claim.task_id) == "Running"
    assert await message(store, bells[2].task_id) == "Waiting for a worker, 1 before it"


async def test_what_a_limit_holds_back_counts_those_that_wait_for_the_same(store: Store) -> None:
    await worker(store, "w1")
    bells = [await stored(store, slots=(Slot("count:total", 1),)) for _ in range(4)]
    claims = [await store.attempts.claim_next(["default"], "w1") for _ in range(2)]
    assert [claim is not None for claim in claims] == [True, False]
    assert await message(store, bells[3].task_id) == "Waiting: as many run as its limit allows, 2 before it"


async def test_a_paused_queue_is_named_as_the_reason(store: Store) -> None:
    bell = await stored(store)
    await store.queues.pause("default")
    assert await message(store, bell.task_id) == "Waiting: its queue is paused"


async def test_a_long_backlog_is_not_counted_to_its_end(store: Store, database_url: str) -> None:
    await stored(store)
    copies = "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object({}))).* FROM tasks t, n"
    numbers = "WITH n AS (SELECT generate_series(1, 500) n) "
    await execute(database_url, numbers + copies.format("'id', 'c' || n, 'turn', t.turn + n"))
    assert await message(store, "c500") == f"Waiting for a worker, more than {MOST} before it"
    assert await message(store, "c7") == "Waiting for a worker, 7 before it"
