"""The audit log: what is recorded with what is done, and that nobody changes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from taskengine.records import Entry
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.audit import ENGINE, Deed
from taskengine.store.database import _text
from tests.store.calls import OWNER, claimed, new_task, question
from tests.store.sql import execute


def said(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["actor"], row["action"], row["task_id"], row["owner"], row["tool"]) for row in rows]


async def test_creating_a_task_is_recorded_once_however_often_it_is_written(store: Store) -> None:
    made, _ = await store.tasks.create(new_task())
    assert said(await store.audit.find()) == [(OWNER, "create", made.id, OWNER, "count")]


async def test_a_call_that_makes_no_task_records_no_creation(store: Store) -> None:
    await store.tasks.create(new_task(dedupe="same"))
    await store.tasks.create(new_task(dedupe="same"))
    assert len(await store.audit.find(action="create")) == 1


async def test_a_task_that_a_tool_calls_is_recorded_as_its_owners(store: Store) -> None:
    claim = await claimed(store)
    child = new_task(parent=claim.task_id)
    await store.journal.record(claim, [Entry("1", "call", "count", done=False, child_id=child.id)], [child])
    (made,) = await store.audit.find(task_id=child.id)
    assert (made["actor"], made["action"], made["tool"]) == (OWNER, "create", "count")


async def test_tasks_that_end_with_their_caller_are_recorded(store: Store) -> None:
    """As cancelled by whoever cancelled that, or by the engine where it ended by itself."""
    for actor, expected in (("operator", "operator"), (None, ENGINE)):
        claim = await claimed(store)
        child = new_task(parent=claim.task_id)
        await store.journal.record(claim, [Entry("1", "call", "count", done=False, child_id=child.id)], [child])
        if actor is not None:
            await store.tasks.cancel(claim.task_id, OWNER, actor=actor)
        else:
            await store.attempts.fail(claim, '{"code":1,"message":"x"}', status_message="x")
            assert await store.children.cancel_orphans() == 1
        (row,) = await store.audit.find(task_id=child.id, action="cancel")
        assert said([row]) == [(expected, "cancel", child.id, OWNER, "count")]
        assert row["detail"] == "with the task that called it"


async def test_who_cancelled_and_who_answered_is_recorded_with_it(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a"), question("b")], "asks")
    await store.inputs.answer(claim.task_id, OWNER, {"a": {"action": "decline"}}, actor="operator")
    await store.inputs.answer(claim.task_id, OWNER, {"a": {"action": "accept"}})  # too late: the first counts
    await store.tasks.cancel(claim.task_id, OWNER)
    await store.tasks.cancel(claim.task_id, OWNER, actor="operator")  # it had ended
    rows = await store.audit.find(task_id=claim.task_id)
    assert [(row["actor"], row["action"], row["owner"]) for row in rows] == [
        (OWNER, "cancel", OWNER),
        ("operator", "answer", OWNER),
        (OWNER, "create", OWNER),
    ]


async def test_entries_are_found_by_who_what_and_when(store: Store) -> None:
    await store.audit.add(
        [
            Deed("ann", "read", "t1", "count", times=3, age_s=7200),
            Deed("bob", "refuse", "t1", detail="no such task of this caller"),
        ]
    )
    assert [row["times"] for row in await store.audit.find(actor="ann")] == [3]
    assert {row["actor"] for row in await store.audit.find(task_id="t1")} == {"ann", "bob"}
    assert [row["actor"] for row in await store.audit.find(since=timedelta(hours=1))] == ["bob"]
    newest, oldest = await store.audit.find()
    assert list(await store.audit.find(before=newest["id"])) == [oldest]


async def test_the_readers_of_a_large_log_find_what_they_ask_by_an_index(store: Store, database_url: str) -> None:
    await execute(
        database_url,
        "INSERT INTO audit (actor, action, task_id, owner, at)"
        " SELECT CASE WHEN n % 1000 = 0 THEN 'operator' ELSE who END, 'create', 't' || n, who,"
        " now() - interval '1 d' + n * interval '1 s' FROM generate_series(1, 50000) n, format('o%s', n % 500) who",
    )
    await execute(database_url, "VACUUM ANALYZE audit")
    asked: list[tuple[str, list[Any]]] = []
    database = store._database
    run = database.run

    async def noted(statement: Any, values: Any = None) -> Any:
        asked.append(_text(statement, values or {}))
        return await run(statement, values)

    database.run = noted  # type: ignore[method-assign]
    found = [
        await store.audit.find(actor="o0", limit=60),
        await store.audit.find(actor="nobody"),
        await store.audit.find(task_id="t7"),
        await store.audit.find(since=timedelta(hours=11), limit=10_000),
    ]
    assert [len(rows) for rows in found[:3]] == [60, 0, 1]
    assert 1_000 < len(found[3]) <= 3_200  # the newest is ten hours old
    assert [row["id"] for row in found[0]] == sorted((row["id"] for row in found[0]), reverse=True)
    assert {row["actor"] for row in found[0]} == {"o0", "operator"}
    for statement, values in asked:
        plan = await execute(database_url, f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *values)
        assert _read(json.loads(plan[0][0])[0]["Plan"]) < 20_000, plan[0][
            0
        ]  # a summary of the index by time is of a megabyte


def _read(node: dict[str, Any]) -> int:
    """How many rows were looked at."""
    own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    own += node.get("Rows Removed by Index Recheck", 0) * node["Actual Loops"]
    return int(own if "Relation Name" in node else 0) + sum(_read(each) for each in node.get("Plans", []))


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_nobody_changes_or_deletes_an_entry(store: Store, database_url: str, statement: str) -> None:
    await store.tasks.create(new_task())
    with pytest.raises(asyncpg.RaiseError, match="the audit log only grows"):
        await execute(database_url, statement)
    assert len(await store.audit.find()) == 1


async def test_the_sweep_takes_what_is_old_and_nothing_else(store: Store, database_url: str) -> None:
    await store.audit.add([Deed("ann", "list", age_s=100.0), Deed("bob", "list", age_s=10.0)])
    assert await store.audit.sweep(50.0) == 1
    assert [row["actor"] for row in await store.audit.find()] == ["bob"]
    with pytest.raises(asyncpg.RaiseError):  # what the sweep may do ends with its transaction
        await execute(database_url, "DELETE FROM audit")


async def test_without_the_setting_nothing_is_recorded(settings: Settings) -> None:
    store = await Store.open(settings.model_copy(update={"audit": False}))
    claim = await claimed(store)
    child = new_task(parent=claim.task_id)
    await store.journal.record(claim, [Entry("1", "call", "count", done=False, child_id=child.id)], [child])
    await store.attempts.suspend(claim, [question("a")], "asks")
    await store.inputs.answer(claim.task_id, OWNER, {"a": {"action": "decline"}})
    await store.tasks.cancel(claim.task_id, OWNER)
    assert await store.audit.find() == []
    await store.close()
