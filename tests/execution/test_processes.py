"""Tool processes: what is known of their end, and calls that meet a dead one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from taskengine.execution import processes as module
from taskengine.execution import spawned
from taskengine.execution.attempt import Attempt, Stop
from taskengine.execution.families import Families
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
    processes = ToolProcesses(APP, 1)
    attempt = Attempt(claim, tool, store=store, settings=settings, processes=processes, ring=rung.append)
    running = asyncio.create_task(attempt.run())
    while not started:
        await asyncio.sleep(0.01)
    if reason is Stop.CANCELLED:
        await store.tasks.cancel(claim.task_id, OWNER)
    attempt.stop(reason)
    await asyncio.wait_for(running, 30)  # a start may take 60 s
    await processes.close()  # it would be the next call's
    assert (await started[0].ended).signal == "SIGKILL"
    record = await store.tasks.get(claim.task_id, OWNER)
    if reason is Stop.CANCELLED:
        assert "the tool stopped" in (record.status_message or "")
    else:
        assert record.phase is Phase.QUEUED
        assert [bell.attempt for bell in rung] == [2]
    await attempt._processes.close()


async def _started(ledger: Path) -> list[psutil.Process]:
    """What the tool `spawns` has started."""
    async with asyncio.timeout(30):
        while not ledger.exists() or ledger.read_text().count("\n") < 2:
            await asyncio.sleep(0.01)
    return [psutil.Process(int(line.split()[1])) for line in ledger.read_text().splitlines()]


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def families() -> Iterator[Families]:
    kept = Families()
    yield kept
    kept.close()


async def _spawning(families: Families, ledger: Path) -> tuple[ToolProcess, asyncio.Task[Any], list[psutil.Process]]:
    process = await ToolProcess.start(APP, families)
    call = process.call(a_claim("spawns", ledger=str(ledger)), _Port(), **OPTIONS)  # type: ignore[arg-type]
    return process, asyncio.create_task(call), await _started(ledger)


@pytest.mark.parametrize("replaced", [False, True])
async def test_what_a_tool_has_started_is_killed_with_its_process(
    families: Families, tmp_path: Path, replaced: bool
) -> None:
    process, call, (program, fork) = await _spawning(families, tmp_path / "ledger")
    # A fork has the one socket over which tools speak, and no way to the database.
    assert len(fork.net_connections("all")) == 1
    if replaced:
        process.kill()
    else:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ProcessDied):
        await call
    async with asyncio.timeout(10):  # killed before its loss was told: the kernel may still be at it
        while not (_gone(program) and _gone(fork)):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_fork_that_has_left_the_family_hides_no_death(
    families: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], None]
) -> None:
    """It holds the socket, whose end is never read while it lives; on the loop of workers as on any other."""
    monkeypatch.setattr(spawned, "kill_family", lambda _: None)

    async def dying() -> None:
        process, call, started = await _spawning(families, tmp_path / "ledger")
        os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            with pytest.raises(ProcessDied):
                await call
        assert not any(_gone(each) for each in started)
        for each in started:
            each.kill()

    run(dying())


async def test_what_tools_have_started_ends_with_a_killed_worker(tmp_path: Path) -> None:
    """Nobody is left to end it but the guard."""
    worker = (
        "import subprocess, sys, time\n"
        "from taskengine.execution.families import Families\n"
        "families = Families()\n"
        "child = subprocess.Popen(['sh', '-c', 'sleep 600 & echo $!; wait'], start_new_session=True)\n"
        "families.add(child.pid)\n"
        "over = subprocess.Popen(['true'], start_new_session=True)\n"
        "families.add(over.pid)\n"
        "over.wait()\n"
        "families.remove(over.pid)\n"
        "print('told', flush=True)\n"
        "time.sleep(600)\n"
    )
    doomed = await asyncio.create_subprocess_exec(sys.executable, "-c", worker, stdout=asyncio.subprocess.PIPE)
    assert doomed.stdout is not None
    said = {await doomed.stdout.readline() for _ in range(2)}  # by the child and by the worker, in either order
    (pid,) = said - {b"told\n"}
    grandchild = psutil.Process(int(pid))
    async with asyncio.timeout(30):
        while len(psutil.Process(doomed.pid).children()) < 2:
            await asyncio.sleep(0.01)
        guard = next(each for each in psutil.Process(doomed.pid).children() if "families.py" in str(each.cmdline()))
        guard.terminate()  # as a stop of the whole service does: it is not for the guard
        doomed.kill()
        await doomed.wait()
        while not (_gone(grandchild) and _gone(guard)):
            await asyncio.sleep(0.01)


def test_a_guard_that_was_killed_is_replaced_with_the_next_process() -> None:
    families = Families()
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as first:
        families.add(first.pid)
        guard = families._guard
        assert guard is not None
        guard.kill()
        guard.wait()
        families.add(first.pid)
        assert families._guard is not guard
        families.close()
        assert first.wait(10) == -signal.SIGKILL
    if guard.stdin is not None:
        guard.stdin.close()


async def test_the_call_after_a_death_finds_a_process_that_is_there(processes: ToolProcesses) -> None:
    """No start of a process stands between a killed tool and its next attempt."""
    await processes.warm()
    first, second = await processes.take(), await processes.take()
    await processes.warm()
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
