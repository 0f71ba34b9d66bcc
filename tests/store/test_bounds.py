"""How much may be open and wait: counted where the task is stored."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from taskengine.errors import Busy, LimitReached
from taskengine.settings import Settings
from taskengine.store import Store, bounds
from taskengine.store.bounds import Bounds
from taskengine.store.database import Database
from tests.store.calls import OWNER, RESULT, new_task, take
from tests.store.sql import execute


@pytest.fixture
async def second(settings: Settings) -> AsyncIterator[Store]:
    """Another front end's way to the same database."""
    opened = await Store.open(settings)
    yield opened
    await opened.close()


async def made(store: Store, within: Bounds, **changes: object) -> str | LimitReached:
    """The id of the task, or the refusal."""
    try:
        record, _ = await store.tasks.create(new_task(**changes), within)
    except LimitReached as refusal:
        return refusal
    return record.id


async def copies(url: str, many: int) -> None:
    """So many more tasks like the one that is there."""
    await execute(
        url,
        "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object('id', 'c' || n))).*"
        f" FROM tasks t, generate_series(1, {many}) n",
    )


async def test_the_open_tasks_of_an_owner_are_limited_and_those_of_another_are_not(store: Store) -> None:
    within = Bounds(owner_open=2)
    ids = [await made(store, within) for _ in range(2)]
    refusal = await made(store, within)
    assert isinstance(refusal, LimitReached)
    assert not isinstance(refusal, Busy)
    assert refusal.limit == "open_tasks_per_owner"
    assert "2 open tasks" in str(refusal)
    assert f"Try again in {refusal.retry_after} s" in str(refusal)
    assert isinstance(await made(store, within, owner="bob"), str)
    await store.tasks.cancel(str(ids[0]), OWNER)
    assert isinstance(await made(store, within), str)


@pytest.mark.parametrize("open_before", [0, 10])
async def test_creates_at_once_of_two_front_ends_do_not_pass_the_bound_together(
    store: Store, second: Store, database_url: str, open_before: int
) -> None:
    for _ in range(open_before):
        await made(store, Bounds())
    within = Bounds(owner_open=open_before + 7)
    results = await asyncio.gather(*(made((store, second)[n % 2], within) for n in range(40)))
    assert len([result for result in results if isinstance(result, str)]) == 7
    rows = await execute(database_url, "SELECT count(*) FROM tasks WHERE phase <> 'done'")
    assert rows[0][0] == open_before + 7


async def test_the_same_holds_where_the_bound_comes_into_sight_only_then(
    store: Store, second: Store, database_url: str
) -> None:
    """From far away, where nobody takes the lock for itself, up to the bound and not past it."""
    connections = int((await execute(database_url, "SHOW max_connections"))[0][0])
    await made(store, Bounds())
    within = Bounds(owner_open=connections + 30)
    await copies(database_url, 10)
    at_once = asyncio.Semaphore(20)  # as many as there are connections

    async def one(n: int) -> str | LimitReached:
        async with at_once:
            return await made((store, second)[n % 2], within)

    results = await asyncio.gather(*(one(n) for n in range(connections + 60)))
    assert len([result for result in results if isinstance(result, str)]) == connections + 30 - 11


async def test_owners_that_create_in_crowds_on_two_front_ends_have_each_their_bound(
    store: Store, second: Store, database_url: str
) -> None:
    """Some near it and some far from it, alone and several in a batch, in all orders."""
    connections = int((await execute(database_url, "SHOW max_connections"))[0][0])
    bounds_of = {f"o{n}": 3 + (n % 3) * (connections // 2) for n in range(9)}
    rest = {owner: min(2, bound) if bound < 10 else 30 for owner, bound in bounds_of.items()}
    for owner, bound in bounds_of.items():
        await made(store, Bounds(), owner=owner)
        await execute(
            database_url,
            "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object('id', $1 || n))).*"
            " FROM tasks t, generate_series(1, $2) n WHERE owner = $1 AND id NOT LIKE $1 || '%'",
            owner,
            bound - rest[owner] - 1,
        )
    calls = [(owner, n) for n in range(45) for owner in bounds_of]
    random.Random(5).shuffle(calls)
    results = await asyncio.gather(
        *(made((store, second)[n % 2], Bounds(owner_open=bounds_of[owner]), owner=owner) for owner, n in calls)
    )
    accepted = Counter(owner for (owner, _), result in zip(calls, results, strict=True) if isinstance(result, str))
    assert accepted == rest
    rows = await execute(database_url, "SELECT owner, count(*) FROM tasks WHERE phase <> 'done' GROUP BY 1")
    assert {row[0]: row[1] for row in rows} == bounds_of


async def test_a_create_that_waited_for_the_lock_sees_what_was_created_meanwhile(
    store: Store, database_url: str
) -> None:
    """Staged: a crowd of the owner's on another front end commits while a lone create waits for it."""
    connections = int((await execute(database_url, "SHOW max_connections"))[0][0])
    await made(store, Bounds())
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 1))", OWNER)
            await other.execute(
                "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object('id', 'c' || n))).*"
                " FROM tasks t, generate_series(1, $1) n",
                connections + 9,
            )
            late = asyncio.ensure_future(made(store, Bounds(owner_open=connections + 10)))
            async with asyncio.timeout(30):
                while not await execute(database_url, "SELECT 1 FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.02)
        assert isinstance(await asyncio.wait_for(late, 30), LimitReached)
    finally:
        await other.close()


@pytest.mark.parametrize("store", ["heard"], indirect=True)  # where answers are lost, no two share a batch
@pytest.mark.parametrize(("crowd", "waits"), [(1, False), (3, True)])
async def test_a_crowd_of_one_owner_has_the_lock_for_itself_and_a_lone_create_shares_it(
    store: Store, database_url: str, crowd: int, waits: bool
) -> None:
    """Staged: somebody creates for the owner elsewhere and has not committed. Of him one is unseen, and not several."""
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 1))", OWNER)
            creating = asyncio.gather(*(made(store, Bounds(owner_open=1000)) for _ in range(crowd)))
            async with asyncio.timeout(30):
                while not creating.done() and not await execute(
                    database_url, "SELECT 1 FROM pg_locks WHERE NOT granted"
                ):
                    await asyncio.sleep(0.02)
            assert creating.done() is not waits
        assert all(isinstance(result, str) for result in await creating)
    finally:
        await other.close()


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many went into each round trip: locks and creates."""
    seen: list[list[int]] = []
    run, run_many = Database.run, Database.run_many

    async def one(self: Database, *args: Any) -> Any:
        seen.append([1])
        return await run(self, *args)

    async def many(self: Database, statement: Any, groups: Any, *more: Any) -> Any:
        seen.append([len(group) for group in groups])
        return await run_many(self, statement, groups, *more)

    monkeypatch.setattr(Database, "run", one)
    monkeypatch.setattr(Database, "run_many", many)
    return seen


@pytest.mark.parametrize("owners", [["a", "b", "c"], ["a", "a", "a"]])
async def test_creates_that_come_together_share_a_round_trip_behind_their_locks(
    settings: Settings, trips: list[list[int]], owners: list[str]
) -> None:
    store = await Store.open(settings)
    try:
        results = await asyncio.gather(*(made(store, Bounds(owner_open=1000), owner=owner) for owner in owners))
    finally:
        await store.close()
    assert all(isinstance(result, str) for result in results)
    assert trips == [[len(set(owners)), 3]]


async def test_a_total_that_is_far_away_is_not_counted_for_an_owner_with_a_small_bound(
    settings: Settings, trips: list[list[int]], database_url: str
) -> None:
    """Nor does a lock of all keep creates out of one batch then."""
    store, within = await Store.open(settings), Bounds(owner_open=1000, all_open=100_000, all_queued=50_000)
    try:
        await made(store, within, owner="first")
        trips.clear()
        other = await asyncpg.connect(database_url)
        try:
            await other.execute("SELECT pg_advisory_lock(hashtextextended($1, 1))", bounds.TOTAL)
            async with asyncio.timeout(30):
                results = await asyncio.gather(*(made(store, within, owner=f"o{n}") for n in range(5)))
        finally:
            await other.close()
    finally:
        await store.close()
    assert all(isinstance(result, str) for result in results)
    assert trips == [[5, 5]]


async def test_the_open_tasks_of_all_owners_together_are_limited(store: Store, second: Store) -> None:
    within = Bounds(all_open=5)
    results = await asyncio.gather(*(made((store, second)[n % 2], within, owner=f"o{n % 4}") for n in range(20)))
    refused = [result for result in results if not isinstance(result, str)]
    assert len(refused) == 15
    assert all(isinstance(refusal, Busy) and refusal.limit == "open_tasks" for refusal in refused)


async def test_past_the_bound_of_a_queue_new_calls_are_refused_and_accepted_ones_go_on(store: Store) -> None:
    within = Bounds(route_queued=3)
    ids = [str(await made(store, within)) for _ in range(3)]
    refusal = await made(store, within)
    assert isinstance(refusal, Busy)
    assert refusal.limit == "queued_tasks"
    assert isinstance(await made(store, within, queue="other"), str)
    await store.workers.register("w1", host="h", pid=1, queues=["default"], presence_key=None, lease_s=60)
    for expected in ids:
        claim = await store.attempts.claim_next(["default"], "w1")
        assert claim is not None
        assert claim.task_id == expected
        await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    assert isinstance(await made(store, within), str)


async def test_what_waits_in_all_queues_together_is_limited(store: Store) -> None:
    within = Bounds(all_queued=2)
    assert isinstance(await made(store, within, queue="a"), str)
    assert isinstance(await made(store, within, queue="b"), str)
    assert isinstance(await made(store, within, queue="c"), Busy)


async def test_a_call_that_was_accepted_may_be_repeated_at_the_bound(store: Store) -> None:
    within, new = Bounds(owner_open=1), new_task(nonce="once")
    first, doorbell = await store.tasks.create(new, within)
    again, same = await store.tasks.create(new, within)
    joined, none = await store.tasks.create(new_task(nonce="once"), within)
    assert first.id == again.id == joined.id
    assert same == doorbell
    assert none is None


@pytest.mark.parametrize("within", [Bounds(owner_open=3), Bounds(all_open=3), Bounds(owner_open=3, all_open=3)])
async def test_calls_that_join_a_task_take_no_room_from_those_they_came_with(
    store: Store, database_url: str, within: Bounds
) -> None:
    """What stands before a call in its batch is unseen, and need not become a task."""
    first = await made(store, within, dedupe="once")
    for _ in range(5):
        await execute(database_url, "DELETE FROM tasks WHERE id <> $1", first)
        calls: list[dict[str, object]] = [{"dedupe": "once"}] * 4 + [{}] * 2
        results = await asyncio.gather(*(made(store, within, **call) for call in calls))
        assert results[:4] == [first] * 4
        assert all(isinstance(result, str) for result in results[4:])
        assert len(await execute(database_url, "SELECT 1 FROM tasks")) == 3


async def test_a_call_that_joins_a_task_far_from_the_bound_waits_for_no_lock(store: Store, database_url: str) -> None:
    """Staged: somebody else holds the owner's lock for creates, which only those close to the bound take."""
    within = Bounds(owner_open=1500)
    first, _ = await store.tasks.create(new_task(nonce="once"), within)
    other = await asyncpg.connect(database_url)
    try:
        await other.execute("SELECT pg_advisory_lock_shared(hashtextextended($1, 1))", OWNER)
        async with asyncio.timeout(30):
            joined, _ = await store.tasks.create(new_task(nonce="once"), within)
    finally:
        await other.close()
    assert joined.id == first.id


async def test_far_from_a_large_bound_nothing_is_counted_and_it_holds_all_the_same(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "FAR", 5)
    within = Bounds(owner_open=40)
    results = [await made(store, within) for _ in range(45)]
    assert [isinstance(result, str) for result in results] == [True] * 40 + [False] * 5


async def test_a_running_task_counts_as_open_and_not_as_queued(store: Store) -> None:
    _, doorbell = await store.tasks.create(new_task(), Bounds(owner_open=1, route_queued=1))
    assert doorbell is not None
    assert await take(store, doorbell) is not None
    assert isinstance(await made(store, Bounds(route_queued=1)), str)
    assert isinstance(await made(store, Bounds(owner_open=2)), LimitReached)
