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
    assert await store.stops.is_open(claim.task_id, 1)
    assert await store.stops.note(claim.task_id, 1, "the tool stopped", ", cleaned up")
    after = await store.tasks.get(claim.task_id, OWNER)
    assert re.fullmatch(r"Cancelled; the tool stopped after \d+\.\d s, cleaned up", after.status_message or "")
    assert (after.status, after.result, after.error) == (Status.CANCELLED, None, None)
    assert after.updated_at > before.updated_at
    assert not await store.stops.note(claim.task_id, 1, "again")
    assert not await store.stops.is_open(claim.task_id, 1)


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
