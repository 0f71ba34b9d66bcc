"""Writes whose answer is lost and that nobody repeats: the repair of each, from the lost answer to the right end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from taskengine.errors import ClaimLost, StoreUnavailable
from taskengine.lifecycle import Phase, Status
from taskengine.records import Claim, Doorbell, Slot
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.audit import Deed
from taskengine.store.sessions import Notice
from tests.store.calls import LEASE_S, OWNER, RESULT, claimed, question, stored, worker
from tests.store.doubt import Doubtful, Unheard, unheard
from tests.store.sql import execute
from tests.store.test_journal import called, child
from tests.store.test_waits import ANSWER, NOW

ONE = (Slot("count:total", 1),)
AT_ONCE_S = -1.0
"""A relay that takes everything for unheard."""
ENDED = {"is_error": False, "status_message": "Completed"}


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Doubtful]:
    opened = Doubtful(settings)
    yield opened
    await opened.close()


async def lost(write: Callable[[], Awaitable[Any]], after: int = 0) -> None:
    """It is committed, and its caller told that the database cannot be had; `after` so many writes that it heard of."""
    with pytest.raises(Unheard), unheard(after):
        await write()


async def relayed(store: Store) -> list[Doorbell]:
    """What the relay rings for when the doorbells of a change were lost with its answer."""
    assert (await store.upkeep.look(LEASE_S, AT_ONCE_S)).unheard
    assert sum((await store.upkeep.due(AT_ONCE_S)).values()) == 1
    return await store.upkeep.ring_again("default", AT_ONCE_S, 10)


async def held(store: Store) -> set[tuple[str, int]]:
    return set(await store.workers.renew("w1", LEASE_S) or ())


@pytest.mark.parametrize("slots", [(), ONE])
async def test_what_was_claimed_unheard_is_handed_back(store: Store, slots: tuple[Slot, ...]) -> None:
    """`attempts.claim_next`, `limits.claim`."""
    await worker(store, "w1")
    bell = await stored(store, slots=slots)
    # With limits it looks among those without first.
    await lost(lambda: store.attempts.claim_next(["default"], "w1"), after=1 if slots else 0)
    assert await held(store) == {(bell.task_id, 1)}  # and run by nobody, as the heartbeat finds
    await store.attempts.hand_back(bell.task_id, 1, "w1")
    assert [each.attempt for each in await relayed(store)] == [2]
    claim = await store.attempts.claim_next(["default"], "w1")
    assert claim is not None
    await store.attempts.complete(claim, RESULT, **ENDED)
    row = await store.inspection.show(bell.task_id)
    assert (row["status"], row["attempt"], row["crashes"]) == (Status.COMPLETED, 2, 0)


@pytest.mark.parametrize("method", ["free", "free_all"])
async def test_what_was_freed_unheard_is_rung_by_the_relay(store: Store, method: str) -> None:
    await worker(store, "w1")
    bells = [await stored(store, slots=ONE) for _ in range(2)]
    claims = [await store.attempts.claim_next(["default"], "w1") for _ in range(2)]
    assert claims[0] is not None
    assert claims[1] is None
    await store.attempts.complete(claims[0], RESULT, **ENDED)
    await lost(lambda: store.limits.free([ONE[0].key]) if method == "free" else store.limits.free_all())
    assert await store.limits.free_all() == []
    assert await relayed(store) == [bells[1]]


async def test_log_lines_are_not_told_twice(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await lost(lambda: store.attempts.log(claim, [{"level": "info", "logger": None, "data": '"once"'}]))
    assert len(await execute(database_url, "SELECT 1 FROM logs")) == 1


async def test_what_was_taken_back_unheard_is_handed_back(store: Store) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="asks", questions=[question()], linger_s=60)
    await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER})
    await lost(lambda: store.waits.take_back(claim))
    assert await held(store) == {(claim.task_id, 1)}
    await store.attempts.hand_back(claim.task_id, 1, "w1")
    assert [each.attempt for each in await relayed(store)] == [2]
    again = await store.attempts.claim_next(["default"], "w1")
    assert again is not None
    assert set(again.answers) == {"name"}
    with pytest.raises(ClaimLost):
        await store.attempts.complete(claim, RESULT, **ENDED)


async def _asleep(store: Store) -> Claim:
    claim = await claimed(store)
    await store.waits.park(claim, message="Sleeping", wake_at=NOW)
    return claim


async def _with_a_child_that_ended(store: Store) -> Claim:
    claim = await claimed(store)
    (bell,) = await store.journal.record(claim, [called("tsk_child", "1")], [child(claim, "tsk_child")])
    await store.waits.park(claim, message="Waiting", wake_open=0)
    taken = await store.attempts.claim_next(["default"], "w1")
    assert taken is not None
    assert taken.task_id == bell.task_id
    await store.attempts.complete(taken, RESULT, **ENDED)
    return claim


@pytest.mark.parametrize("method", ["wake_due", "wake_parents", "wake_parent"])
async def test_what_was_woken_unheard_is_rung_by_the_relay(store: Store, method: str) -> None:
    claim = await (_asleep(store) if method == "wake_due" else _with_a_child_that_ended(store))
    waking = getattr(store.waits, method)
    wake = (lambda: waking(claim.task_id)) if method == "wake_parent" else waking
    await lost(wake)
    assert await wake() == []
    assert await relayed(store) == [Doorbell(claim.task_id, 2, "default")]


async def test_a_note_on_the_end_of_a_run_is_found_written(store: Store) -> None:
    claim = await claimed(store)
    await store.tasks.cancel(claim.task_id, OWNER)
    await lost(lambda: store.stops.note(claim.task_id, 1, "the tool stopped"))
    assert not await store.stops.note(claim.task_id, 1, "the tool stopped")
    message = (await store.tasks.get(claim.task_id, OWNER)).status_message or ""
    assert message.count("the tool stopped") == 1


async def test_a_cleanup_that_was_taken_unheard_is_taken_again_when_the_patience_is_over(store: Store) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="asks", questions=[question()])
    await store.tasks.cancel(claim.task_id, OWNER)
    await lost(lambda: store.stops.take("w1", ["count"], 3_600))
    assert await store.stops.take("w1", ["count"], 3_600) == []
    assert [each.task_id for each in await store.stops.take("w1", ["count"], -1)] == [claim.task_id]


async def test_a_doorbell_that_was_taken_for_rung_is_found_again_by_its_time(store: Store) -> None:
    bell = await stored(store)
    await lost(lambda: store.upkeep.ring_again("default", AT_ONCE_S, 10))
    assert await store.upkeep.ring_again("default", 60, 10) == []
    assert await relayed(store) == [bell]


async def test_a_sweep_that_was_not_heard_of_goes_on_with_what_is_left(store: Store, database_url: str) -> None:
    for _ in range(3):
        await store.tasks.cancel((await stored(store)).task_id, OWNER)
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 s'")
    await lost(lambda: store.upkeep.sweep(2))
    assert [(await store.upkeep.sweep(2)).tasks for _ in range(2)] == [1, 0]


async def test_a_registration_that_was_not_heard_of_is_buried_with_its_lease(store: Store, database_url: str) -> None:
    await lost(lambda: worker(store, "w1"))
    await worker(store, "w2")  # the heartbeat's next try
    await execute(database_url, "UPDATE workers SET lease_until = now() - interval '1 s' WHERE id = 'w1'")
    assert (await store.workers.reap(0.0, 3)).workers == ("w1",)
    assert [each["id"] for each in await store.workers.alive()] == ["w2"]


async def test_a_burial_that_was_not_heard_of_counts_once_and_the_relay_rings(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await execute(database_url, "UPDATE workers SET lease_until = now() - interval '1 s'")
    await lost(lambda: store.workers.reap(0.0, 3))
    again = await store.workers.reap(0.0, 3)
    assert (again.workers, again.doorbells, again.failed) == ((), (), ())
    assert await relayed(store) == [Doorbell(claim.task_id, 2, "default")]
    row = await store.inspection.show(claim.task_id)
    assert (row["crashes"], len(row["losses"])) == (1, 1)


async def test_a_suspicion_that_was_not_heard_of_is_noted_once(store: Store, database_url: str) -> None:
    await worker(store, "w1", presence_key=91)
    await lost(lambda: store.upkeep.look(0.0, 2))
    (first,) = await execute(database_url, "SELECT suspected_at FROM workers")
    await store.upkeep.look(0.0, 2)
    (second,) = await execute(database_url, "SELECT suspected_at FROM workers")
    assert first["suspected_at"] == second["suspected_at"] is not None


async def test_a_letter_is_there_for_whoever_missed_the_notice_of_it(store: Store) -> None:
    """`sessions.tell`: nothing is written, and what it tells of does not depend on it."""
    await store.sessions.post("a", "1")
    with unheard():
        await store.sessions.tell(Notice("s", "posted", "a"))
    assert await store.sessions.fetch("a") == "1"


async def test_a_letter_that_was_fetched_unheard_is_asked_for_under_another_name(store: Store) -> None:
    await store.sessions.post("a", "1")
    await lost(lambda: store.sessions.fetch("a"))
    assert await store.sessions.fetch("a") is None
    await store.sessions.post("b", "1")
    assert await store.sessions.fetch("b") == "1"


async def test_a_sweep_of_sessions_that_was_not_heard_of_goes_on(store: Store, database_url: str) -> None:
    await store.sessions.end("old", -1)
    await store.sessions.post("late", "{}")
    await execute(database_url, "UPDATE letters SET expires_at = now() - interval '1 second'")
    await lost(store.sessions.sweep)
    await store.sessions.sweep()
    assert await execute(database_url, "SELECT id FROM sessions UNION ALL SELECT id FROM letters") == []


@pytest.mark.parametrize("method", ["add", "by_operator"])
async def test_an_entry_that_was_not_heard_of_is_there_once_or_more(store: Store, method: str) -> None:
    deed = Deed("operator", "read", "tsk_1", "count")
    write = (lambda: store.audit.add([deed])) if method == "add" else (lambda: store.audit.by_operator(deed))
    await lost(write)
    assert len(await store.audit.find(action="read")) == 1
    await write()
    assert len(await store.audit.find(action="read")) == 2


async def test_a_sweep_of_the_audit_log_that_was_not_heard_of_goes_on(store: Store) -> None:
    await store.audit.add([Deed("ann", "read", None, None)] * 3)
    await lost(lambda: store.audit.sweep(-1, 2))
    assert [await store.audit.sweep(-1, 2) for _ in range(2)] == [1, 0]


async def test_all_of_a_batch_that_was_not_heard_of_write_again_and_are_refused(
    store: Doubtful, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a statement's commit, and what becomes of its answer."""
    claims = [await claimed(store) for _ in range(3)]
    run_many, batches = store._database.run_many, []

    async def deaf(*args: Any) -> Any:
        batches.append(len(await run_many(*args)))
        raise StoreUnavailable("TimeoutError")

    monkeypatch.setattr(store._database, "run_many", deaf)

    async def complete(claim: Claim) -> None:
        await store.attempts.complete(claim, RESULT, **ENDED)

    async with asyncio.TaskGroup() as group:
        ends = [group.create_task(_outcome(complete(claim))) for claim in claims]
    assert batches == [3]
    assert [end.result() for end in ends] == [StoreUnavailable] * 3
    monkeypatch.undo()
    assert [await _outcome(complete(claim)) for claim in claims] == [ClaimLost] * 3
    records = [await store.tasks.get(claim.task_id, OWNER) for claim in claims]
    assert [(record.status, record.phase) for record in records] == [(Status.COMPLETED, Phase.DONE)] * 3


async def _outcome(write: Awaitable[None]) -> type[BaseException] | None:
    try:
        await write
    except (StoreUnavailable, ClaimLost) as error:
        return type(error)
    return None
