"""One real worker process: how calls end."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from taskengine.lifecycle import Phase, Status
from taskengine.records import Doorbell, TaskRecord
from tests.jobs.calls import OWNER, Calls
from tests.processes import Processes

APP = "tests/apps/app.py:engine"
HELLO = {"action": "accept", "content": {"name": "Ann"}}


def text(record: TaskRecord) -> str:
    assert record.result is not None, record
    return str(json.loads(record.result)["content"][0]["text"])


def lines(ledger: Path, word: str) -> int:
    return sum(line.startswith(word) for line in ledger.read_text().splitlines()) if ledger.exists() else 0


async def appears(ledger: Path, word: str, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while lines(ledger, word) < times:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("tool", ["add", "add_sync"])
async def test_a_call_is_run_and_its_result_stored(calls: Calls, processes: Processes, tool: str) -> None:
    processes.worker(APP)
    record = await calls.call(tool, a=1, b=2)
    assert record.status is Status.COMPLETED
    assert json.loads(record.result or "")["structuredContent"] == {"total": 3, "attempt": 1}


@pytest.mark.parametrize("tool", ["greet", "greet_sync"])
async def test_a_question_ends_the_attempt_and_its_answer_starts_the_next(
    calls: Calls, processes: Processes, tool: str
) -> None:
    processes.worker(APP)
    task_id = await calls.submit(tool)
    asking = await calls.until(task_id, lambda record: bool(record.open_questions))
    assert (asking.status, asking.phase) == (Status.INPUT_REQUIRED, Phase.WAITING)
    await calls.answer(task_id, name=HELLO)
    assert text(await calls.end(task_id)) == "Hello, Ann! (attempt 2)"


async def test_several_questions_are_answered_one_by_one(calls: Calls, processes: Processes) -> None:
    processes.worker(APP)
    task_id = await calls.submit("two_questions")
    await calls.until(task_id, lambda record: len(record.open_questions) == 2)
    await calls.answer(task_id, sure={"action": "decline"})
    await calls.until(task_id, lambda record: len(record.open_questions) == 1)
    await calls.answer(task_id, name=HELLO)
    assert text(await calls.end(task_id)) == "name='Ann' None"


@pytest.mark.parametrize("tool", ["fickle", "fickle_sync"])
async def test_an_answer_is_never_used_for_another_question(calls: Calls, processes: Processes, tool: str) -> None:
    processes.worker(APP)
    task_id = await calls.submit(tool)
    await calls.until(task_id, lambda record: bool(record.open_questions))
    await calls.answer(task_id, name=HELLO)
    record = await calls.end(task_id)
    assert record.status is Status.FAILED
    assert "attempt 1" in (record.error or "")
    assert "attempt 2" in (record.error or "")


async def test_every_kind_of_failure_has_its_own_end(calls: Calls, processes: Processes, database_url: str) -> None:
    processes.worker(APP, max_result_bytes=2048)
    told = await calls.call("tool_error")
    assert (told.status, told.is_error, text(told)) == (
        Status.COMPLETED,
        True,
        "there is no such report: choose another",
    )
    failed = await calls.call("protocol_error")
    assert failed.status is Status.FAILED
    assert json.loads(failed.error or "") == {"code": -31999, "message": "out of paper", "data": {"tray": 2}}
    raised = await calls.call("raises")
    assert (raised.is_error, text(raised)) == (True, "ValueError: unlucky")
    large = await calls.call("too_much", size=5000)
    assert large.is_error
    assert "2048" in text(large).replace(",", "").replace("2 KiB", "2048")


@pytest.mark.parametrize("tool", ["too_long", "too_long_sync"])
async def test_a_tool_past_its_limit_is_stopped_and_says_so(calls: Calls, processes: Processes, tool: str) -> None:
    processes.worker(APP)
    record = await calls.call(tool)
    assert (record.status, record.is_error) == (Status.COMPLETED, True)
    assert "limit" in text(record)


@pytest.mark.parametrize("tool", ["sleep", "sleep_sync"])
async def test_cancelling_a_running_call_frees_its_slot(
    calls: Calls, processes: Processes, tool: str, tmp_path: Path
) -> None:
    processes.worker(APP, async_slots=1, sync_slots=1)
    ledger = tmp_path / "ledger"
    task_id = await calls.submit(tool, seconds=600, ledger=str(ledger))
    await appears(ledger, "start")
    await calls.store.tasks.cancel(task_id, OWNER)
    assert (await calls.call(tool, seconds=0)).status is Status.COMPLETED
    assert (await calls.store.tasks.get(task_id, OWNER)).status is Status.CANCELLED
    assert lines(ledger, "end") == 0


async def test_a_tool_that_ignores_its_cancellation_loses_its_process_and_nothing_else(
    calls: Calls, processes: Processes, tmp_path: Path
) -> None:
    processes.worker(APP, sync_slots=2, cancel_grace=timedelta(seconds=1))
    ledger = tmp_path / "ledger"
    neighbour = await calls.submit("sleep_sync", seconds=4)
    task_id = await calls.submit("stubborn", seconds=600, ledger=str(ledger))
    await appears(ledger, "start")
    await calls.store.tasks.cancel(task_id, OWNER)
    await appears(ledger, "swallowed")
    assert (await calls.call("add_sync", a=1, b=1)).status is Status.COMPLETED
    assert (await calls.end(neighbour)).status is Status.COMPLETED


@pytest.mark.parametrize("how", ["exit", "kill", "segfault"])
async def test_a_call_whose_process_died_is_run_again(
    calls: Calls, processes: Processes, how: str, tmp_path: Path
) -> None:
    processes.worker(APP)
    record = await calls.call("die", how=how, ledger=str(tmp_path / "ledger"), attempts=1)
    assert (text(record), record.attempt) == ("lived", 2)


async def test_a_call_that_always_kills_its_process_fails_after_three(
    calls: Calls, processes: Processes, tmp_path: Path
) -> None:
    processes.worker(APP)
    record = await calls.call("die", how="kill", ledger=str(tmp_path / "ledger"))
    assert (record.status, record.attempt) == (Status.FAILED, 3)
    assert "SIGKILL" in (record.status_message or "")


async def test_repeated_late_and_foreign_doorbells_do_no_harm(
    calls: Calls, processes: Processes, tmp_path: Path
) -> None:
    worker = processes.worker(APP)
    ledger = tmp_path / "ledger"
    task_id = await calls.submit("sleep", seconds=0.5, ledger=str(ledger), ring=False)
    for attempt in (1, 1, 1, 0, 2, 99):
        calls.bell.ring(Doorbell(task_id, attempt, "default"))
    calls.bell.ring(Doorbell("tsk_never", 1, "default"))
    assert (await calls.end(task_id)).attempt == 1
    for _ in range(5):
        calls.bell.ring(Doorbell(task_id, 1, "default"))
    assert (await calls.call("add", a=1, b=1)).status is Status.COMPLETED
    assert lines(ledger, "start") == 1
    assert "Traceback" not in worker.output()


async def test_more_calls_than_slots_wait_their_turn(calls: Calls, processes: Processes) -> None:
    processes.worker(APP, async_slots=2, sync_slots=1)
    ids = [await calls.submit("sleep", seconds=0.05) for _ in range(12)]
    ids += [await calls.submit("sleep_sync", seconds=0.05) for _ in range(6)]
    records = await asyncio.gather(*(calls.end(task_id) for task_id in ids))
    assert {record.status for record in records} == {Status.COMPLETED}
    assert {record.attempt for record in records} == {1}


async def test_three_hundred_waiting_calls_run_at_once_in_one_worker_within_400_mb(
    calls: Calls, processes: Processes, tmp_path: Path
) -> None:
    worker = processes.worker(APP)
    ledger = tmp_path / "ledger"
    ids = [await calls.submit("sleep", seconds=600, ledger=str(ledger)) for _ in range(300)]
    await appears(ledger, "start", 300)
    machine = psutil.Process(worker.pid)
    resident = sum(process.memory_info().rss for process in (machine, *machine.children(recursive=True)))
    for task_id in ids:
        await calls.store.tasks.cancel(task_id, OWNER)
    assert resident < 400 * 1_000_000


async def test_a_stopping_worker_hands_its_calls_back_unharmed(
    calls: Calls, processes: Processes, tmp_path: Path
) -> None:
    leaving = processes.worker(APP, drain_grace=timedelta(seconds=1), cancel_grace=timedelta(seconds=1))
    ledger = tmp_path / "ledger"
    walking = await calls.submit("walk", steps=150, ledger=str(ledger))
    sleeping = await calls.submit("outlast", ledger=str(ledger))
    blocking = await calls.submit("outlast_sync", ledger=str(ledger))
    await appears(ledger, "start", 3)
    leaving.send(signal.SIGTERM)
    assert await asyncio.to_thread(leaving.wait, 30) == 0
    processes.worker(APP)
    for task_id in (walking, sleeping, blocking):
        record = await calls.end(task_id)
        assert (record.status, record.attempt) == (Status.COMPLETED, 2)


async def test_what_is_asked_first_is_asked_by_the_attempt_when_nobody_did(processes: Processes, calls: Calls) -> None:
    """As for a call of 2025-11-25, whose task is made at once."""
    processes.worker(APP)
    task_id = await calls.submit("greet_later")
    record = await calls.until(task_id, lambda record: bool(record.open_questions))
    assert [question.key for question in record.open_questions] == ["name"]
    await calls.answer(task_id, name={"action": "accept", "content": {"name": "Ada"}})
    assert "Ada" in str((await calls.end(task_id)).result)


@pytest.mark.parametrize("tool", ["add", "add_sync"])
async def test_arguments_that_do_not_fit_end_the_call_with_an_error_result(
    processes: Processes, calls: Calls, tool: str
) -> None:
    """A-23."""
    processes.worker(APP)
    record = await calls.call(tool, a="x")
    assert record.is_error
    assert tool in str(record.result)
