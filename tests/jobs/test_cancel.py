"""What becomes of the run of a cancelled task: in one real worker process."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest

from taskengine.lifecycle import Phase, Status
from taskengine.records import TaskRecord
from taskengine.settings import Settings
from tests.apps.stopping import Block, Wait, engine
from tests.jobs.calls import OWNER, Calls, calls_on
from tests.jobs.test_worker import appears, lines
from tests.processes import Processes
from tests.store.sql import execute

APP = "tests/apps/stopping.py:engine"
LONG = timedelta(seconds=60)
SHORT = timedelta(seconds=1)
PROMISED = timedelta(seconds=2)
"""Within this time a cancel reaches what runs. `python -m tests.chaos.cancels` measures how soon it does."""


@pytest.fixture
async def calls(settings: Settings) -> AsyncIterator[Calls]:
    async with calls_on(settings, engine) as opened:
        yield opened


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


async def cancelled(calls: Calls, tool: str, ledger: Path, begun: str = "start", **arguments: object) -> str:
    task_id = await calls.submit(tool, ledger=str(ledger), **arguments)
    await appears(ledger, begun)
    await calls.store.tasks.cancel(task_id, OWNER)
    assert (await calls.store.tasks.get(task_id, OWNER)).status is Status.CANCELLED
    return task_id


async def told(calls: Calls, task_id: str) -> TaskRecord:
    """The task once it says how its run ended."""
    record = await calls.store.tasks.get(task_id, OWNER)
    async with asyncio.timeout(60):
        while ";" not in (record.status_message or ""):
            await asyncio.sleep(0.05)
            record = await calls.store.tasks.get(task_id, OWNER)
    return record


async def stop_took(url: str, task_id: str) -> timedelta:
    """From the cancel to the end of the run, as it is recorded."""
    rows = await execute(url, "SELECT stopped_at - ended_at AS took FROM tasks WHERE id = $1", task_id)
    took: timedelta = rows[0]["took"]
    return took


@pytest.mark.parametrize("how", get_args(Block))
async def test_a_blocked_sync_tool_is_stopped_where_it_is(
    calls: Calls, processes: Processes, ledger: Path, database_url: str, how: str
) -> None:
    processes.worker(APP, cancel_grace=LONG)
    task_id = await cancelled(calls, "block", ledger, how=how)
    await appears(ledger, "TaskCancelled")
    message = (await told(calls, task_id)).status_message or ""
    assert re.fullmatch(r"Cancelled; the tool stopped after \d+\.\d s", message)
    assert await stop_took(database_url, task_id) <= PROMISED


async def test_the_cancel_of_a_parent_stops_a_running_child_in_a_blocking_call(
    calls: Calls, processes: Processes, ledger: Path, database_url: str
) -> None:
    processes.worker(APP, cancel_grace=LONG)
    parent = await calls.submit("blocks_below", ledger=str(ledger))
    await appears(ledger, "start")
    await calls.until(parent, lambda record: record.phase is Phase.WAITING)
    await calls.store.tasks.cancel(parent, OWNER)
    (child,) = await execute(database_url, "SELECT id, status FROM tasks WHERE parent = $1", parent)
    assert child["status"] == "cancelled"
    await appears(ledger, "TaskCancelled")
    await told(calls, child["id"])
    assert await stop_took(database_url, child["id"]) <= PROMISED


@pytest.mark.parametrize("how", get_args(Wait))
async def test_an_async_tool_gets_the_cancel_where_it_waits(
    calls: Calls, processes: Processes, ledger: Path, database_url: str, how: str
) -> None:
    processes.worker(APP, cancel_grace=LONG)
    task_id = await cancelled(calls, "wait", ledger, how=how)
    await appears(ledger, "CancelledError")
    message = (await told(calls, task_id)).status_message or ""
    assert re.fullmatch(r"Cancelled; the tool stopped after \d+\.\d s", message)
    assert await stop_took(database_url, task_id) <= PROMISED


@pytest.mark.parametrize("tool", ["tidy_asks", "tidy_asks_sync"])
async def test_a_cancel_while_the_attempt_waits_in_place_is_told_as_any_other(
    calls: Calls, processes: Processes, ledger: Path, tool: str
) -> None:
    processes.worker(APP, linger=LONG, cancel_grace=LONG)
    task_id = await calls.submit(tool, ledger=str(ledger))
    await calls.until(task_id, lambda record: bool(record.open_questions))
    await calls.store.tasks.cancel(task_id, OWNER)
    message = (await told(calls, task_id)).status_message or ""
    assert re.fullmatch(r"Cancelled; the tool stopped after \d+\.\d s, cleaned up", message)
    assert lines(ledger, "cleaned") == 1


async def test_how_the_run_of_a_cancelled_task_ended_is_said_once_and_nothing_else_changes(
    calls: Calls, processes: Processes, ledger: Path, database_url: str
) -> None:
    processes.worker(APP)
    task_id = await cancelled(calls, "nap", ledger, seconds=600)
    record = await told(calls, task_id)
    assert (record.status, record.result, record.error) == (Status.CANCELLED, None, None)
    (at,) = await execute(database_url, "SELECT ended_at, stopped_at, updated_at FROM tasks")
    assert at["ended_at"] < at["stopped_at"] <= at["updated_at"]  # a client can see that it was said
    assert not await calls.store.stops.note(task_id, record.attempt, "it was said again")
    assert (await calls.store.tasks.get(task_id, OWNER)).status_message == record.status_message


async def test_a_process_that_has_to_be_replaced_is_said_to_be(
    calls: Calls, processes: Processes, ledger: Path
) -> None:
    processes.worker(APP, cancel_grace=SHORT, sync_slots=1)
    task_id = await cancelled(calls, "stubborn", ledger)
    assert "its process was replaced" in ((await told(calls, task_id)).status_message or "")
    assert (await calls.call("hours", ledger=str(ledger), loops=1)).status is Status.COMPLETED


@pytest.mark.parametrize("tool", ["tidy", "tidy_async"])
async def test_on_cancel_runs_after_a_running_task_was_cancelled(
    calls: Calls, processes: Processes, ledger: Path, tool: str
) -> None:
    processes.worker(APP)
    task_id = await cancelled(calls, tool, ledger)
    await appears(ledger, f"cleaned attempt 1 {tool}")
    message = (await told(calls, task_id)).status_message or ""
    assert re.fullmatch(r"Cancelled; the tool stopped after \d+\.\d s, cleaned up", message)
    assert lines(ledger, "cleaned") == 1


async def test_on_cancel_runs_for_a_task_that_waited(calls: Calls, processes: Processes, ledger: Path) -> None:
    processes.worker(APP)
    task_id = await calls.submit("tidy_asks", ledger=str(ledger))
    await calls.until(task_id, lambda record: bool(record.open_questions))
    await calls.store.tasks.cancel(task_id, OWNER)
    await appears(ledger, "cleaned attempt 1 tidy_asks")
    message = (await told(calls, task_id)).status_message or ""
    # The row waits before its attempt has unwound: whichever of the two the cancel finds does it.
    assert re.fullmatch(
        r"Cancelled; (the tool stopped after \d+\.\d s, cleaned up|cleaned up after \d+\.\d s)", message
    )
    assert lines(ledger, "cleaned") == 1


async def test_on_cancel_does_not_run_for_a_task_that_had_never_begun(
    calls: Calls, processes: Processes, ledger: Path
) -> None:
    never = await calls.submit("tidy", ledger=str(ledger), ring=False)
    await calls.store.tasks.cancel(never, OWNER)
    processes.worker(APP)
    begun = await cancelled(calls, "tidy", ledger)
    await told(calls, begun)
    assert lines(ledger, "cleaned") == 1
    assert (await calls.store.tasks.get(never, OWNER)).status_message == "Cancelled"


async def test_another_worker_cleans_up_when_the_one_that_ran_the_task_has_died(
    calls: Calls, processes: Processes, ledger: Path, database_url: str
) -> None:
    doomed = processes.worker(APP)
    task_id = await calls.submit("tidy_async", ledger=str(ledger))
    await appears(ledger, "start")
    doomed.send(signal.SIGSTOP)
    await calls.store.tasks.cancel(task_id, OWNER)
    doomed.send(signal.SIGKILL)
    await execute(database_url, "DELETE FROM workers")  # as burying it does, once its lease is over
    processes.worker(APP)
    await appears(ledger, "cleaned attempt 1 tidy_async")
    assert "cleaned up" in ((await told(calls, task_id)).status_message or "")


async def test_a_cleanup_that_fails_is_said_and_logged(calls: Calls, processes: Processes, ledger: Path) -> None:
    worker = processes.worker(APP)
    task_id = await cancelled(calls, "messy", ledger)
    assert (await told(calls, task_id)).status_message.endswith(", its cleanup failed")  # type: ignore[union-attr]
    assert "cannot be undone" in worker.output()


async def test_a_cleanup_that_takes_too_long_is_stopped(calls: Calls, processes: Processes, ledger: Path) -> None:
    processes.worker(APP, cleanup_limit=SHORT, async_slots=1)
    task_id = await cancelled(calls, "endless", ledger)
    assert "its cleanup was stopped after 1s" in ((await told(calls, task_id)).status_message or "")
    assert (await calls.call("nap", ledger=str(ledger), seconds=0)).status is Status.COMPLETED


async def test_an_async_tool_that_ignores_its_cancellation_ends_at_its_next_word(
    calls: Calls, processes: Processes, ledger: Path
) -> None:
    worker = processes.worker(APP, cancel_grace=SHORT, async_slots=10)
    neighbour = await calls.submit("nap", ledger=str(ledger), seconds=6)
    await appears(ledger, "start")
    task_id = await calls.submit("hard_of_hearing", ledger=str(ledger))
    await appears(ledger, "start", 2)
    await calls.store.tasks.cancel(task_id, OWNER)
    await appears(ledger, "left")
    assert "it was given up" in ((await told(calls, task_id)).status_message or "")
    record = await calls.end(neighbour)
    assert (record.status, record.attempt) == (Status.COMPLETED, 1)
    assert "starts anew" not in worker.output()


async def test_a_worker_with_a_deaf_tool_starts_anew_when_nothing_else_runs_in_it(
    calls: Calls, processes: Processes, ledger: Path
) -> None:
    worker = processes.worker(APP, cancel_grace=SHORT, async_slots=10)
    neighbour = await calls.submit("nap", ledger=str(ledger), seconds=4)
    await appears(ledger, "start")
    deaf = await calls.submit("deaf", ledger=str(ledger))
    await appears(ledger, "start", 2)
    await calls.store.tasks.cancel(deaf, OWNER)
    record = await calls.end(neighbour)
    assert (record.status, record.attempt) == (Status.COMPLETED, 1)  # it was not touched
    async with asyncio.timeout(60):
        while worker.output().count("taskengine ready") < 2:
            await asyncio.sleep(0.05)
    assert (await calls.call("nap", ledger=str(ledger), seconds=0)).status is Status.COMPLETED
    assert worker.running
