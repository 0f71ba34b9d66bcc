"""One round trip for many callers: each gets what is his, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, bindparam, cast, literal, select

from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store import batches as batches_module
from taskengine.store.batches import Batches
from taskengine.store.database import Database, Rows
from taskengine.store.statements import Prepared, prepared
from tests.store.calls import OWNER, RESULT, claimed, new_task, stored, worker

_HALF = prepared(
    select(
        bindparam("number", type_=Integer).label("number"), (literal(100) / bindparam("number")).label("part")
    ).where(bindparam("number", type_=Integer) < 50)
)


class Counting(Database):
    """Knows how many statements went into each round trip."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.trips: list[int] = []

    async def run(self, statement: Any, values: Mapping[str, Any] | None = None) -> Rows:
        self.trips.append(1)
        return await super().run(statement, values)

    async def run_many(self, statement: Prepared, values: Iterable[Mapping[str, Any]], timeout_s: float) -> Rows:
        several = list(values)
        self.trips.append(len(several))
        return await super().run_many(statement, several, timeout_s)


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


async def test_each_write_of_a_batch_has_its_own_fence(store: Store) -> None:
    late, current = await claimed(store), await claimed(store, worker_id="w2")
    await store.attempts.release(late)
    ends = [
        store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed") for claim in (late, current)
    ]
    outcomes = await asyncio.gather(*ends, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["ClaimLost", "NoneType"]
    assert (await store.tasks.get(late.task_id, OWNER)).status is Status.WORKING
    assert (await store.tasks.get(current.task_id, OWNER)).status is Status.COMPLETED


async def test_a_row_that_somebody_has_locked_holds_up_only_its_own_write(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "SPLIT_S", 0.3)
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
