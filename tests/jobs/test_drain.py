"""A worker that is told to stop, in every way: it is gone within its grace, and its tasks go on elsewhere unharmed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from taskengine.children import Child
from taskengine.lifecycle import Phase, Status
from taskengine.settings import Settings
from tests.apps.stopping import engine
from tests.jobs.calls import OWNER, Calls, calls_on
from tests.jobs.test_worker import appears, text
from tests.processes import Processes, wait_for_output
from tests.store.sql import execute

APP = "tests/apps/stopping.py:engine"
NEVER = timedelta(hours=1)
SHORT = timedelta(seconds=1)


@pytest.fixture
async def calls(settings: Settings) -> AsyncIterator[Calls]:
    async with calls_on(settings, engine) as opened:
        yield opened


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


async def ends(worker: Child) -> int | None:
    """Its exit code, after waiting for it for as long as a loaded machine may need."""
    return await asyncio.to_thread(worker.wait, 60)


@pytest.mark.parametrize("how", ["progress", "log", "elicit", "tools"])
async def test_every_call_of_the_context_ends_an_attempt_of_a_draining_worker(
    calls: Calls, processes: Processes, ledger: Path, how: str
) -> None:
    leaving = processes.worker(APP, drain_grace=NEVER)
    task_id = await calls.submit("speak", how=how, ledger=str(ledger))
    await appears(ledger, "start")
    leaving.send(signal.SIGTERM)
    if how == "elicit":  # it asks only now: an answer is never lost to a drain
        await asyncio.to_thread(wait_for_output, leaving, "draining")
        Path(f"{ledger}.drains").touch()
    assert await ends(leaving) == 0
    record = await calls.store.tasks.get(task_id, OWNER)
    if how == "elicit":  # the question is put all the same, so that nobody waits longer for it than need be
        assert (record.phase, record.status_message) == (Phase.WAITING, "Waiting for an answer: Sure?")
        return
    assert (record.phase, record.status_message) == (Phase.QUEUED, "Waiting for another worker")
    processes.worker(APP)
    assert text(await calls.end(task_id)) == "spoke in attempt 2"


async def test_a_word_of_a_sync_tool_ends_its_attempt_as_well(calls: Calls, processes: Processes, ledger: Path) -> None:
    leaving = processes.worker(APP, drain_grace=NEVER)
    task_id = await calls.submit("speak_sync", ledger=str(ledger))
    await appears(ledger, "start")
    leaving.send(signal.SIGTERM)
    assert await ends(leaving) == 0
    processes.worker(APP)
    assert text(await calls.end(task_id)) == "spoke in attempt 2"


async def test_jobs_of_hours_do_not_hold_a_worker_past_its_grace(
    calls: Calls, processes: Processes, ledger: Path, database_url: str
) -> None:
    leaving = processes.worker(APP, drain_grace=SHORT, cancel_grace=NEVER)
    napping = await calls.submit("nap", seconds=3600, ledger=str(ledger))
    computing = await calls.submit("hours", ledger=str(ledger))
    deaf = await calls.submit("deaf", ledger=str(ledger))
    stubborn = await calls.submit("stubborn", ledger=str(ledger))
    await appears(ledger, "start", 4)
    children = psutil.Process(leaving.pid).children(recursive=True)
    leaving.send(signal.SIGTERM)
    assert await ends(leaving) == 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    for task_id in (napping, computing, deaf, stubborn):
        row = await calls.store.inspection.show(task_id)
        assert (row["phase"], row["crashes"], row["losses"]) == (Phase.QUEUED, 0, [])
        await calls.store.tasks.cancel(task_id, OWNER)
    assert await execute(database_url, "SELECT id FROM workers") == []


def term_twice(worker: Child) -> None:
    worker.send(signal.SIGTERM)
    worker.send(signal.SIGTERM)


def term_then_quit(worker: Child) -> None:
    worker.send(signal.SIGTERM)
    worker.send(signal.SIGQUIT)


def interrupt_twice(worker: Child) -> None:
    worker.send(signal.SIGINT)
    worker.send(signal.SIGINT)


def quit_group(worker: Child) -> None:
    os.killpg(os.getpgid(worker.pid), signal.SIGTERM)
    os.killpg(os.getpgid(worker.pid), signal.SIGQUIT)


@pytest.mark.parametrize("signals", [term_twice, term_then_quit, interrupt_twice, quit_group])
async def test_however_often_a_worker_is_told_to_stop_it_hands_everything_back(
    calls: Calls, processes: Processes, ledger: Path, signals: Callable[[Child], None]
) -> None:
    leaving = processes.worker(APP, drain_grace=SHORT)
    napping = await calls.submit("nap", seconds=3600, ledger=str(ledger))
    computing = await calls.submit("hours", ledger=str(ledger))
    await appears(ledger, "start", 2)
    signals(leaving)
    await ends(leaving)
    for task_id in (napping, computing):
        row = await calls.store.inspection.show(task_id)
        assert (row["phase"], row["worker_id"], row["crashes"]) == (Phase.QUEUED, None, 0)
        await calls.store.tasks.cancel(task_id, OWNER)


async def test_a_worker_that_is_killed_while_it_drains_loses_its_tasks_to_others(
    calls: Calls, processes: Processes, ledger: Path, database_url: str
) -> None:
    lease = timedelta(seconds=4)
    leaving = processes.worker(APP, drain_grace=NEVER, lease=lease)
    task_id = await calls.submit("hours", ledger=str(ledger))
    await appears(ledger, "start")
    leaving.send(signal.SIGTERM)
    await asyncio.to_thread(wait_for_output, leaving, "draining")
    assert leaving.running
    leaving.send(signal.SIGKILL)
    processes.worker(APP, lease=lease)
    record = await calls.end(task_id)
    assert (record.status, record.attempt) == (Status.COMPLETED, 2)
    (lost,) = (await calls.store.inspection.show(task_id))["losses"]
    assert lost["cause"] == "its worker died or was cut off"
    assert await execute(database_url, "SELECT count(*) FROM tasks WHERE phase = 'running'") == [(0,)]


async def test_a_draining_worker_claims_nothing(calls: Calls, processes: Processes, ledger: Path) -> None:
    leaving = processes.worker(APP, drain_grace=NEVER)
    holding = await calls.submit("nap", seconds=3600, ledger=str(ledger))
    await appears(ledger, "start")
    leaving.send(signal.SIGTERM)
    await asyncio.to_thread(wait_for_output, leaving, "draining")
    later = await calls.submit("nap", seconds=0, ledger=str(ledger))
    await asyncio.sleep(2)
    assert (await calls.store.tasks.get(later, OWNER)).phase is Phase.QUEUED
    processes.worker(APP)
    assert (await calls.end(later)).attempt == 1
    await calls.store.tasks.cancel(holding, OWNER)
    assert await ends(leaving) == 0
