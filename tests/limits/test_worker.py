"""Fairness, limits and pauses with a real worker. What ran in which order is read from the database."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskengine.lifecycle import Status
from taskengine.records import Doorbell, NewTask
from taskengine.settings import Settings
from tests.apps.limited import engine
from tests.jobs.calls import Calls, calls_on
from tests.processes import Processes
from tests.store.sql import execute

APP = "tests/apps/limited.py:engine"
PATIENCE_S = 90


@pytest.fixture
async def calls(settings: Settings) -> AsyncIterator[Calls]:
    async with calls_on(settings, engine) as opened:
        yield opened


async def submit(calls: Calls, name: str, owner: str, **arguments: Any) -> str:
    """As a front end does it."""
    tool = engine.get_tool(name)
    assert tool is not None
    new = NewTask(
        id=f"tsk_{secrets.token_urlsafe(24)}",
        owner=owner,
        tool=name,
        queue=tool.route,
        arguments=arguments,
        capabilities={"elicitation": {}},
        ttl_ms=3_600_000,
        poll_interval_ms=30_000,
        priority=tool.priority,
        slots=tool.slots(owner, arguments),
    )
    _, doorbell = await calls.store.tasks.create(new)
    assert doorbell is not None
    calls.bell.ring(doorbell)
    return new.id


async def until_none_is_open(url: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await execute(url, "SELECT count(*) FROM tasks WHERE phase <> 'done'"))[0][0]:
            await asyncio.sleep(0.1)


async def copies(calls: Calls, url: str, task_id: str, many: int) -> None:
    """So many more calls like this one, each with the turn after the one before and a doorbell of its own."""
    await execute(
        url,
        f"INSERT INTO tasks SELECT c.* FROM tasks t, generate_series(1, {many}) n,"
        " LATERAL jsonb_populate_record(t, jsonb_build_object('id', t.id || '-' || n, 'turn', nextval('turns'))) c"
        " WHERE t.id = $1",
        task_id,
    )
    for n in range(1, many + 1):
        calls.bell.ring(Doorbell(f"{task_id}-{n}", 1, "default"))


async def test_10000_calls_of_one_owner_delay_anothers_by_a_few_jobs(
    calls: Calls, processes: Processes, database_url: str
) -> None:
    """Measured in jobs, by the order of the claims; the rest of the backlog is left standing."""
    await copies(calls, database_url, await submit(calls, "brief", "ann", n=0), 9_999)
    processes.worker(APP, async_slots=2)
    async with asyncio.timeout(PATIENCE_S):
        while not (await execute(database_url, "SELECT count(*) FROM tasks WHERE phase = 'done'"))[0][0]:
            await asyncio.sleep(0.02)
    task_id = await submit(calls, "brief", "bob", n=0)
    async with asyncio.timeout(PATIENCE_S):
        while (await calls.store.tasks.get(task_id, "bob")).status is not Status.COMPLETED:
            await asyncio.sleep(0.05)
    jobs_between = (
        "SELECT count(*) FROM tasks a, tasks b WHERE b.owner = 'bob' AND a.owner = 'ann'"
        " AND a.claimed_at > b.created_at AND a.claimed_at < b.claimed_at"
    )
    assert (await execute(database_url, jobs_between))[0][0] <= 5
    waiting = "SELECT count(*) FROM tasks WHERE owner = 'ann' AND phase = 'queued'"
    assert (await execute(database_url, waiting))[0][0] > 5_000, "the backlog was over before it could delay anybody"


async def test_no_more_run_at_once_than_their_limits_say_and_all_get_done(
    calls: Calls, processes: Processes, database_url: str
) -> None:
    processes.worker(APP)
    processes.worker(APP)
    for n in range(24):
        await submit(calls, "book", "ann", customer="abcdef"[n % 6])
    for n in range(6):
        await submit(calls, "serial", "bob", n=n)
    await until_none_is_open(database_url)
    rows = await execute(
        database_url,
        "SELECT tool, arguments, status, attempt, claimed_at, ended_at FROM tasks ORDER BY claimed_at",
    )
    assert {(row["status"], row["attempt"]) for row in rows} == {("completed", 1)}
    for tool, most in (("book", 3), ("serial", 1)):
        mine = [row for row in rows if row["tool"] == tool]
        for row in mine:
            beside = [each for each in mine if each["claimed_at"] <= row["claimed_at"] < each["ended_at"]]
            assert len(beside) <= most
            assert len({each["arguments"] for each in beside}) == len(beside)


async def test_a_paused_queue_is_run_once_it_is_resumed(calls: Calls, processes: Processes, database_url: str) -> None:
    await calls.store.queues.pause("default")
    processes.worker(APP)
    paused = await submit(calls, "brief", "ann", n=1)
    async with asyncio.timeout(PATIENCE_S):  # its doorbell has been taken from the broker, and refused
        while (await asyncio.to_thread(calls.bell.depths, ("default",)))["default"]:
            await asyncio.sleep(0.05)
    record = await calls.store.tasks.get(paused, "ann")
    assert (record.attempt, record.status_message) == (0, "Waiting: its queue is paused")
    await calls.store.queues.resume("default")
    await until_none_is_open(database_url)
    assert (await calls.store.tasks.get(paused, "ann")).status is Status.COMPLETED


async def test_a_task_that_asks_more_than_it_may_fails_and_names_the_limit(calls: Calls, processes: Processes) -> None:
    processes.worker(APP, max_questions=2)
    task_id = await submit(calls, "curious", "ann")
    for _ in range(2):
        asking = await _until(calls, task_id, lambda record: bool(record.open_questions))
        answers = {question.key: {"action": "accept", "content": {}} for question in asking.open_questions}
        doorbell = await calls.store.inputs.answer(task_id, "ann", answers)
        if doorbell is not None:
            calls.bell.ring(doorbell)
    failed = await _until(calls, task_id, lambda record: record.terminal)
    assert failed.status is Status.FAILED
    assert "2 questions at most (max_questions)" in (failed.error or "")


async def test_log_lines_past_the_limit_are_dropped_and_the_last_one_says_so(
    calls: Calls, processes: Processes
) -> None:
    processes.worker(APP, max_log_lines=5)
    task_id = await submit(calls, "chatty", "ann", lines=40)
    await _until(calls, task_id, lambda record: record.terminal)
    lines = await calls.store.tasks.lines(task_id, "ann", 0, 100)
    assert len(lines) == 6
    assert "5 are the most (max_log_lines)" in lines[-1].data


async def _until(calls: Calls, task_id: str, reached: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S), calls.store.changes.watch([task_id]) as watch:
        while not reached(record := await calls.store.tasks.get(task_id, "ann")):
            await watch.next(1)
        return record
