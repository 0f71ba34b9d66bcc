"""The fixtures keep what they promise."""

from __future__ import annotations

import asyncio

import asyncpg
from pydantic import SecretStr

from taskengine.settings import Settings
from taskengine.store import Store
from tests.processes import environment
from tests.services import Services, broken_invariants
from tests.store.calls import RESULT, claimed
from tests.store.sql import execute


async def test_every_test_has_a_migrated_database_of_its_own(store: Store, settings: Settings) -> None:
    assert await store.schema_revision() is not None
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
        await connection.execute("CREATE TABLE of_this_test (i int)")
    finally:
        await connection.close()


async def test_a_second_test_sees_nothing_of_the_first(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        assert await connection.fetchval("SELECT to_regclass('of_this_test')") is None
    finally:
        await connection.close()


async def test_an_open_question_of_a_settled_task_is_found_after_the_test(services: Services) -> None:
    url = await asyncio.to_thread(services.create_database)
    try:
        store = await Store.open(Settings(database_url=SecretStr(url)))
        claim = await claimed(store)
        await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
        await store.close()
        assert await broken_invariants(url) == []
        await execute(
            url,
            "INSERT INTO inputs (task_id, key, position, attempt, method, params)"
            " VALUES ($1, 'name', 0, 1, 'elicitation/create', '{}')",
            claim.task_id,
        )
        assert await broken_invariants(url) == [f"a settled task with an open question: {claim.task_id}"]
    finally:
        await asyncio.to_thread(services.drop_database, url)


def test_settings_reach_other_processes_through_the_environment(settings: Settings) -> None:
    variables = environment(settings)
    assert variables["TASKENGINE_DATABASE_URL"] == settings.database_url.get_secret_value()
    assert variables["TASKENGINE_NAMESPACE"] == settings.namespace
