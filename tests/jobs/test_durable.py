"""Durable functions in real workers: what was done is not done again, and what waits holds nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from taskengine.lifecycle import Phase, Status
from taskengine.settings import Settings
from taskengine.store import Store
from tests.apps.durable import engine
from tests.jobs.calls import OWNER, Calls, calls_on
from tests.jobs.test_worker import appears, lines, text
from tests.processes import Processes
from tests.store.sql import execute

APP = "tests/apps/durable.py:engine"
ANN = {"action": "accept", "content": {"name": "Ann"}}
DUE = "UPDATE tasks SET wake_at = now() WHERE id = $1"


@pytest.fixture
async def durable(settings: Settings) -> AsyncIterator[Calls]:
    async with calls_on(settings, engine) as opened:
        yield opened


def ran(ledger: Path) -> list[str]:
    return [line.split()[0] for line in ledger.read_text().splitlines()]


async def waits(calls: Calls, task_id: str) -> None:
    await calls.until(task_id, lambda record: record.phase is Phase.WAITING)


@pytest.mark.parametrize("tool", ["stairs", "stairs_sync"])
async def test_the_steps_of_a_killed_worker_are_not_run_again(
    durable: Calls, processes: Processes, tmp_path: Path, tool: str
) -> None:
    ledger, hold = tmp_path / "ledger", tmp_path / "go"
    doomed = processes.worker(APP)
    task_id = await durable.submit(tool, steps=4, ledger=str(ledger), hold=str(hold))
    await appears(ledger, "stair-2")
    async with asyncio.timeout(30):
        while len(await durable.store.journal.load(task_id)) < 3:  # what it gave is recorded as well
            await asyncio.sleep(0.01)
    doomed.kill()  # and wait: its tool process dies with it, before the door opens
    processes.worker(APP)
    hold.touch()
    assert text(await durable.end(task_id)) == "6 in attempt 2"
    assert [line for line in ran(ledger) if line != "start"] == ["stair-0", "stair-1", "stair-2", "stair-3"]
    assert lines(ledger, "start") == 2


@pytest.mark.parametrize("tool", ["ask_between", "ask_between_sync"])
async def test_a_step_before_a_question_is_not_run_again_after_it(
    durable: Calls, processes: Processes, tmp_path: Path, tool: str
) -> None:
    ledger = tmp_path / "ledger"
    processes.worker(APP, linger=timedelta(0))
    task_id = await durable.submit(tool, ledger=str(ledger))
    await waits(durable, task_id)
    await durable.answer(task_id, name=ANN)
    assert text(await durable.end(task_id)) == "12 Ann in attempt 2"
    assert ran(ledger) == ["start", "before", "start", "after"]


@pytest.mark.parametrize("tool", ["ask_between", "ask_between_sync"])
async def test_a_quick_answer_costs_no_second_attempt(
    durable: Calls, processes: Processes, tmp_path: Path, tool: str
) -> None:
    ledger = tmp_path / "ledger"
    # A doorbell that was rung again because the first was late takes a slot for a moment: lingering wants one free.
    processes.worker(APP, linger=timedelta(seconds=30), sync_slots=8)
    task_id = await durable.submit(tool, ledger=str(ledger))
    await waits(durable, task_id)
    await durable.answer(task_id, name=ANN)
    assert text(await durable.end(task_id)) == "12 Ann in attempt 1"
    assert ran(ledger) == ["start", "before", "after"]


async def test_an_attempt_that_lingers_is_not_taken_for_one_that_was_taken_away(
    durable: Calls, processes: Processes, store: Store
) -> None:
    """The store gives it to nobody meanwhile, which the heartbeat must not mistake for a cancel."""
    processes.worker(APP, linger=timedelta(seconds=60), lease=timedelta(seconds=4))
    task_id = await durable.submit("ask_between")
    await waits(durable, task_id)
    for _ in range(3):
        (worker,) = await store.workers.alive()
        async with asyncio.timeout(30):
            while (await store.workers.alive())[0]["lease_until"] == worker["lease_until"]:
                await asyncio.sleep(0.05)
    await durable.answer(task_id, name=ANN)
    assert text(await durable.end(task_id)) == "12 Ann in attempt 1"


@pytest.mark.parametrize("tool", ["nap", "nap_sync"])
async def test_a_sleeping_task_holds_nothing_and_wakes(
    durable: Calls, processes: Processes, tmp_path: Path, database_url: str, tool: str
) -> None:
    ledger = tmp_path / "ledger"
    first = processes.worker(APP)
    task_id = await durable.submit(tool, seconds=3600, ledger=str(ledger))
    await waits(durable, task_id)
    record = await durable.store.tasks.get(task_id, OWNER)
    assert record.status is Status.WORKING
    assert (record.status_message or "").startswith("Sleeping until")
    first.send(signal.SIGKILL)
    await asyncio.to_thread(first.wait, 10)
    await execute(database_url, DUE, task_id)
    processes.worker(APP)
    await appears(ledger, "before", times=2)
    # The journal says until when it sleeps, so an early waking only makes it wait again.
    await execute(database_url, "UPDATE journal SET due = now() WHERE task_id = $1 AND kind = 'sleep'", task_id)
    await waits(durable, task_id)
    await execute(database_url, DUE, task_id)
    assert text(await durable.end(task_id)).startswith("awake in attempt")
    assert len({line.removeprefix("before-").removeprefix("after-") for line in ran(ledger)}) == 1


@pytest.mark.parametrize("linger_s", [0, 1])
@pytest.mark.parametrize("tool", ["family", "family_sync"])
async def test_a_parent_of_many_children_holds_no_slot_and_gets_all_results(
    durable: Calls, processes: Processes, tool: str, linger_s: int
) -> None:
    processes.worker(APP, async_slots=2, sync_slots=1, linger=timedelta(seconds=linger_s))
    task_id = await durable.submit(tool, children=20)
    assert text(await durable.end(task_id)).startswith("380 in attempt")


async def test_a_parent_of_a_thousand_children_goes_on_when_all_have_ended(
    durable: Calls, processes: Processes, database_url: str
) -> None:
    processes.worker(APP)
    task_id = await durable.submit("family", children=1_000)
    assert text(await durable.end(task_id)).startswith("999000 in attempt")
    rows = await execute(database_url, "SELECT status, count(*) FROM tasks WHERE parent = $1 GROUP BY status", task_id)
    assert rows == [("completed", 1_000)]


@pytest.mark.parametrize("ended", [0, 10])
async def test_a_worker_killed_amid_a_family_costs_no_child_and_makes_none_twice(
    durable: Calls, processes: Processes, database_url: str, ended: int
) -> None:
    doomed = processes.worker(APP)
    task_id = await durable.submit("family", children=40)
    counted = "SELECT count(*) FROM tasks WHERE parent = $1 AND (phase = 'done' OR $2 = 0)"
    async with asyncio.timeout(60):
        while (await execute(database_url, counted, task_id, ended))[0][0] <= ended:
            await asyncio.sleep(0.01)
    doomed.send(signal.SIGKILL)
    processes.worker(APP)
    assert text(await durable.end(task_id)).startswith("1560 in attempt")
    (row,) = await execute(
        database_url,
        "SELECT count(*) AS made, count(DISTINCT id) AS ids, bool_and(status = 'completed') AS done"
        " FROM tasks WHERE parent = $1",
        task_id,
    )
    assert tuple(row) == (40, 40, True)


@pytest.mark.parametrize("linger_s", [0, 30])
async def test_a_childs_failure_is_raised_in_its_parent(durable: Calls, processes: Processes, linger_s: int) -> None:
    processes.worker(APP, linger=timedelta(seconds=linger_s))
    assert text(await durable.call("caller", tool="unlucky")) == "caught: unlucky failed: no luck today"


@pytest.mark.parametrize("linger_s", [0, 1])
async def test_a_child_asks_in_its_parents_name(durable: Calls, processes: Processes, linger_s: int) -> None:
    processes.worker(APP, linger=timedelta(seconds=linger_s))
    task_id = await durable.submit("caller", tool="asker")
    record = await durable.until(task_id, lambda record: record.status is Status.INPUT_REQUIRED)
    (question,) = record.open_questions
    assert question.params["message"] == "Who are you?"
    await durable.answer(task_id, **{question.key: ANN})
    assert text(await durable.end(task_id)) == "Hello, Ann!"


async def test_the_cancel_of_a_parent_reaches_its_children(
    durable: Calls, processes: Processes, database_url: str
) -> None:
    processes.worker(APP)
    task_id = await durable.submit("caller", tool="sleeper")
    await waits(durable, task_id)
    await durable.store.tasks.cancel(task_id, OWNER)
    states = await execute(database_url, "SELECT status FROM tasks")
    assert [row["status"] for row in states] == ["cancelled", "cancelled"]


async def test_the_expiry_of_a_parent_reaches_its_children(
    durable: Calls, processes: Processes, database_url: str
) -> None:
    """Nobody answered: the parent fails, and what it called is of no use to anybody."""
    processes.worker(APP)
    parent = await durable.submit("asks_beside_a_call")
    await durable.until(parent, lambda record: bool(record.open_questions))
    (child,) = await execute(database_url, "SELECT id FROM tasks WHERE parent = $1", parent)
    await execute(database_url, "UPDATE tasks SET updated_at = now() - interval '1 day' WHERE id = $1", parent)
    assert await durable.store.upkeep.expire(3_600, '{"code":-31001,"message":"Nobody answered"}') == 1
    assert (await durable.end(child["id"])).status is Status.CANCELLED
    assert (await durable.store.tasks.get(parent, OWNER)).status is Status.FAILED


async def test_a_step_with_a_limit_does_not_outlive_the_cancel_of_its_task(
    durable: Calls, processes: Processes, tmp_path: Path
) -> None:
    """It runs in a thread of its own, in a process that lives on."""
    ledger = tmp_path / "ledger"
    processes.worker(APP)
    task_id = await durable.submit("ticking", ledger=str(ledger))
    await appears(ledger, "tick", 3)
    await durable.store.tasks.cancel(task_id, OWNER)
    await appears(ledger, "ended")


async def test_a_tool_that_raised_is_tried_again_with_its_steps_kept(
    durable: Calls, processes: Processes, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    processes.worker(APP)
    assert text(await durable.call("third_time", ledger=str(ledger))) == "lucky in try 3"
    assert lines(ledger, "kept") == 1
    assert lines(ledger, "fragile") == 3


@pytest.mark.parametrize("backoff", ["10ms", "6s"])
async def test_a_failed_step_is_tried_again_in_place_or_in_another_attempt(
    durable: Calls, processes: Processes, tmp_path: Path, backoff: str
) -> None:
    ledger = tmp_path / "ledger"
    processes.worker(APP)
    record = await durable.call("patient_step", ledger=str(ledger), backoff=backoff)
    assert text(record) == "done"
    assert record.attempt == (1 if backoff == "10ms" else 2)
    assert lines(ledger, "try") == 2


@pytest.mark.parametrize("tool", ["swallow", "swallow_sync"])
async def test_no_except_of_a_tool_keeps_an_attempt_from_ending(
    durable: Calls, processes: Processes, tmp_path: Path, tool: str
) -> None:
    ledger = tmp_path / "ledger"
    processes.worker(APP)
    task_id = await durable.submit(tool, ledger=str(ledger))
    await waits(durable, task_id)
    await appears(ledger, "finally")
    assert ran(ledger) == ["start", "finally"]


async def test_waiting_for_an_answer_or_a_time_does_not_count_as_running(durable: Calls, processes: Processes) -> None:
    processes.worker(APP, linger=timedelta(seconds=30))
    task_id = await durable.submit("brief")
    await waits(durable, task_id)
    await asyncio.sleep(4.2)
    await durable.answer(task_id, name=ANN)
    assert text(await durable.end(task_id)) == "in time"


async def test_a_default_answers_when_nobody_does(durable: Calls, processes: Processes) -> None:
    processes.worker(APP)
    assert text(await durable.call("impatient")) == "Hello, Nobody!"


async def test_a_worker_that_dies_between_two_steps_costs_neither(
    durable: Calls, processes: Processes, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    first, second = processes.worker(APP), processes.worker(APP)
    task_id = await durable.submit("dies_between", ledger=str(ledger))
    assert text(await durable.end(task_id)) == "12 in attempt 2"
    assert ran(ledger) == ["first", "second"]
    assert sum(worker.running for worker in (first, second)) == 1


DEPLOYED = """
from taskengine import Context, TaskEngine
from tests.apps.durable import Name

engine = TaskEngine("durable")


@engine.tool(quick_wait="0s", version="{version}")
async def ask_between(ctx: Context, ledger: str = "") -> str:
    "Ask after a step."
    await ctx.step("{step}", int)
    await ctx.elicit("Who are you?", Name, key="name")
    return "done"
"""


@pytest.mark.parametrize(("step", "status"), [("load", Status.COMPLETED), ("fetch", Status.FAILED)])
async def test_a_deploy_between_question_and_answer_replays_or_fails(
    durable: Calls, processes: Processes, tmp_path: Path, step: str, status: Status
) -> None:
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(DEPLOYED.format(version="1", step="load"))
    after.write_text(DEPLOYED.format(version="2", step=step))
    old = processes.worker(f"{before}:engine")
    task_id = await durable.submit("ask_between")
    await waits(durable, task_id)
    old.send(signal.SIGTERM)
    await asyncio.to_thread(old.wait, 30)
    processes.worker(f"{after}:engine")
    await durable.answer(task_id, name=ANN)
    record = await durable.end(task_id)
    assert record.status is status
    if status is Status.FAILED:
        assert "'load'" in (record.error or "")
        assert "'fetch'" in (record.error or "")
        assert "version 2 now" in (record.error or "")
        assert "version 1 when" in (record.error or "")
