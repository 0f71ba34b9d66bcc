"""Migrations of a database that is in use."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from taskengine.errors import StoreUnavailable
from taskengine.store import migrate
from tests.store.sql import execute
from tests.store.test_migrate import definitions

INSERT = (
    "INSERT INTO tasks (id, owner, tool, queue, status, phase, arguments, capabilities, base_ttl_ms, ttl_ms,"
    " expires_at, poll_interval_ms) VALUES ($1, 'ann', 'nap', 'default', 'working', 'queued', '{}', '{}', 1, 1,"
    " now() + interval '1 h', 1)"
)
BUILDING = "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for old snapshots%'"
INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


async def _one_that_reads_long(url: str) -> asyncpg.Connection[Any]:
    """A transaction that has looked at the database and has not ended, as a dump has."""
    connection = await asyncpg.connect(url)
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.fetch("SELECT 1")
    return connection


async def _builds(url: str) -> int:
    """The session that builds an index, once it waits for an older transaction."""
    async with asyncio.timeout(30):
        while not (rows := await execute(url, BUILDING)):
            await asyncio.sleep(0.05)
    pid: int = rows[0]["pid"]
    return pid


async def test_tasks_are_accepted_while_an_index_waits_for_an_old_transaction(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database_url, "0001")
    await execute(empty_database_url, INSERT, "before")
    old = await _one_that_reads_long(empty_database_url)
    migrating = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))
    beside = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))  # waits for its turn
    try:
        await _builds(empty_database_url)
        await asyncio.wait_for(execute(empty_database_url, INSERT, "meanwhile"), 10)
        assert not migrating.done()
    finally:
        await old.close()
    await asyncio.wait_for(asyncio.gather(migrating, beside), 60)
    assert (await execute(empty_database_url, INVALID))[0][0] == 0
    assert [row["id"] for row in await execute(empty_database_url, "SELECT id FROM tasks ORDER BY id")] == [
        "before",
        "meanwhile",
    ]


@pytest.mark.parametrize("below", ["0001", "0002", "0003", "0006", "0008", "0009"])
async def test_a_migration_that_was_interrupted_is_finished_by_the_next(
    empty_database_url: str, database_url: str, below: str
) -> None:
    """Each of these builds indexes in its next step."""
    await asyncio.to_thread(migrate.upgrade, empty_database_url, below)
    old = await _one_that_reads_long(empty_database_url)
    migrating = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))
    try:
        await execute(empty_database_url, "SELECT pg_terminate_backend($1)", await _builds(empty_database_url))
        with pytest.raises(StoreUnavailable):
            await migrating
    finally:
        await old.close()
    assert (await execute(empty_database_url, INVALID))[0][0] == 1
    await asyncio.to_thread(migrate.upgrade, empty_database_url)
    assert await definitions(empty_database_url) == await definitions(database_url)


@pytest.mark.parametrize("step", ["0002", "0003", "0004", "0006", "0007", "0008", "0009", "0011", "0013"])
async def test_a_migration_that_cannot_have_its_lock_gives_up_and_changes_nothing(
    empty_database_url: str, step: str
) -> None:
    below = f"{int(step) - 1:04}"
    await asyncio.to_thread(migrate.upgrade, empty_database_url, below)
    writer = await asyncpg.connect(empty_database_url)
    try:
        await writer.execute("BEGIN")
        await writer.execute(INSERT, "open")
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(migrate.upgrade, empty_database_url, step)
        assert (await execute(empty_database_url, f"SELECT version_num FROM {migrate.VERSION_TABLE}"))[0][0] == below
        await writer.execute("COMMIT")
    finally:
        await writer.close()
    await asyncio.to_thread(migrate.upgrade, empty_database_url)
    assert len(await execute(empty_database_url, "SELECT id FROM tasks")) == 1


STATES = (
    ("working", "queued"),
    ("working", "running"),
    ("input_required", "waiting"),
    ("completed", "done"),
    ("failed", "done"),
    ("cancelled", "done"),
)
IN_STATE = (
    "INSERT INTO tasks (id, owner, tool, queue, status, phase, attempt, arguments, capabilities, base_ttl_ms, ttl_ms,"
    " expires_at, poll_interval_ms, worker_id, result, error, ended_at)"
    " SELECT status || phase, 'ann', 'nap', 'default', status, phase, 1, '{}', '{}', 1, 1, now(), 1,"
    " CASE phase WHEN 'running' THEN 'w1' END, CASE status WHEN 'completed' THEN '{}' END,"
    " CASE status WHEN 'failed' THEN '{}' END, CASE phase WHEN 'done' THEN now() END"
    " FROM unnest($1::text[], $2::text[]) AS states (status, phase)"
)


async def test_tasks_in_every_state_survive_each_step_up_and_down(empty_database_url: str) -> None:
    revisions = sorted(each.revision for each in ScriptDirectory(str(migrate.scripts())).walk_revisions())
    await asyncio.to_thread(migrate.upgrade, empty_database_url, revisions[0])
    await execute(empty_database_url, IN_STATE, *map(list, zip(*STATES, strict=True)))
    up = [(migrate.upgrade, revision) for revision in revisions[1:]]
    down = [(migrate.downgrade, revision) for revision in reversed(revisions[:-1])]
    for turn, revision in (*up, *down):
        await asyncio.to_thread(turn, empty_database_url, revision)
        rows = await execute(empty_database_url, "SELECT status, phase FROM tasks")
        assert sorted(map(tuple, rows)) == sorted(STATES)
