"""How much may be open and wait: counted where the task is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from taskengine.errors import Busy, LimitReached
from taskengine.settings import Settings
from taskengine.store import Store, bounds
from taskengine.store.bounds import Bounds
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
    first, _ = await store.tasks.create(new, within)
    again, doorbell = await store.tasks.create(new, within)
    joined, _ = await store.tasks.create(new_task(nonce="once"), within)
    assert first.id == again.id == joined.id
    assert doorbell is None


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
