"""The fixtures keep what they promise."""

from __future__ import annotations

import asyncpg

from taskengine.settings import Settings
from taskengine.store import Store
from tests.processes import environment
from tests.services import broken_invariants


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


async def test_an_open_question_of_a_settled_task_is_found_after_the_test(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        await connection.execute(
            "CREATE TABLE tasks (id text, status text, phase text, worker_id text, attempt int,"
            " created_at timestamptz, ended_at timestamptz)"
        )
        await connection.execute("CREATE TABLE inputs (task_id text, response text, attempt int)")
        await connection.execute("INSERT INTO tasks VALUES ('tsk_1', 'completed', 'done', NULL, 1, now(), now())")
        await connection.execute("INSERT INTO inputs VALUES ('tsk_1', NULL, 1)")
    finally:
        await connection.close()
    assert await broken_invariants(empty_database_url) == ["a settled task with an open question: tsk_1"]


def test_settings_reach_other_processes_through_the_environment(settings: Settings) -> None:
    variables = environment(settings)
    assert variables["TASKENGINE_DATABASE_URL"] == settings.database_url.get_secret_value()
    assert variables["TASKENGINE_NAMESPACE"] == settings.namespace
