"""Tasks that end with the one that called them, while somebody else has their rows locked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from taskengine.lifecycle import Status
from taskengine.records import Claim
from taskengine.store import Store
from tests.store.calls import OWNER, claimed
from tests.store.test_journal import called, child

LOCK = "SELECT id FROM tasks WHERE id = $1 FOR UPDATE"
CHILDREN = ("tsk_a", "tsk_b", "tsk_c")


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Somebody else, who is never the one that Postgres ends when two wait for each other."""
    connection = await asyncpg.connect(database_url, server_settings={"deadlock_timeout": "600s"})
    yield connection
    await connection.close()


@pytest.fixture
async def third(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def family(store: Store) -> Claim:
    """A parent whose children were stored against the order of their names."""
    claim = await claimed(store)
    for place, name in enumerate(reversed(CHILDREN), start=1):
        await store.journal.record(claim, [called(name, str(place))], [child(claim, name)])
    return claim


async def wait_for_locks(connection: asyncpg.Connection[Any], sessions: int) -> None:
    """So many sessions wait for what another has locked."""
    blocked = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pg_blocking_pids(pid) <> '{}'"
    )
    async with asyncio.timeout(20):
        while await connection.fetchval(blocked) < sessions:
            await asyncio.sleep(0.02)


async def statuses(store: Store, claim: Claim) -> set[Status]:
    return {(await store.tasks.get(task_id, OWNER)).status for task_id in (claim.task_id, *CHILDREN)}


async def test_a_cancel_locks_the_children_in_the_order_of_their_names(
    store: Store, other: asyncpg.Connection[Any]
) -> None:
    claim = await family(store)
    async with other.transaction():
        await other.execute(LOCK, CHILDREN[0])
        cancelling = asyncio.create_task(store.tasks.cancel(claim.task_id, OWNER))
        await wait_for_locks(other, 1)
        for name in CHILDREN[1:]:
            assert await other.fetchval(f"{LOCK} NOWAIT", name) == name
    await cancelling
    assert await statuses(store, claim) == {Status.CANCELLED}


async def test_a_cancel_that_met_a_deadlock_is_done_all_the_same(
    store: Store, other: asyncpg.Connection[Any], third: asyncpg.Connection[Any]
) -> None:
    """The cancel is the last to wait, for a session looks for a deadlock once, some time after its wait began."""
    claim = await family(store)
    async with other.transaction():
        await other.execute(LOCK, CHILDREN[1])
        async with third.transaction():
            await third.execute(LOCK, CHILDREN[0])
            cancelling = asyncio.create_task(store.tasks.cancel(claim.task_id, OWNER))
            await wait_for_locks(third, 1)
            given_way = asyncio.create_task(other.fetchval(LOCK, claim.task_id))
            await wait_for_locks(third, 2)
        assert await given_way == claim.task_id  # once the cancel has met the lock of the other and given way
    await cancelling
    assert await statuses(store, claim) == {Status.CANCELLED}
