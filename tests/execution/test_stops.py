"""Attempts that are stopped from outside, at awkward moments."""

from __future__ import annotations

import asyncio
import fcntl
import re
import termios
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from taskengine import Context, SyncContext, TaskEngine, ToolError
from taskengine.errors import TaskCancelled
from taskengine.execution import heartbeat as heartbeats
from taskengine.execution.attempt import Attempt, Stop
from taskengine.execution.processes import ToolProcess, ToolProcesses
from taskengine.execution.runner import SETTLE_S, Runner
from taskengine.lifecycle import Phase, Status
from taskengine.records import Claim, Doorbell, Entry, TaskRecord
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.attempts import Attempts
from taskengine.store.journal import Journal
from taskengine.store.workers import Workers
from tests.apps.stopping import engine as stopping
from tests.execution.test_processes import APP, OPTIONS, _Port, a_claim
from tests.jobs.test_worker import appears, lines
from tests.processes import ROOT
from tests.store.calls import OWNER, claimed, stored, take
from tests.store.sql import execute

LONG = timedelta(seconds=60)
engine = TaskEngine("stops")
go = threading.Event()
"""Set by a test when the tool may go on."""
begun: list[str] = []


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    go.clear()
    begun.clear()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


async def _held_up(name: str) -> str:
    begun.append(name)
    while not go.is_set():
        await asyncio.sleep(0.01)
    return name


@engine.tool()
async def asks(ctx: Context) -> str:
    """Ask when it may."""
    await _held_up("asks")
    given = await ctx.elicit("Sure?", {"type": "object", "properties": {}}, key="sure")
    return f"{type(given).__name__} in attempt {ctx.attempt}"


@engine.tool()
async def fails(expected: bool) -> str:
    """Fail when it may, as code does that meets what the worker has begun to take down."""
    await _held_up("fails")
    raise ToolError("no such page") if expected else RuntimeError("the pool is closed")


@engine.tool()
async def side_by_side(ctx: Context) -> str:
    """Do three things at the same time, and catch what comes of each."""

    async def one(name: str) -> str:
        try:
            return await ctx.step(name, _held_up, name)
        except Exception as error:
            begun.append(f"caught {type(error).__name__}")
            return name

    return " ".join(await ctx.gather(*(one(name) for name in "abc")))


@engine.tool()
def plain(ctx: SyncContext) -> str:
    """Need a process."""
    return f"attempt {ctx.attempt}"


Make = Callable[[Claim], Attempt]


@pytest.fixture
def attempt_of(store: Store, settings: Settings) -> Make:
    patient = settings.model_copy(update={"linger": LONG, "cancel_grace": LONG})

    def made(claim: Claim) -> Attempt:
        tool = engine.get_tool(claim.tool)
        assert tool is not None
        return Attempt(claim, tool, store=store, settings=patient, processes=ToolProcesses("unused", 0), ring=print)

    return made


async def reached(store: Store, task_id: str, reaches: Callable[[TaskRecord], bool]) -> TaskRecord:
    async with asyncio.timeout(30):
        while not reaches(record := await store.tasks.get(task_id, OWNER)):
            await asyncio.sleep(0.02)
    return record


async def starts(count: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(begun) < count:
            await asyncio.sleep(0.01)


# -- while it lingers


@pytest.mark.parametrize("answered", [False, True])
async def test_an_attempt_that_lingers_is_told_of_a_cancel_and_says_when_it_had_stopped(
    store: Store, attempt_of: Make, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    go.set()
    claim = await claimed(store, tool="asks", arguments={})
    if answered:  # and cancelled before the attempt could take its claim back

        async def unheard(*_: object) -> None:
            return None

        monkeypatch.setattr(store.waits, "take_back", unheard)
    running = asyncio.create_task(attempt_of(claim).run())
    await reached(store, claim.task_id, lambda record: record.phase is Phase.WAITING)
    if answered:
        await store.inputs.answer(claim.task_id, OWNER, {"sure": {"action": "accept", "content": {}}})
    await store.tasks.cancel(claim.task_id, OWNER)
    await asyncio.wait_for(running, 30)  # it lingers for a minute otherwise
    record = await store.tasks.get(claim.task_id, OWNER)
    assert re.fullmatch(r"Cancelled; the tool stopped after \d+\.\d s", record.status_message or "")


async def test_a_look_from_before_it_lingered_stops_no_attempt(store: Store, attempt_of: Make) -> None:
    claim = await claimed(store, tool="asks", arguments={})
    attempt = attempt_of(claim)
    running = asyncio.create_task(attempt.run())
    await starts()
    looked = asyncio.get_running_loop().time()
    go.set()
    await reached(store, claim.task_id, lambda record: record.phase is Phase.WAITING)
    attempt.missed(looked)
    await store.inputs.answer(claim.task_id, OWNER, {"sure": {"action": "accept", "content": {}}})
    await reached(store, claim.task_id, lambda record: record.phase is not Phase.WAITING)
    attempt.missed(looked)
    await asyncio.wait_for(running, 30)
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, record.attempt) == (Status.COMPLETED, 1)


# -- what the heartbeat sees


class _Runner(Runner):
    """Tells when the heartbeat has found something taken away, and this thread has heard of it."""

    heard: asyncio.Event

    def _missed(self, attempts: frozenset[tuple[str, int]], looked: float) -> None:
        super()._missed(attempts, looked)
        self.heard.set()


@pytest.fixture
async def runner(store: Store, settings: Settings) -> AsyncIterator[_Runner]:
    made = _Runner(
        engine,
        "unused",
        settings.model_copy(update={"linger": LONG, "drain_grace": timedelta(0)}),
        ("default",),
        store=store,
        ring=lambda _: None,
        freed=lambda _: None,
        crowded=lambda _: (),
        worn=lambda: None,
    )
    made.heard = asyncio.Event()
    made.heartbeat.start()
    assert await asyncio.to_thread(made.heartbeat.wait_ready, 20)
    yield made
    await made.drain()


async def test_an_attempt_that_parks_between_two_looks_of_the_heartbeat_goes_on(
    store: Store, runner: _Runner, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """What runs is read first, then what the store says is held."""
    doorbell = await stored(store, tool="asks", arguments={})
    renew, staged = Workers.renew, threading.Event()

    async def after_it_parked(self: Workers, worker_id: str, lease_s: float) -> frozenset[tuple[str, int]] | None:
        if begun and not staged.is_set():
            go.set()
            async with asyncio.timeout(20):
                while (await execute(database_url, "SELECT phase FROM tasks"))[0]["phase"] != "waiting":
                    await asyncio.sleep(0.01)
            staged.set()
        return await renew(self, worker_id, lease_s)

    monkeypatch.setattr(Workers, "renew", after_it_parked)
    runner.offer([doorbell], lambda: None)
    await asyncio.wait_for(runner.heard.wait(), 30)
    assert staged.is_set()
    await store.inputs.answer(doorbell.task_id, OWNER, {"sure": {"action": "accept", "content": {}}})
    record = await reached(store, doorbell.task_id, lambda record: record.terminal)
    assert (record.status, record.attempt) == (Status.COMPLETED, 1)


async def test_a_message_is_done_with_once_when_the_claims_of_all_its_doorbells_are_decided(
    runner: _Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, decide, settled = asyncio.Semaphore(0), asyncio.Event(), asyncio.Event()
    told: list[bool] = []

    async def claim_next(*_: object) -> None:
        asked.release()
        if not told:  # the first is decided at once, the second when it may
            told.append(decide.is_set())
            return
        await decide.wait()

    monkeypatch.setattr(Attempts, "claim_next", claim_next)

    def done() -> None:
        told.append(decide.is_set())
        settled.set()

    runner.offer([Doorbell("tsk_a", 1, "default"), Doorbell("tsk_b", 1, "default")], done)
    for _ in range(2):
        await asyncio.wait_for(asked.acquire(), 30)
    await asyncio.sleep(4 * SETTLE_S)
    decide.set()
    await asyncio.wait_for(settled.wait(), 30)
    await asyncio.sleep(4 * SETTLE_S)
    assert told == [False, True]


async def test_a_claim_whose_journal_loads_long_is_not_handed_back(
    store: Store, runner: _Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "STRAY_AFTER_S", 0.0)
    first = await claimed(store, tool="asks", arguments={})
    await store.journal.record(first, [Entry("1", "now", "", value='"2020-01-01T00:00:00+00:00"')])
    doorbell = await store.attempts.release(first)
    load, renew, looks = Journal.load, Workers.renew, threading.Semaphore(0)

    async def slowly(self: Journal, task_id: str) -> dict[str, Entry]:
        while not go.is_set():
            await asyncio.sleep(0.01)
        return await load(self, task_id)

    async def counted(self: Workers, worker_id: str, lease_s: float) -> frozenset[tuple[str, int]] | None:
        held = await renew(self, worker_id, lease_s)
        if held:
            looks.release()
        return held

    monkeypatch.setattr(Journal, "load", slowly)
    monkeypatch.setattr(Workers, "renew", counted)
    runner.offer([doorbell], lambda: None)
    for _ in range(3):  # a stray is handed back at the second
        assert await asyncio.to_thread(looks.acquire, timeout=30)
    row = await store.inspection.show(first.task_id)
    assert (row["phase"], row["attempt"], row["worker_id"]) == (Phase.RUNNING, 2, runner.heartbeat.worker_id)
    await store.tasks.cancel(first.task_id, OWNER)
    go.set()


# -- while the worker drains


@pytest.mark.parametrize(("expected", "end"), [(False, Phase.QUEUED), (True, Phase.DONE)])
async def test_what_a_tool_raises_while_its_worker_drains_is_not_held_against_the_task(
    store: Store, attempt_of: Make, expected: bool, end: Phase
) -> None:
    claim = await claimed(store, tool="fails", arguments={"expected": expected})
    attempt = attempt_of(claim)
    running = asyncio.create_task(attempt.run())
    await starts()
    attempt.draining = True
    go.set()
    await asyncio.wait_for(running, 30)
    row = await store.inspection.show(claim.task_id)
    assert (row["phase"], row["crashes"]) == (end, 0)


# -- claims that are lost in the middle


@pytest.mark.parametrize("cancelled", [False, True])
async def test_branches_that_have_lost_their_claim_write_nothing_and_do_not_catch_it(
    store: Store, attempt_of: Make, cancelled: bool
) -> None:
    claim = await claimed(store, tool="side_by_side", arguments={})
    running = asyncio.create_task(attempt_of(claim).run())
    await starts(3)
    if cancelled:
        await store.tasks.cancel(claim.task_id, OWNER)
    else:
        assert await take(store, await store.attempts.release(claim), "w2")
    go.set()
    await asyncio.wait_for(running, 30)
    assert sorted(begun) == ["a", "b", "c"]
    assert await store.journal.load(claim.task_id) == {}
    record = await store.tasks.get(claim.task_id, OWNER)
    if cancelled:
        assert "the tool stopped after" in (record.status_message or "")
    else:
        assert (record.phase, record.attempt) == (Phase.RUNNING, 2)


# -- in processes


async def test_a_stop_that_comes_before_the_call_has_gone_out_is_not_overlooked(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes, ledger = ToolProcesses(APP, 1), tmp_path / "ledger"
    await processes.warm()
    there = {process.pid for process in processes._idle}
    tool = stopping.get_tool("block")
    assert tool is not None
    arguments = {"how": "sleep", "ledger": str(ledger)}
    claim = await claimed(store, tool=tool.name, queue=tool.route, arguments=arguments)
    patient = settings.model_copy(update={"cancel_grace": LONG})
    attempt = Attempt(claim, tool, store=store, settings=patient, processes=processes, ring=print)

    async def stopped_meanwhile() -> None:
        await store.tasks.cancel(claim.task_id, OWNER)
        attempt.stop(Stop.CANCELLED)
        for _ in range(10):  # so that the attempt has told its process, which runs nothing yet
            await asyncio.sleep(0)

    monkeypatch.setattr(attempt, "_ask_first", stopped_meanwhile)
    await asyncio.wait_for(attempt.run(), 30)
    assert not ledger.exists()
    assert {process.pid for process in processes._idle} == there
    await processes.close()


async def _read_by(process: ToolProcess) -> None:
    """What was sent to it has been taken from the socket."""
    unread = b"\0" * 4
    async with asyncio.timeout(20):
        while int.from_bytes(fcntl.ioctl(process._writer.get_extra_info("socket"), termios.TIOCOUTQ, unread), "little"):
            await asyncio.sleep(0.01)


async def test_a_tool_that_is_told_to_stop_again_is_not_interrupted_in_its_finally(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    processes = ToolProcesses(APP, 1)
    process = await processes.take()
    claim = a_claim("unwinds", ledger=str(ledger))
    running = asyncio.create_task(process.call(claim, _Port(), **OPTIONS))  # type: ignore[arg-type]
    await appears(ledger, "start")
    process.stop(TaskCancelled)
    await appears(ledger, "unwinding")
    process.stop(TaskCancelled)
    await _read_by(process)
    Path(f"{ledger}.go").touch()
    with pytest.raises(TaskCancelled):
        await asyncio.wait_for(running, 30)
    assert lines(ledger, "unwound") == 1
    await processes.give_back(process)
    await processes.close()
