"""How Postgres plans what every task meets: once per session, and by an index."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from benchmarks.profile_plans import overheard
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.attempts import _COMPLETE, _PROGRESS
from taskengine.store.creation import CREATE, CREATE_WITHIN
from taskengine.store.database import _PLANNING, Database
from taskengine.store.reads import _GET
from tests.store.calls import OWNER, RESULT, new_task, worker
from tests.store.sql import execute

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


STEPS: dict[str, Callable[[Store, str], Awaitable[object]]] = {
    "cancel: ix_tasks_children": lambda store, task_id: store.tasks.cancel(task_id, OWNER),
    "cancel_orphans: ix_tasks_children": lambda store, _: store.children.cancel_orphans(),
    "wake_due: ix_tasks_wake": lambda store, _: store.waits.wake_due(),
    "due_in_s: ix_tasks_wake": lambda store, _: store.waits.due_in_s(),
    "take: ix_tasks_stopping": lambda store, _: store.stops.take("w1", ["count"], 1.0),
    "ring_again: ix_tasks_due": lambda store, _: store.upkeep.ring_again("default", 1.0, 10),
    "extend: ix_tasks_alive": lambda store, _: store.upkeep.extend(),
}
"""Repairs and what is rarer, each with the partial index that it lives by."""


@pytest.mark.parametrize("step", STEPS)
async def test_the_one_plan_of_a_session_uses_the_partial_indexes(
    settings: Settings, database_url: str, step: str
) -> None:
    store = await Store.open(settings)
    try:
        record, _ = await store.tasks.create(new_task())
        await worker(store, "w1")
        with overheard() as sent:
            await STEPS[step](store, record.id)
        plans = [await plan_of(database_url, text) for text, _ in sent]
        index = step.split(": ")[1]
        assert any(index in plan for plan in plans), "\n\n".join(plans)
        assert not any("Seq Scan on tasks" in plan for plan in plans), "\n\n".join(plans)
    finally:
        await store.close()


async def test_what_names_its_tasks_finds_them_by_their_key(store: Store, database_url: str) -> None:
    """While the tables are empty, when one index is as good as another, a session makes the plan that it keeps."""
    with overheard() as sent:
        await store.tasks.get_many(["tsk_a", "tsk_b"], OWNER)
        await store.tasks.heads(["tsk_a"], OWNER)
        await store.attempts.hand_back("tsk_a", 1, "w1")
        await store.stops.begin("tsk_a", 1, "w1")
        await store.stops.note("tsk_a", 1, "the tool stopped")
    assert len({text for text, _ in sent}) == 5  # some are written again
    assert _COMPLETE.together is not None
    fixed = [each.sql for each in (_GET, _COMPLETE, _COMPLETE.together, _PROGRESS)]
    for sql in fixed + [text for text, _ in sent]:
        plan = await plan_of(database_url, sql)
        used = re.findall(r"(?:Scan using|Bitmap Index Scan on) (\w+)(?: on tasks)?  \(cost", plan)
        assert [index for index in used if "tasks" in index] == ["pk_tasks"], plan


async def test_several_calls_are_stored_without_a_look_at_all_tasks(database_url: str) -> None:
    """Each finds its turn by the indexes of the queue and of its owner's line, and what is counted by indexes too."""
    for create in [*CREATE.values(), *CREATE_WITHIN.values()]:
        assert create.together is not None
        plan = await plan_of(database_url, create.together.sql)
        counted = ["counted", "counted_1", "counted_2", "counted_3"] if create in CREATE_WITHIN.values() else []
        assert re.findall(r"Scan .*on tasks (\w+)", plan) == [*counted, "there", "theirs", "own"], plan
        assert "Seq Scan" not in plan, plan


async def test_an_owners_open_tasks_are_counted_among_his_own_whatever_postgres_knows_of_the_table(
    store: Store, database_url: str
) -> None:
    """Of a small table it once took another index for as good, and kept to it while the table grew."""
    record, _ = await store.tasks.create(new_task())
    live, ended = "{}", '{"phase": "done", "status": "cancelled", "ended_at": "2999-01-01T00:00:00Z"}'
    for more, how in ((0, live), (30, live), (300, live), (3000, live), (20000, ended)):
        await execute(
            database_url,
            "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid()::text,"
            " 'owner', 'o' || n % 16) || $3::jsonb)).* FROM tasks t, generate_series(1, $2) n WHERE id = $1",
            record.id,
            more,
            how,
        )
        await execute(database_url, "ANALYZE tasks")
        for within in CREATE_WITHIN.values():
            assert within.together is not None
            for sql in (within.sql, within.together.sql):
                lines = (await plan_of(database_url, sql)).splitlines()
                his, total = (
                    "".join(lines[at : at + 4])  # of a bitmap two nodes, else one
                    for at, line in enumerate(lines)
                    if " on tasks counted " in line or " on tasks counted_1 " in line
                )
                assert "ix_tasks_unended" in his, his
                assert "Index Cond: (owner = " in his, his
                assert "ix_tasks_unended" in total, total


async def plan_of(url: str, statement: str) -> str:
    """As the engine's sessions make theirs, for values that are not known."""
    connection = await asyncpg.connect(url, server_settings=_PLANNING)
    try:
        await connection.execute(f"PREPARE statement AS {statement}")
        values = ", ".join(["NULL"] * max(map(int, re.findall(r"\$(\d+)", statement)), default=0))
        rows = await connection.fetch(f"EXPLAIN EXECUTE statement{f'({values})' if values else ''}")
        return "\n".join(row[0] for row in rows)
    finally:
        await connection.close()


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
