"""Calls that come at one instant are stored by one statement, and each as if it had come alone."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from taskengine.errors import LimitReached
from taskengine.records import Same, Slot, TaskRecord
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.bounds import Bounds
from tests.store.calls import new_task, worker
from tests.store.sql import execute

# Where answers are lost, creates are repeated one by one.
pytestmark = pytest.mark.parametrize("store", ["heard"], indirect=True)


@pytest.fixture
def url(settings: Settings) -> str:
    return settings.database_url.get_secret_value()


async def at_once(store: Store, *calls: dict[str, Any]) -> list[TaskRecord]:
    made = await asyncio.gather(*(store.tasks.create(new_task(**call)) for call in calls))
    return [record for record, _ in made]


async def statements(url: str) -> int:
    """How many have inserted the tasks that are there."""
    ((count,),) = await execute(url, "SELECT count(DISTINCT (xmin::text, cmin::text)) FROM tasks")
    return int(count)


async def test_they_are_one_statement(store: Store, url: str) -> None:
    made = await at_once(store, *({"owner": f"o{n}", "tool": f"t{n}", "ttl_ms": n + 1} for n in range(20)))
    assert await statements(url) == 1
    for number, record in enumerate(made):
        (row,) = await execute(url, "SELECT owner, tool, ttl_ms, base_ttl_ms FROM tasks WHERE id = $1", record.id)
        assert tuple(row) == (f"o{number}", f"t{number}", number + 1, number + 1)


async def test_one_owners_calls_among_them_stand_behind_each_other_and_not_before_anothers(
    store: Store, url: str
) -> None:
    await worker(store, "w1")
    await at_once(store, *({"owner": owner} for owner in ("ann", "ann", "ann", "bob", "ann", "bob")))
    assert await statements(url) == 1
    claims = [await store.attempts.claim_next(["default"], "w1") for _ in range(6)]
    owners = [claim.owner for claim in claims if claim is not None]
    assert [set(owners[:2]), set(owners[2:4]), owners[4:]] == [{"ann", "bob"}, {"ann", "bob"}, ["ann", "ann"]]
    turns = await execute(url, "SELECT turn FROM tasks WHERE owner = 'ann' ORDER BY turn")
    assert len({row["turn"] for row in turns}) == 4


async def test_each_queue_and_priority_has_a_line_of_its_own(store: Store, url: str) -> None:
    calls = [{"queue": queue, "priority": priority} for queue in ("default", "other") for priority in (0, 5)]
    await at_once(store, *calls)
    assert await statements(url) == 1
    assert len(await execute(url, "SELECT DISTINCT turn FROM tasks")) == 1


async def test_each_keeps_its_limits(store: Store, url: str) -> None:
    slots = [(Slot("count:total", 2), Slot("count:owner:ann", 1)), (), (Slot("other:total", 3),)]
    made = await at_once(store, *({"slots": each} for each in slots))
    assert await statements(url) == 1
    for record, given in zip(made, slots, strict=True):
        (row,) = await execute(url, "SELECT limit_keys, limit_sizes FROM tasks WHERE id = $1", record.id)
        assert row["limit_keys"] == ([slot.key for slot in given] or None)
        assert row["limit_sizes"] == ([slot.size for slot in given] or None)


async def test_each_is_recorded(store: Store, url: str) -> None:
    made = await at_once(store, {"owner": "ann", "tool": "one"}, {"owner": "bob", "tool": "two"})
    assert await statements(url) == 1
    entries = {(row["task_id"], row["actor"], row["owner"], row["tool"]) for row in await store.audit.find()}
    assert entries == {(made[0].id, "ann", "ann", "one"), (made[1].id, "bob", "bob", "two")}


async def test_no_turn_is_above_the_sequence(store: Store, url: str) -> None:
    """It is the front where nobody waits: else whoever comes late would go before all the others for long."""
    await worker(store, "w1")
    for _ in range(3):
        await at_once(store, *({"owner": "ann"} for _ in range(20)))
        ((above,),) = await execute(url, "SELECT max(turn) - (SELECT last_value FROM turns) FROM tasks")
        assert above <= 0
    taken = [await store.attempts.claim_next(["default"], "w1") for _ in range(50)]
    assert None not in taken
    await at_once(store, *({"owner": "bob"} for _ in range(3)))
    ((bobs, front),) = await execute(
        url, "SELECT min(turn) FILTER (WHERE owner = 'bob'), min(turn) FROM tasks WHERE phase = 'queued'"
    )
    assert bobs == front


@pytest.mark.parametrize(
    "key", [{"dedupe": "same"}, {"nonce": "same"}, {"same": Same("same", None)}], ids=["dedupe", "nonce", "same"]
)
async def test_of_those_that_are_the_same_call_one_is_stored(store: Store, url: str, key: dict[str, Any]) -> None:
    (before,) = await at_once(store, {"dedupe": "another"})  # the first digest of a process reads a secret
    made = await at_once(store, key, {}, key, key)
    assert await statements(url) == 2
    same = {made[0].id, made[2].id, made[3].id}
    assert len(same) == 1
    stored = same | {made[1].id, before.id}
    assert {row["id"] for row in await execute(url, "SELECT id FROM tasks")} == stored
    assert sorted(row["task_id"] for row in await store.audit.find()) == sorted(stored)


async def test_one_that_is_refused_takes_no_other_with_it(store: Store, url: str) -> None:
    calls = [new_task(), new_task(tool="a\0b"), new_task()]
    made = await asyncio.gather(*(store.tasks.create(call) for call in calls), return_exceptions=True)
    assert isinstance(made[1], asyncpg.PostgresError | ValueError)
    stored = {row["id"] for row in await execute(url, "SELECT id FROM tasks")}
    assert stored == {calls[0].id, calls[2].id}


async def test_those_within_a_bound_see_each_other(store: Store, url: str) -> None:
    bounds = Bounds(owner_open=3)
    made = await asyncio.gather(*(store.tasks.create(new_task(), bounds) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(each, LimitReached) for each in made) == 2
    assert len(await execute(url, "SELECT 1 FROM tasks")) == 3


async def test_those_within_bounds_are_one_statement_too(store: Store, url: str) -> None:
    calls = [new_task(owner=f"o{n % 7}", tool=f"t{n}") for n in range(20)]
    made = await asyncio.gather(*(store.tasks.create(call, Bounds(owner_open=1000)) for call in calls))
    assert await statements(url) == 1
    rows = await execute(url, "SELECT owner, tool FROM tasks WHERE id = ANY($1)", [record.id for record, _ in made])
    assert {tuple(row) for row in rows} == {(call.owner, call.tool) for call in calls}
