from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from taskengine.errors import ClaimLost
from taskengine.lifecycle import Phase, Status
from taskengine.records import Claim, Doorbell, Entry, NewTask
from taskengine.store import Store
from tests.store.calls import LEASE_S, OWNER, RESULT, claimed, new_task, question, take, worker
from tests.store.sql import execute

FIRST = Entry("1", "step", "fetch", value='{"a":"\\u0000"}', version="1")
LATER = datetime.now(UTC) + timedelta(hours=1)
HELD = "UPDATE tasks SET status_message = 'held' WHERE id = $1"
CHILD = "tsk_child"


def child(claim: Claim, task_id: str = CHILD) -> NewTask:
    return new_task(id=task_id, owner=claim.owner, tool="double", parent=claim.task_id)


def called(task_id: str = CHILD, path: str = "1") -> Entry:
    return Entry(path, "call", "double", child_id=task_id)


async def again(store: Store, claim: Claim, worker_id: str = "w2") -> Claim:
    """The next attempt, after this one was handed back."""
    taken = await take(store, await store.attempts.release(claim), worker_id)
    assert taken is not None
    return taken


async def test_the_next_attempt_reads_what_was_recorded(store: Store) -> None:
    claim = await claimed(store)
    assert claim.journal == {}
    await store.journal.record(claim, [FIRST, replace(FIRST, path="2.0.1", error="{}", value=None, tries=3, due=LATER)])
    taken = await again(store, claim)
    assert taken.journal == {
        "1": FIRST,
        "2.0.1": Entry("2.0.1", "step", "fetch", error="{}", tries=3, due=LATER, version="1"),
    }


async def test_a_result_that_was_recorded_never_changes(store: Store) -> None:
    claim = await claimed(store)
    await store.journal.record(claim, [FIRST])
    await store.journal.record(claim, [replace(FIRST, value='"other"')])
    assert (await store.journal.load(claim.task_id))["1"].value == FIRST.value


async def test_a_step_that_waits_for_its_next_try_is_overwritten(store: Store) -> None:
    claim = await claimed(store)
    await store.journal.record(claim, [replace(FIRST, done=False, value=None, tries=1, due=LATER)])
    await store.journal.record(claim, [replace(FIRST, tries=2)])
    assert (await store.journal.load(claim.task_id))["1"] == replace(FIRST, tries=2)


async def test_a_superseded_attempt_records_nothing(store: Store) -> None:
    late = await claimed(store)
    current = await again(store, late)
    for entries, children in (([FIRST], []), ([called()], [child(late)])):
        with pytest.raises(ClaimLost):
            await store.journal.record(late, entries, children)
    assert await store.journal.load(current.task_id) == {}
    assert (await execute_count(store, current)) == 0


async def execute_count(store: Store, claim: Claim) -> int:
    return len([each for each in await store.tasks.page(OWNER, None, 100) if each.id != claim.task_id])


async def test_a_record_that_meets_the_loss_of_its_attempt_waits_and_is_refused(
    store: Store, database_url: str
) -> None:
    """The race that would give two attempts different results: a write of the old one behind the new one's read."""
    claim = await claimed(store)
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("UPDATE tasks SET phase = 'queued', worker_id = NULL WHERE id = $1", claim.task_id)
            late = asyncio.create_task(store.journal.record(claim, [FIRST]))
            async with asyncio.timeout(10):
                while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
            assert not late.done()
    finally:
        await connection.close()
    with pytest.raises(ClaimLost):
        await late
    assert await store.journal.load(claim.task_id) == {}


async def test_a_call_makes_its_task_once_however_often_it_is_repeated(store: Store) -> None:
    claim = await claimed(store)
    for _ in range(2):
        assert await store.journal.record(claim, [called()], [child(claim)]) == [Doorbell(CHILD, 1, "default")]
    made = await store.tasks.get(CHILD, OWNER)
    assert (made.status, made.phase, made.tool) == (Status.WORKING, Phase.QUEUED, "double")
    (entry,) = (await store.journal.load(claim.task_id)).values()
    assert entry.child is not None
    assert (entry.child.id, entry.child.status) == (CHILD, Status.WORKING)


async def test_a_child_has_the_owner_and_the_capabilities_of_its_parent(store: Store) -> None:
    claim = await claimed(store, owner="eve", capabilities={"sampling": {}})
    (doorbell,) = await store.journal.record(claim, [called()], [child(claim)])
    taken = await take(store, doorbell, "w1")
    assert taken is not None
    assert (taken.owner, taken.capabilities, taken.parent) == ("eve", {"sampling": {}}, claim.task_id)


async def test_an_ended_child_is_read_with_its_result(store: Store) -> None:
    claim = await claimed(store)
    (doorbell,) = await store.journal.record(claim, [called()], [child(claim)])
    taken = await take(store, doorbell, "w1")
    assert taken is not None
    await store.attempts.complete(taken, RESULT, is_error=True, status_message="no")
    state = (await store.journal.load(claim.task_id))["1"].child
    assert state is not None
    assert (state.status, state.result, state.is_error) == (Status.COMPLETED, RESULT, True)


async def test_a_child_that_asks_is_read_with_its_questions(store: Store) -> None:
    claim = await claimed(store)
    (doorbell,) = await store.journal.record(claim, [called()], [child(claim)])
    taken = await take(store, doorbell, "w1")
    assert taken is not None
    await store.waits.park(taken, message="asks", questions=[question("name")])
    state = (await store.journal.load(claim.task_id))["1"].child
    assert state is not None
    assert state.questions == (question("name"),)


async def test_a_childs_result_is_kept_while_its_parent_lives(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    (doorbell,) = await store.journal.record(claim, [called()], [child(claim)])
    taken = await take(store, doorbell, "w1")
    assert taken is not None
    await store.attempts.complete(taken, RESULT, is_error=False, status_message="done")
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 hour' WHERE id = $1", CHILD)
    assert (await store.upkeep.sweep()).tasks == 0
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="done")
    assert (await store.upkeep.sweep()).tasks == 1


async def test_cancelling_a_task_cancels_all_below_it(store: Store) -> None:
    claim = await claimed(store)
    (doorbell,) = await store.journal.record(claim, [called()], [child(claim)])
    taken = await take(store, doorbell, "w1")
    assert taken is not None
    await store.journal.record(taken, [called("tsk_grandchild")], [child(taken, "tsk_grandchild")])
    await store.waits.park(taken, message="asks", questions=[question("name")])
    await store.tasks.cancel(claim.task_id, OWNER)
    records = [await store.tasks.get(each, OWNER) for each in (claim.task_id, CHILD, "tsk_grandchild")]
    assert {record.status for record in records} == {Status.CANCELLED}
    assert records[1].open_questions == ()


async def test_children_end_with_a_parent_that_ended_otherwise(store: Store) -> None:
    claim = await claimed(store)
    await store.journal.record(claim, [called()], [child(claim)])
    await store.attempts.fail(claim, '{"code":1,"message":"x"}', status_message="x")
    assert await store.children.cancel_orphans() == 1
    assert (await store.tasks.get(CHILD, OWNER)).status is Status.CANCELLED


async def test_only_children_of_ended_tasks_are_orphans(store: Store) -> None:
    claim = await claimed(store)
    await store.journal.record(claim, [called()], [child(claim)])
    assert await store.children.cancel_orphans() == 0
    assert await store.children.cancel_orphans(claim.task_id) == 0


async def test_the_running_time_of_a_lost_attempt_counts_up_to_its_lease(store: Store, database_url: str) -> None:
    await worker(store, "w9", lease_s=LEASE_S)
    claim = await claimed(store, worker_id="w9")
    await execute(database_url, "UPDATE tasks SET claimed_at = now() - interval '90 seconds'")
    await execute(database_url, "UPDATE workers SET lease_until = now() - interval '30 seconds'")
    (doorbell,) = (await store.workers.reap(0.0, 3)).doorbells
    taken = await take(store, doorbell, "w2")
    assert taken is not None
    assert 59_000 <= taken.ran_ms <= 61_000
    assert taken.task_id == claim.task_id


async def test_the_running_time_of_a_claim_that_is_handed_back_counts(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await execute(database_url, "UPDATE tasks SET claimed_at = now() - interval '90 seconds'")
    await store.attempts.hand_back(claim.task_id, claim.attempt, claim.worker_id)
    taken = await take(store, Doorbell(claim.task_id, 2, "default"), "w2")
    assert taken is not None
    assert taken.ran_ms >= 90_000


async def test_an_operator_sees_the_journal_in_the_order_of_its_places(store: Store) -> None:
    claim = await claimed(store)
    paths = ["10", "2", "3.1.1", "3.0.2"]
    await store.journal.record(claim, [replace(FIRST, path=path) for path in paths])
    shown = await store.inspection.show(claim.task_id)
    assert [entry["path"] for entry in shown["journal"]] == ["2", "3.0.2", "3.1.1", "10"]
