"""Tool processes: what is known of their end, and calls that meet a dead one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskengine.execution import processes as module
from taskengine.execution.attempt import Attempt, Stop
from taskengine.execution.processes import NotBegun, ProcessDied, ToolProcess, ToolProcesses
from taskengine.execution.spawned import Spawned
from taskengine.lifecycle import Phase, Status
from taskengine.records import Claim, Doorbell
from taskengine.settings import Settings
from taskengine.store import Store
from tests.apps.app import engine as calls_engine
from tests.apps.stopping import engine
from tests.processes import ROOT
from tests.store.calls import OWNER, claimed

APP = f"{ROOT}/tests/apps/stopping.py:engine"
CALLS = f"{ROOT}/tests/apps/app.py:engine"
OPTIONS = {"show_exceptions": True, "max_result_bytes": 1 << 20}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
async def processes() -> AsyncIterator[ToolProcesses]:
    kept = ToolProcesses(APP, 2)
    yield kept
    await kept.close()


class _Port:
    """What a call tells its process at the start; these tools ask for nothing."""

    def __init__(self) -> None:
        self.durable = self
        self.journal: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}

    def clock(self) -> datetime:
        return datetime.now(UTC)


def a_claim(tool: str, **arguments: object) -> Claim:
    return Claim("tsk_1", 1, "w1", tool, OWNER, "default.sync", arguments, {}, {}, {}, 0)


@pytest.mark.parametrize(
    ("code", "cause", "name", "exit_code"),
    [
        ("import os; os._exit(7)", "it exited with code 7", None, 7),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL", "SIGKILL", None),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV", "SIGSEGV", None),
    ],
)
async def test_the_end_of_a_process_tells_how(code: str, cause: str, name: str | None, exit_code: int | None) -> None:
    loss = await Spawned([sys.executable, "-c", code]).ended
    assert (loss.cause, loss.signal, loss.exit_code) == (cause, name, exit_code)
    assert loss.peak_bytes is not None
    assert loss.peak_bytes > 1_000_000


async def test_the_end_of_a_process_tells_the_memory_of_its_last_call(processes: ToolProcesses, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")
    small, large = await processes.take(), await processes.take()
    with pytest.raises(ProcessDied) as modest:
        await small.call(a_claim("hog", megabytes=1, ledger=ledger), _Port(), **OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(ProcessDied) as greedy:
        await large.call(a_claim("hog", megabytes=700, ledger=ledger), _Port(), **OPTIONS)  # type: ignore[arg-type]
    assert not isinstance(greedy.value, NotBegun)
    assert greedy.value.loss.signal == "SIGKILL"
    assert (greedy.value.loss.peak_bytes or 0) > 700_000_000 > (modest.value.loss.peak_bytes or 0)


async def test_a_process_that_dies_before_the_call_begins_is_told_apart(processes: ToolProcesses) -> None:
    process = await processes.take()
    os.kill(process._process.pid, signal.SIGKILL)
    with pytest.raises(NotBegun):
        await process.call(a_claim("block", how="sleep", ledger="unused"), _Port(), **OPTIONS)  # type: ignore[arg-type]


async def test_a_process_that_dies_idle_just_before_its_call_costs_the_call_nothing(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = ToolProcesses(CALLS, 1)
    doomed = await processes.take()
    await processes.give_back(doomed)
    monkeypatch.setattr(ToolProcess, "alive", True)  # nobody has noticed yet
    os.kill(doomed._process.pid, signal.SIGKILL)
    tool = calls_engine.get_tool("add_sync")
    assert tool is not None
    claim = await claimed(store, tool=tool.name, queue=tool.route, arguments={"a": 1, "b": 2})
    await Attempt(claim, tool, store=store, settings=settings, processes=processes, ring=print).run()
    monkeypatch.undo()
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, record.attempt) == (Status.COMPLETED, 1)
    assert (await store.inspection.show(claim.task_id))["crashes"] == 0
    await processes.close()


@pytest.mark.parametrize("reason", [Stop.CANCELLED, Stop.DRAIN])
async def test_a_stop_does_not_wait_for_a_process_that_is_being_started(
    store: Store, settings: Settings, reason: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Spawned] = []

    class Slow(Spawned):
        """A process that never gets as far as serving."""

        def __init__(self, _: object, **options: object) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(600)"], **options)
            started.append(self)

    monkeypatch.setattr(module, "Spawned", Slow)
    tool = engine.get_tool("hours")
    assert tool is not None
    claim = await claimed(store, tool=tool.name, queue=tool.route, arguments={"ledger": "unused"})
    rung: list[Doorbell] = []
    attempt = Attempt(claim, tool, store=store, settings=settings, processes=ToolProcesses(APP, 1), ring=rung.append)
    running = asyncio.create_task(attempt.run())
    while not started:
        await asyncio.sleep(0.01)
    if reason is Stop.CANCELLED:
        await store.tasks.cancel(claim.task_id, OWNER)
    attempt.stop(reason)
    await asyncio.wait_for(running, 30)  # a start may take 60 s
    assert (await started[0].ended).signal == "SIGKILL"
    record = await store.tasks.get(claim.task_id, OWNER)
    if reason is Stop.CANCELLED:
        assert "the tool stopped" in (record.status_message or "")
    else:
        assert record.phase is Phase.QUEUED
        assert [bell.attempt for bell in rung] == [2]


async def test_the_call_after_a_death_finds_a_process_that_is_there(processes: ToolProcesses) -> None:
    """No start of a process stands between a killed tool and its next attempt."""
    await processes.warm()
    first, second = await processes.take(), await processes.take()
    there = {child.pid for child in psutil.Process().children()}
    os.kill(first.pid, signal.SIGKILL)
    while first.alive:
        await asyncio.sleep(0.01)
    third = await processes.take()
    assert third.pid in there - {first.pid, second.pid}
    for process in (second, third):
        await processes.give_back(process)


async def test_processes_that_are_still_starting_end_with_the_others() -> None:
    starting = ToolProcesses(APP, 2)
    process = await starting.take()
    await starting.give_back(process)
    await starting.close()
    assert not process.alive
    assert [each for each in psutil.Process().children() if "taskengine.execution.child" in each.cmdline()] == []
