"""What happens to calls when a worker, the broker or a session dies."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from taskengine.lifecycle import Phase, Status
from taskengine.settings import Settings
from taskengine.store import Store, migrate
from tests.jobs.calls import Calls, calls_on
from tests.jobs.test_worker import APP, HELLO, appears, lines, text
from tests.processes import Processes
from tests.store.sql import execute

SETTLED = "SELECT now() - pg_postmaster_start_time() > interval '4 seconds'"
SHORT_LEASE = timedelta(seconds=4)


async def _postgres_has_run_for_a_lease(url: str) -> None:
    """Nobody is declared dead within one lease of the start of Postgres, which in tests was a moment ago."""
    async with asyncio.timeout(30):
        while not (await execute(url, SETTLED))[0][0]:
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("tool", ["outlast", "outlast_sync"])
async def test_the_calls_of_a_killed_worker_go_on_in_another(
    calls: Calls, processes: Processes, database_url: str, tmp_path: Path, tool: str
) -> None:
    await _postgres_has_run_for_a_lease(database_url)
    ledger = tmp_path / "ledger"
    doomed = processes.worker(APP, lease=SHORT_LEASE)
    task_id = await calls.submit(tool, ledger=str(ledger))
    await appears(ledger, "start")
    processes.worker(APP, lease=SHORT_LEASE)
    doomed.send(signal.SIGKILL)
    record = await calls.end(task_id)
    assert text(record) == "done in attempt 2"
    assert lines(ledger, "start") == 2


async def test_a_frozen_worker_that_comes_back_changes_nothing(
    calls: Calls, processes: Processes, database_url: str, tmp_path: Path
) -> None:
    await _postgres_has_run_for_a_lease(database_url)
    ledger = tmp_path / "ledger"
    frozen = processes.worker(APP, lease=SHORT_LEASE)
    task_id = await calls.submit("walk", steps=30, ledger=str(ledger))
    await appears(ledger, "start")
    frozen.send(signal.SIGSTOP)
    processes.worker(APP, lease=SHORT_LEASE)
    ended = await calls.end(task_id)
    assert text(ended) == "walked in attempt 2"
    frozen.send(signal.SIGCONT)
    assert (await calls.call("add", a=1, b=1)).status is Status.COMPLETED
    again = await calls.end(task_id)
    assert (again.result, again.updated_at) == (ended.result, ended.updated_at)


async def test_a_restarted_worker_takes_up_a_question_that_was_asked_before(calls: Calls, processes: Processes) -> None:
    before = processes.worker(APP)
    task_id = await calls.submit("greet_sync")
    await calls.until(task_id, lambda record: bool(record.open_questions))
    before.send(signal.SIGKILL)
    await asyncio.to_thread(before.wait, 10)
    await calls.answer(task_id, name=HELLO)
    processes.worker(APP)
    assert text(await calls.end(task_id)) == "Hello, Ann! (attempt 2)"


async def test_doorbells_lost_with_the_broker_are_rung_again(
    calls: Calls, processes: Processes, settings: Settings
) -> None:
    ids = [await calls.submit("add", a=n, b=1) for n in range(50)]
    await asyncio.to_thread(calls.bell.depths, ["default"])  # all are published now
    broker = redis.Redis.from_url(settings.broker_url.get_secret_value())
    for key in broker.scan_iter(f"{settings.namespace}:*"):
        broker.delete(key)
    processes.worker(APP)
    records = await asyncio.gather(*(calls.end(task_id) for task_id in ids))
    assert {(record.status, record.attempt) for record in records} == {(Status.COMPLETED, 1)}


async def test_calls_are_accepted_without_a_broker_and_run_when_there_is_one(
    settings: Settings, processes: Processes
) -> None:
    away = settings.model_copy(update={"broker_url": type(settings.broker_url)("redis://127.0.0.1:1/0")})
    async with calls_on(away) as calls:
        task_id = await calls.submit("add", a=1, b=2)
        assert (await calls.store.tasks.get(task_id, "ann")).phase is Phase.QUEUED
        processes.worker(APP)
        assert (await calls.end(task_id)).status is Status.COMPLETED


async def test_a_backlog_that_the_broker_still_has_is_not_rung_twice(
    calls: Calls, processes: Processes, database_url: str
) -> None:
    ids = [await calls.submit("sleep", seconds=0.2) for _ in range(30)]
    processes.worker(APP, async_slots=1)
    await asyncio.gather(*(calls.end(task_id) for task_id in ids))
    rung = await execute(database_url, "SELECT count(*) FROM tasks WHERE rung_at > created_at")
    assert rung[0][0] <= 3


async def test_the_worker_outlives_the_end_of_all_its_database_sessions(
    calls: Calls, processes: Processes, database_url: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    processes.worker(APP)
    task_id = await calls.submit("walk", steps=30, ledger=str(ledger))
    await appears(ledger, "start")
    for _ in range(3):
        await execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        await asyncio.sleep(0.5)
    record = await calls.end(task_id)
    assert (record.status, record.attempt) == (Status.COMPLETED, 1)


async def test_a_worker_without_a_database_waits_for_it(
    empty_database_url: str, settings: Settings, tmp_path: Path
) -> None:
    bare = settings.model_copy(update={"database_url": type(settings.database_url)(empty_database_url)})
    processes = Processes(bare, tmp_path)
    try:
        worker = processes.worker(APP, wait=False)
        async with asyncio.timeout(30):
            while "taskengine migrate" not in worker.output():
                await asyncio.sleep(0.1)
        await asyncio.to_thread(migrate.upgrade, empty_database_url)
        async with calls_on(bare) as calls:
            assert (await calls.call("add", a=1, b=2)).status is Status.COMPLETED
    finally:
        processes.kill_all()


async def test_two_workers_share_many_calls_on_rabbitmq(amqp_settings: Settings, tmp_path: Path) -> None:
    processes = Processes(amqp_settings, tmp_path)
    try:
        processes.worker(APP, async_slots=2, sync_slots=1)
        processes.worker(APP, async_slots=2, sync_slots=1)
        async with calls_on(amqp_settings) as calls:
            ids = [await calls.submit("add", a=n, b=1) for n in range(40)]
            ids += [await calls.submit("add_sync", a=n, b=1) for n in range(10)]
            asking = await calls.submit("greet")
            await calls.until(asking, lambda record: bool(record.open_questions))
            await calls.answer(asking, name=HELLO)
            records = await asyncio.gather(*(calls.end(task_id) for task_id in [*ids, asking]))
        assert {record.status for record in records} == {Status.COMPLETED}
    finally:
        processes.kill_all()


async def test_a_stray_claim_is_handed_back(
    calls: Calls, processes: Processes, store: Store, database_url: str
) -> None:
    """A claim whose commit succeeded and whose answer was lost: held by a live worker, run by nobody."""
    processes.worker(APP, lease=SHORT_LEASE)
    (worker,) = await store.workers.alive()
    task_id = await calls.submit("add", ring=False, a=1, b=2)
    await execute(
        database_url,
        "UPDATE tasks SET phase = 'running', attempt = 1, worker_id = $1, claimed_at = now() WHERE id = $2",
        worker["id"],
        task_id,
    )
    record = await calls.end(task_id)
    assert (record.status, record.attempt) == (Status.COMPLETED, 2)
