"""One round trip for many callers: each gets what is his, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, Text, bindparam, cast, func, literal, select

from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store import batches as batches_module
from taskengine.store.batches import Batches
from taskengine.store.database import _IS_BLOCKED, Database, Rows
from taskengine.store.reads import LARGE_BYTES
from taskengine.store.statements import Prepared, prepared
from tests.store.calls import OWNER, RESULT, claimed, new_task, stored, worker
from tests.store.sql import execute

_HALF = prepared(
    select(
        bindparam("number", type_=Integer).label("number"), (literal(100) / bindparam("number")).label("part")
    ).where(bindparam("number", type_=Integer) < 50)
)


_ECHO = prepared(select(bindparam("text", type_=Text).label("text")))
_SLOW = prepared(select(bindparam("number", type_=Integer).label("number"), func.pg_sleep(0.2)))


class Counting(Database):
    """Knows how many statements went into each round trip."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.trips: list[int] = []
        self.lone: list[Any] = []

    async def run(self, statement: Any, values: Mapping[str, Any] | None = None) -> Rows:
        self.trips.append(1)
        self.lone.append(statement)
        return await super().run(statement, values)

    async def run_many(
        self, statement: Prepared, groups: Sequence[Sequence[Mapping[str, Any]]], patience_s: float | None = None
    ) -> Rows:
        self.trips.append(sum(map(len, groups)))
        return await super().run_many(statement, groups, patience_s)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Counting]:
    opened = Counting(settings)
    yield opened
    await opened.close()


def _part(batches: Batches, number: int) -> Any:
    return batches.run({"number": number})


async def test_a_lone_caller_pays_one_statement(database: Counting) -> None:
    row = await _part(Batches(database, _HALF, {"number": "number"}), 4)
    assert (row.part, database.trips) == (25, [1])


async def test_what_comes_at_once_goes_in_one_round_trip_and_each_gets_his_own(database: Counting) -> None:
    batches = Batches(database, _HALF, {"number": "number"})
    rows = await asyncio.gather(*(_part(batches, number) for number in (5, 60, 2, 10)))
    assert [row and row.part for row in rows] == [20, None, 50, 10]
    assert database.trips == [4]


async def test_a_batch_has_a_largest_size(database: Counting) -> None:
    batches = Batches(database, _HALF, {"number": "number"}, most=3)
    rows = await asyncio.gather(*(_part(batches, number) for number in range(1, 9)))
    assert [row.number for row in rows] == list(range(1, 9))
    assert database.trips == [3, 3, 2]


async def test_the_same_read_is_done_once_and_the_same_write_one_after_the_other(database: Counting) -> None:
    shared = Batches(database, _HALF, {"number": "number"}, shared=True)
    assert [row.part for row in await asyncio.gather(*(_part(shared, 4) for _ in range(5)))] == [25] * 5
    assert database.trips == [1]
    single = Batches(database, _HALF, {"number": "number"})
    assert [row.part for row in await asyncio.gather(*(_part(single, 4) for _ in range(3)))] == [25] * 3
    assert database.trips == [1, 1, 1, 1]


async def test_one_that_is_refused_does_not_spoil_the_others(database: Counting) -> None:
    batches = Batches(database, _HALF, {"number": "number"})
    outcomes = await asyncio.gather(*(_part(batches, number) for number in (5, 0, 2)), return_exceptions=True)
    assert [outcome.part for outcome in (outcomes[0], outcomes[2])] == [20, 50]
    assert "division by zero" in str(outcomes[1])


async def test_a_database_that_is_away_is_told_to_all(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://127.0.0.1:1/none")})
    batches = Batches(Database(away), _HALF, {"number": "number"})
    outcomes = await asyncio.gather(*(_part(batches, number) for number in (1, 2)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]


async def test_a_caller_who_gives_up_leaves_the_others_alone(database: Counting) -> None:
    batches = Batches(database, _HALF, {"number": "number"})
    waiting = [asyncio.ensure_future(_part(batches, number)) for number in (4, 5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert (await waiting[1]).part == 20
    assert (await _part(batches, 10)).part == 10


async def test_what_a_caller_asked_who_has_gone_is_not_done_unless_it_is_to_be_unasked(database: Counting) -> None:
    for unasked, trips in ((False, [1]), (True, [2])):
        batches, database.trips = Batches(database, _HALF, {"number": "number"}, unasked=unasked), []
        waiting = [asyncio.ensure_future(_part(batches, number)) for number in (4, 5)]
        asyncio.get_running_loop().call_soon(waiting[0].cancel)  # before the batch begins
        assert (await waiting[1]).part == 20
        assert database.trips == trips


async def test_those_who_wait_behind_a_batch_that_is_stopped_hear_of_it(
    database: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind one that was stopped before it began, and one whose key is in the batch."""
    for begun in (False, True):
        held = asyncio.Event()

        async def never(*_: Any, held: asyncio.Event = held) -> Rows:
            held.set()
            await asyncio.Event().wait()
            raise AssertionError

        batches = Batches(database, _HALF, {"number": "number"}, most=1)
        with monkeypatch.context() as patched:
            patched.setattr(database, "run", never)
            waiting = [asyncio.ensure_future(_part(batches, number)) for number in (4, 5, 5)]
            while batches._runner is None:
                await asyncio.sleep(0)
            if begun:
                await held.wait()
            batches._runner.cancel()
            outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
        assert (await _part(batches, 10)).part == 10


async def test_of_large_parameters_a_batch_has_as_many_as_fit(
    database: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "MOST_CHARACTERS", 100)
    batches = Batches(database, _ECHO, {"text": "text"}, large=["text"])
    texts = [letter * length for letter, length in (("a", 40), ("b", 40), ("c", 40), ("d", 500), ("e", 10), ("f", 90))]
    rows = await asyncio.gather(*(batches.run({"text": text}) for text in texts))
    assert [row and row.text for row in rows] == texts
    assert database.trips == [2, 1, 1, 2]


async def test_a_large_result_is_read_by_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = [await claimed(store, worker_id=f"w{n}") for n in range(2)]
    large = '{"content":[{"type":"text","text":"' + "x" * LARGE_BYTES + '"}]}'
    for claim, result in zip(claims, (RESULT, large), strict=True):
        await store.attempts.complete(claim, result, is_error=False, status_message="Completed")
    seen: list[int] = []
    fetchmany = asyncpg.Connection.fetchmany

    async def spied(self: Any, *args: Any, **more: Any) -> Any:
        rows = await fetchmany(self, *args, **more)
        seen.extend(len(row["result"] or "") for row in rows)
        return rows

    monkeypatch.setattr(asyncpg.Connection, "fetchmany", spied)
    small, whole = await asyncio.gather(*(store.tasks.get(claim.task_id, OWNER) for claim in claims))
    assert (small.result, whole.result) == (RESULT, large)
    assert len(seen) == 2
    assert max(seen) <= LARGE_BYTES


async def test_each_write_of_a_batch_has_its_own_fence(store: Store) -> None:
    """Running again all of them, whoever holds the task now: the number of the attempt counts, and the worker."""
    claims = [await claimed(store, worker_id=f"w{n}") for n in range(4)]
    late, taken, released, current = claims
    for lost, by in ((late, late.worker_id), (taken, "w3")):
        again = await store.attempts.claim(await store.attempts.release(lost), by)
        assert again is not None
    await store.attempts.release(released)
    stolen = replace(taken, attempt=taken.attempt + 1)  # the number that counts, and another's name
    ends = [
        store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
        for claim in (late, stolen, released, current)
    ]
    outcomes = await asyncio.gather(*ends, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["ClaimLost", "ClaimLost", "ClaimLost", "NoneType"]
    assert {(await store.tasks.get(claim.task_id, OWNER)).status for claim in claims[:3]} == {Status.WORKING}
    assert (await store.tasks.get(current.task_id, OWNER)).status is Status.COMPLETED


async def test_each_end_of_a_batch_has_its_own_outcome(store: Store, database_url: str) -> None:
    claims = [await claimed(store, worker_id=f"w{n}") for n in range(3)]
    outcomes = [("first", False, None), ("second", True, "Traceback"), ("third", True, None)]
    await asyncio.gather(
        *(
            store.attempts.complete(
                claim,
                RESULT.replace("done", text),
                is_error=failed,
                status_message=text.title(),
                traceback=trace,
            )
            for claim, (text, failed, trace) in zip(claims, outcomes, strict=True)
        )
    )
    for claim, (text, failed, trace) in zip(claims, outcomes, strict=True):
        record = await store.tasks.get(claim.task_id, OWNER)
        assert (record.result, record.is_error) == (RESULT.replace("done", text), failed)
        assert record.status_message == text.title()
        (row,) = await execute(database_url, "SELECT traceback FROM tasks WHERE id = $1", claim.task_id)
        assert (row["traceback"] is None) == (trace is None)


async def test_a_row_that_somebody_has_locked_holds_up_only_its_own_write(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "PATIENCE_S", 0.3)
    locked, beside, later = [await claimed(store, worker_id=f"w{n}") for n in range(3)]
    holder = await asyncpg.connect(database_url)
    async with holder.transaction():
        await holder.execute("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", locked.task_id)
        writes = [
            asyncio.ensure_future(store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed"))
            for claim in (locked, beside)
        ]
        await asyncio.sleep(0)
        await asyncio.wait_for(
            store.attempts.complete(later, RESULT, is_error=False, status_message="Completed"), timeout=20
        )
        await asyncio.wait_for(writes[1], timeout=20)
        assert not writes[0].done()
    await writes[0]
    await holder.close()
    statuses = [(await store.tasks.get(claim.task_id, OWNER)).status for claim in (locked, beside, later)]
    assert statuses == [Status.COMPLETED] * 3


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_a_time_limit_of_the_operator_that_one_meets_does_not_fail_the_others(
    store: Store, settings: Settings, database_url: str, setting: str
) -> None:
    locked, beside = [await claimed(store, worker_id=f"w{n}") for n in range(2)]
    name = (await execute(database_url, "SELECT current_database()"))[0][0]
    await execute(database_url, f"ALTER DATABASE \"{name}\" SET {setting} = '300ms'")
    limited = await Store.open(settings)
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", locked.task_id)
            ends = [
                limited.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
                for claim in (locked, beside)
            ]
            outcomes = await asyncio.gather(*ends, return_exceptions=True)
    finally:
        await holder.close()
        await limited.close()
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, NoneType]
    assert (await store.tasks.get(beside.task_id, OWNER)).status is Status.COMPLETED


async def test_a_batch_that_is_slow_and_waits_for_no_lock_is_not_sent_again(
    database: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "PATIENCE_S", 0.05)
    batches = Batches(database, _SLOW, {"number": "number"})
    rows = await asyncio.gather(*(_part(batches, number) for number in (1, 2)))
    assert [row and row.number for row in rows] == [1, 2]
    # The batch, and looks whether somebody holds it up.
    assert [trip for trip in database.trips if trip > 1] == [2]
    assert {statement.sql for statement in database.lone} == {_IS_BLOCKED.sql}


async def test_of_two_claims_of_one_attempt_at_the_same_time_one_is_granted(store: Store) -> None:
    doorbell = await stored(store)
    await worker(store, "w1")
    claims = await asyncio.gather(*(store.attempts.claim(doorbell, "w1") for _ in range(3)))
    assert sum(claim is not None for claim in claims) == 1
    assert (await store.tasks.get(doorbell.task_id, OWNER)).attempt == 1


async def test_reads_of_two_owners_at_once_are_told_apart(store: Store) -> None:
    record, _ = await store.tasks.create(new_task())
    reads = (store.tasks.get(record.id, owner) for owner in (OWNER, "another"))
    own, foreign = await asyncio.gather(*reads, return_exceptions=True)
    assert getattr(own, "id", None) == record.id
    assert type(foreign).__name__ == "TaskNotFound"


def test_a_statement_that_needs_a_value_does_not_run_without() -> None:
    statement = prepared(select(cast(bindparam("needed"), Integer)))
    with pytest.raises(KeyError, match="needed"):
        statement.arguments({})
