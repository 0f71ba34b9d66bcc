"""How Postgres plans what every task meets: once per session, and by an index."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.database import Database
from tests.store.calls import OWNER, RESULT, new_task, worker

PLANNED = "SELECT statement, custom_plans FROM pg_prepared_statements WHERE statement !~ 'pg_'"


async def test_what_every_task_meets_is_planned_once_in_a_session(settings: Settings) -> None:
    store = await Store.open(settings.model_copy(update={"database_pool": 1}))  # so that one session has it all
    try:
        holder = await worker(store, "w1")
        for _ in range(7):  # Postgres makes up its mind after five executions
            await store.tasks.create(new_task())
            claim = await store.attempts.claim_next(["default"], holder)
            assert claim is not None
            await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
            await store.tasks.get(claim.task_id, OWNER)
        planned = await store.tasks._database._on_one(lambda connection: connection.fetch(PLANNED))
        assert {row["statement"].split()[0] for row in planned} >= {"WITH", "SELECT"}
        assert [row["statement"] for row in planned if row["custom_plans"]] == []
    finally:
        await store.close()


async def test_a_pooler_that_lets_nobody_choose_plans_is_used_without(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PgBouncer answers: an unsupported startup parameter ends the connection."""
    connect, asked = asyncpg.connect, []

    async def refusing(url: str, *, server_settings: dict[str, str], **options: Any) -> Any:
        asked.append("plan_cache_mode" in server_settings)
        if asked[-1]:
            raise asyncpg.ProtocolViolationError("unsupported startup parameter: plan_cache_mode")
        return await connect(url, server_settings=server_settings, **options)

    monkeypatch.setattr("taskengine.store.database.asyncpg.connect", refusing)
    database = Database(settings)
    first, second = await database._connect(), await database._connect()
    assert asked == [True, False, False]
    for connection in (first, second):
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
