from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
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


def _checks(connection: Connection) -> dict[str, set[str | None]]:
    found = inspect(connection)
    return {table: {check["name"] for check in found.get_check_constraints(table)} for table in metadata.tables}


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {migrate.VERSION_TABLE}


def test_migrations_and_models_give_the_same_schema(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    assert _on(empty_database_url, _differences) == []


def test_migrations_and_models_have_the_same_checks(empty_database_url: str) -> None:
    """Alembic does not compare CHECKs, so their names are."""
    migrate.upgrade(empty_database_url)
    wanted = {
        name: {str(each.name) for each in table.constraints if each.__visit_name__ == "check_constraint"}
        for name, table in metadata.tables.items()
    }
    assert _on(empty_database_url, _checks) == wanted


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
