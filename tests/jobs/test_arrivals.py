"""Calls of other tools in real workers: taken as they come, refused, and nested."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from taskengine.lifecycle import Phase, Status
from taskengine.settings import Settings
from tests.apps.durable import engine
from tests.jobs.calls import OWNER, Calls, calls_on
from tests.jobs.test_worker import appears, lines, text
from tests.processes import Processes
from tests.store.sql import execute

APP = "tests/apps/durable.py:engine"
ANN = {"action": "accept", "content": {"name": "Ann"}}
WAKE_SLEEPER = (
    "WITH due AS (UPDATE journal SET due = now() WHERE kind = 'sleep' RETURNING task_id)"
    " UPDATE tasks SET wake_at = now() WHERE id IN (SELECT task_id FROM due)"
)


@pytest.fixture
async def durable(settings: Settings) -> AsyncIterator[Calls]:
    async with calls_on(settings, engine) as opened:
        yield opened


@pytest.mark.parametrize("linger_s", [0, 1])
@pytest.mark.parametrize("tool", ["arriving", "arriving_sync"])
async def test_every_outcome_is_taken_once_and_in_far_fewer_attempts_than_there_are_calls(
    durable: Calls, processes: Processes, tmp_path: Path, tool: str, linger_s: int
) -> None:
    ledger = tmp_path / "ledger"
    processes.worker(APP, async_slots=2, sync_slots=1, linger=timedelta(seconds=linger_s))
    task_id = await durable.submit(tool, children=150, ledger=str(ledger))
    said = re.fullmatch(r"150 of 150, the last was \d+, in attempt (\d+)", text(await durable.end(task_id)))
    assert said is not None
    assert int(said[1]) < 75
    assert lines(ledger, "took") == 150


@pytest.mark.parametrize("tool", ["arriving", "arriving_sync"])
async def test_outcomes_are_taken_while_others_are_still_awaited_and_nothing_is_held_meanwhile(
    durable: Calls, processes: Processes, tmp_path: Path, database_url: str, tool: str
) -> None:
    ledger = tmp_path / "ledger"
    first = processes.worker(APP, linger=timedelta(0))
    task_id = await durable.submit(tool, children=3, straggler=True, ledger=str(ledger))
    await appears(ledger, "took-1")
    await appears(ledger, "took-2")
    await durable.until(task_id, lambda record: record.phase is Phase.WAITING)
    record = await durable.store.tasks.get(task_id, OWNER)
    assert (record.status, record.status_message) == (Status.WORKING, "Waiting for 1 of 3 calls")
    first.send(signal.SIGKILL)
    await asyncio.to_thread(first.wait, 10)
    processes.worker(APP, linger=timedelta(0))
    await execute(database_url, WAKE_SLEEPER)
    assert text(await durable.end(task_id)).startswith("3 of 3, the last was 0, in attempt")
    assert lines(ledger, "took") == 3


async def test_a_tool_that_calls_itself_for_ever_is_stopped(
    durable: Calls, processes: Processes, database_url: str
) -> None:
    processes.worker(APP, linger=timedelta(0))
    assert "33 levels deep" in text(await durable.call("endless"))
    (row,) = await execute(database_url, "SELECT count(*) AS made, bool_and(phase = 'done') AS done FROM tasks")
    assert tuple(row) == (33, True)


async def test_a_refusal_in_a_process_is_the_same_in_a_later_attempt(
    durable: Calls, processes: Processes, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    processes.worker(APP, linger=timedelta(0))
    task_id = await durable.submit("refused", ledger=str(ledger))
    await durable.until(task_id, lambda record: record.phase is Phase.WAITING)
    await durable.answer(task_id, name=ANN)
    assert text(await durable.end(task_id)) == "DeclarationError/InvalidArguments"
    assert lines(ledger, "DeclarationError/InvalidArguments") == 2
