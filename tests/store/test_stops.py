"""What is stored of a run whose task was cancelled."""

from __future__ import annotations

import re

import pytest

from taskengine.lifecycle import Status
from taskengine.losses import Loss
from taskengine.store import Store
from tests.store.calls import OWNER, RESULT, claimed, question, stored, take, worker
from tests.store.sql import execute

LATE_S = 3600.0


async def test_the_stop_is_noted_once_and_the_end_stays(store: Store) -> None:
    claim = await claimed(store)
    await store.tasks.cancel(claim.task_id, OWNER)
    before = await store.tasks.get(claim.task_id, OWNER)
    assert await store.stops.begin(claim.task_id, 1, "w1")
    assert await store.stops.note(claim.task_id, 1, "the tool stopped", ", cleaned up")
    after = await store.tasks.get(claim.task_id, OWNER)
    assert re.fullmatch(r"Cancelled; the tool stopped after \d+\.\d s, cleaned up", after.status_message or "")
    assert (after.status, after.result, after.error) == (Status.CANCELLED, None, None)
    assert after.updated_at > before.updated_at
    assert not await store.stops.note(claim.task_id, 1, "again")
    assert not await store.stops.begin(claim.task_id, 1, "w1")


async def test_the_seconds_are_those_until_the_stop(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await store.tasks.cancel(claim.task_id, OWNER)
    await execute(
        database_url,
        "UPDATE tasks SET ended_at = now() - interval '13.1 seconds', created_at = now() - interval '1 day'",
    )
    await store.stops.note(claim.task_id, 1, "the tool stopped", since_s=10.0)
    seconds = re.findall(r"after (\d+\.\d) s", (await store.tasks.get(claim.task_id, OWNER)).status_message or "")
    assert 3.1 <= float(seconds[0]) < 10


async def test_only_the_attempt_that_was_cancelled_may_note(store: Store) -> None:
    late = await claimed(store)
    current = await take(store, await store.attempts.release(late), "w2")
    assert current is not None
    await store.tasks.cancel(late.task_id, OWNER)
    assert not await store.stops.note(late.task_id, late.attempt, "the tool stopped")
    assert await store.stops.note(late.task_id, current.attempt, "the tool stopped")


@pytest.mark.parametrize("end", ["running", "completed", "failed"])
async def test_nothing_is_noted_on_a_task_that_was_not_cancelled(store: Store, end: str) -> None:
    claim = await claimed(store)
    if end == "completed":
        await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    elif end == "failed":
        await store.attempts.lose(claim, Loss("killed"), 1)
    before = await store.tasks.get(claim.task_id, OWNER)
    assert not await store.stops.note(claim.task_id, 1, "the tool stopped")
    after = await store.tasks.get(claim.task_id, OWNER)
    assert (after.status_message, after.updated_at) == (before.status_message, before.updated_at)


async def test_a_waiting_task_has_no_stopper_and_is_taken_by_one_worker(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question()], "Waiting")
    await store.tasks.cancel(claim.task_id, OWNER)
    await worker(store, "w2")
    assert await store.stops.take("w2", ["another"], LATE_S) == []
    (found,) = await store.stops.take("w2", [claim.tool], LATE_S)
    assert (found.task_id, found.attempt, found.arguments) == (claim.task_id, 1, claim.arguments)
    assert await store.stops.take("w1", [claim.tool], LATE_S) == []


async def test_the_run_of_a_live_worker_is_left_to_it_until_it_is_late_or_dead(store: Store, database_url: str) -> None:
    claim = await claimed(store, "w1")
    await worker(store, "w2")
    await store.tasks.cancel(claim.task_id, OWNER)
    assert await store.stops.take("w2", [claim.tool], LATE_S) == []
    await store.workers.leave("w1")
    assert [found.task_id for found in await store.stops.take("w2", [claim.tool], LATE_S)] == [claim.task_id]
    await execute(
        database_url, "UPDATE tasks SET updated_at = now() - interval '2 hours', created_at = now() - interval '1 day'"
    )
    assert [found.task_id for found in await store.stops.take("w3", [claim.tool], LATE_S)] == [claim.task_id]


async def test_a_task_that_had_never_begun_needs_no_cleanup(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.hand_back(claim.task_id, 1, "w1")
    begun = claim.task_id
    await store.tasks.cancel(begun, OWNER)
    never = await stored(store)
    await store.tasks.cancel(never.task_id, OWNER)
    assert [found.task_id for found in await store.stops.take("w1", [claim.tool], LATE_S)] == [begun]


async def test_only_one_worker_cleans_up(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question()], "Waiting")
    await store.tasks.cancel(claim.task_id, OWNER)
    await worker(store, "w2")
    assert await store.stops.take("w2", [claim.tool], LATE_S)
    assert not await store.stops.begin(claim.task_id, 1, "w1")
    assert await store.stops.begin(claim.task_id, 1, "w2")
    assert not await store.stops.begin(claim.task_id, 2, "w2")


async def test_a_task_whose_attempt_lingers_is_left_to_that_for_a_while(store: Store, database_url: str) -> None:
    claim = await claimed(store, "w1")
    await worker(store, "w2")
    await store.waits.park(claim, message="asks", questions=[question()], linger_s=60)
    await store.tasks.cancel(claim.task_id, OWNER)
    assert await store.stops.take("w2", [claim.tool], LATE_S) == []
    assert await store.stops.begin(claim.task_id, 1, "w1")
    assert await store.stops.take("w2", [claim.tool], LATE_S) == []
    await store.workers.leave("w1")
    assert await store.stops.take("w2", [claim.tool], LATE_S)


async def test_a_task_whose_attempt_lingered_and_died_is_taken_up_soon(store: Store, database_url: str) -> None:
    claim = await claimed(store, "w1")
    await store.waits.park(claim, message="asks", questions=[question()], linger_s=60)
    await store.tasks.cancel(claim.task_id, OWNER)
    await store.workers.leave("w1")
    await worker(store, "w2")
    await execute(database_url, "UPDATE tasks SET kept_until = now() - interval '3 seconds'")
    assert await store.stops.take("w2", [claim.tool], LATE_S)


async def test_one_worker_takes_few_at_a_time_and_what_was_tried_last_comes_last(store: Store) -> None:
    for _ in range(5):
        claim = await claimed(store)
        await store.attempts.suspend(claim, [question()], "Waiting")
        await store.tasks.cancel(claim.task_id, OWNER)
    for name in ("w2", "w3", "w4"):
        await worker(store, name)
    first = {found.task_id for found in await store.stops.take("w2", [claim.tool], LATE_S)}
    assert len(first) == 3
    await store.workers.leave("w2")  # in the middle of the first of them
    second = [found.task_id for found in await store.stops.take("w3", [claim.tool], LATE_S)]
    assert len(second) == 3
    assert len(first & set(second)) == 1
    third = {found.task_id for found in await store.stops.take("w4", [claim.tool], LATE_S)}
    assert third == first - set(second)
