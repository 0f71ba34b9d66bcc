from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from taskengine.errors import StoreUnavailable
from taskengine.settings import Settings
from taskengine.store import Store, migrate
from taskengine.store.database import driver_url
from taskengine.store.tables import metadata
from tests.services import Services
from tests.store.calls import stored
from tests.store.sql import execute


def _on(url: str, work: Any) -> Any:
    async def run() -> Any:
        engine = create_async_engine(driver_url(url))
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": migrate.VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": True,
            "target_metadata": metadata,
        },
    )
    return list(compare_metadata(context, metadata))


async def definitions(url: str) -> set[tuple[str, str]]:
    """Every constraint, index and storage setting of ours, as Postgres itself words it."""
    constraints = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
    )
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    storage = (
        "SELECT relname, array_to_string(reloptions, ', ') FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND reloptions IS NOT NULL"
    )
    rows = [row for statement in (constraints, indexes, storage) for row in await execute(url, statement)]
    return {(row[0], row[1]) for row in rows if migrate.VERSION_TABLE not in row[1] + row[0]}


def _create_all(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.commit()


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {migrate.VERSION_TABLE}


def test_migrations_and_models_give_the_same_schema(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    assert _on(empty_database_url, _differences) == []


def test_migrations_and_models_have_the_same_constraints_indexes_and_storage(
    empty_database_url: str, services: Services
) -> None:
    """Alembic's comparison leaves out CHECKs, the conditions of partial indexes, and how a table is stored."""
    migrate.upgrade(empty_database_url)
    made_from_models = services.create_database(migrated=False)
    try:
        _on(made_from_models, _create_all)
        assert asyncio.run(definitions(empty_database_url)) == asyncio.run(definitions(made_from_models))
    finally:
        services.drop_database(made_from_models)


def test_each_step_goes_down_and_up_again(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    script = ScriptDirectory(str(migrate.scripts()))
    revisions = [revision.revision for revision in script.walk_revisions()]
    for revision in revisions:
        below = script.get_revision(revision).down_revision or "base"
        migrate.downgrade(empty_database_url, str(below))
        migrate.upgrade(empty_database_url, revision)
        migrate.downgrade(empty_database_url, str(below))
    assert _on(empty_database_url, _tables) == set()


def test_two_migrations_at_once_take_turns(empty_database_url: str) -> None:
    with ThreadPoolExecutor() as threads:
        list(threads.map(migrate.upgrade, [empty_database_url] * 3))
    assert _on(empty_database_url, _differences) == []


def test_the_upgrade_can_be_read_as_sql() -> None:
    text = migrate.sql()
    assert "CREATE TABLE tasks" in text
    assert migrate.VERSION_TABLE in text


def test_a_database_that_is_away_is_named_as_such() -> None:
    with pytest.raises(StoreUnavailable):
        migrate.upgrade("postgresql://127.0.0.1:1/none")


async def test_a_store_without_schema_says_how_to_get_one(empty_database_url: str) -> None:
    store = await Store.open(Settings(database_url=SecretStr(empty_database_url)))
    try:
        assert await store.schema_revision() is None
        with pytest.raises(StoreUnavailable, match="taskengine migrate"):
            await store.tasks.get("tsk_none", "ann")
    finally:
        await store.close()


def test_going_down_makes_sleeping_tasks_due_for_the_code_before(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    asyncio.run(
        execute(
            empty_database_url,
            "INSERT INTO tasks (id, owner, tool, queue, status, phase, arguments, capabilities, base_ttl_ms, ttl_ms,"
            " expires_at, poll_interval_ms, wake_at)"
            " VALUES ('t', 'ann', 'nap', 'default', 'working', 'waiting', '{}', '{}', 1, 1, now(), 1, now())",
        )
    )
    migrate.downgrade(empty_database_url, "0002")
    rows = asyncio.run(execute(empty_database_url, "SELECT status, phase FROM tasks"))
    assert [tuple(row) for row in rows] == [("working", "queued")]
    migrate.upgrade(empty_database_url)


def test_what_was_cancelled_before_cleanups_were_known_is_not_cleaned_up_after(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url, "0003")
    insert = (
        "INSERT INTO tasks (id, owner, tool, queue, status, phase, attempt, arguments, capabilities, base_ttl_ms,"
        " ttl_ms, expires_at, poll_interval_ms, ended_at)"
        " VALUES ($1, 'ann', 'nap', 'default', $2, $3, 1, '{}', '{}', 1, 1, now() + interval '1 h', 1, $4)"
    )
    now = datetime.now(UTC)
    asyncio.run(execute(empty_database_url, insert, "old", "cancelled", "done", now))
    asyncio.run(execute(empty_database_url, insert, "live", "working", "queued", None))
    migrate.upgrade(empty_database_url)
    rows = asyncio.run(execute(empty_database_url, "SELECT id, stopped_at FROM tasks ORDER BY id"))
    assert [tuple(row) for row in rows] == [("live", None), ("old", now)]
    asyncio.run(_nothing_to_take(empty_database_url))


async def _nothing_to_take(url: str) -> None:
    store = await Store.open(Settings(database_url=SecretStr(url)))
    try:
        assert await store.stops.take("w1", ["nap"], 0.0) == []
    finally:
        await store.close()


async def test_a_column_that_is_missing_is_told_as_an_old_schema(settings: Settings, database_url: str) -> None:
    """During a migration that is taken back: requests say to try again, and running attempts keep their results."""
    await execute(database_url, "ALTER TABLE tasks DROP COLUMN same")
    store = await Store.open(settings)
    try:
        with pytest.raises(StoreUnavailable, match="taskengine migrate"):
            await stored(store)
    finally:
        await store.close()
