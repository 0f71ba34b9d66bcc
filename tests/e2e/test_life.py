"""A task's whole life over HTTP, through restarts of everything, on both brokers."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskengine.client import Client
from taskengine.client.results import Remote, RemoteError
from taskengine.lifecycle import Status
from tests.e2e.conftest import APP
from tests.jobs.test_worker import appears, lines
from tests.processes import Processes, free_port
from tests.store.sql import execute

HELLO = {"action": "accept", "content": {"name": "Ann"}}
ASKING = {"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}}


async def submit(client: Client, name: str, **arguments: Any) -> str:
    created = await client.request("tools/call", {"name": name, "arguments": arguments}, capabilities=ASKING)
    assert created["resultType"] == "task", created
    return str(created["taskId"])


async def until(client: Client, task_id: str, *statuses: Status) -> Remote:
    async with asyncio.timeout(60):
        while (task := await client.get(task_id)).status not in statuses:
            await asyncio.sleep(0.05)
    return task


def text(task: Remote) -> str:
    assert task.result is not None, task
    return str(task.result["content"][0]["text"])


async def test_any_front_end_serves_any_request_and_any_worker_any_attempt(
    on_each_broker: Processes,
) -> None:
    processes = on_each_broker
    (_, first), (_, second) = processes.serve(APP), processes.serve(APP)
    processes.worker(APP)
    processes.worker(APP)
    async with Client(first) as one, Client(second) as other:
        ids = [await submit(one, "add", a=n, b=n) for n in range(10)]
        ids += [await submit(other, "add_sync", a=n, b=n) for n in range(10)]
        asking = await submit(one, "two_questions")
        await until(other, asking, Status.INPUT_REQUIRED)
        await other.answer(asking, {"name": HELLO})
        assert [question.key for question in (await one.get(asking)).questions] == ["sure"]
        await one.answer(asking, {"sure": {"action": "decline"}})
        assert text(await until(other, asking, Status.COMPLETED)) == "name='Ann' None"
        for task_id in ids:
            await until(other, task_id, Status.COMPLETED)
            assert (await one.get(task_id)).result == (await other.get(task_id)).result


async def test_a_task_outlives_the_front_end_that_made_it(processes: Processes, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    port = free_port()
    front, url = processes.serve(APP, port=port)
    processes.worker(APP)
    async with Client(url) as client:
        task_id = await submit(client, "walk", steps=20, ledger=str(ledger))
        await appears(ledger, "start")
        front.send(signal.SIGKILL)
        await asyncio.to_thread(front.wait, 10)
        processes.serve(APP, port=port)
        assert text(await until(client, task_id, Status.COMPLETED)) == "walked in attempt 1"


async def test_a_question_outlives_front_end_and_worker(processes: Processes) -> None:
    port = free_port()
    front, url = processes.serve(APP, port=port)
    worker = processes.worker(APP)
    async with Client(url) as client:
        task_id = await submit(client, "greet")
        await until(client, task_id, Status.INPUT_REQUIRED)
    for child in (front, worker):
        child.send(signal.SIGTERM)
        assert await asyncio.to_thread(child.wait, 30) == 0
    processes.serve(APP, port=port)
    async with Client(url) as client:
        await client.answer(task_id, {"name": HELLO})
        processes.worker(APP)
        assert text(await until(client, task_id, Status.COMPLETED)) == "Hello, Ann! (attempt 2)"


async def test_a_killed_worker_costs_an_attempt_and_no_task(on_each_broker: Processes, tmp_path: Path) -> None:
    processes = on_each_broker
    ledger = tmp_path / "ledger"
    _, url = processes.serve(APP)
    doomed = processes.worker(APP, lease=timedelta(seconds=4))
    async with Client(url) as client:
        task_id = await submit(client, "outlast_sync", ledger=str(ledger))
        await appears(ledger, "start")
        doomed.send(signal.SIGKILL)
        processes.worker(APP, lease=timedelta(seconds=4))
        assert text(await until(client, task_id, Status.COMPLETED)) == "done in attempt 2"


@pytest.mark.parametrize("state", ["queued", "running", "asking"])
async def test_cancel_is_seen_at_once_and_stays(processes: Processes, tmp_path: Path, state: str) -> None:
    ledger = tmp_path / "ledger"
    _, url = processes.serve(APP)
    if state != "queued":
        processes.worker(APP)
    async with Client(url) as client:
        if state == "asking":
            task_id = await submit(client, "greet")
            await until(client, task_id, Status.INPUT_REQUIRED)
        else:
            task_id = await submit(client, "sleep_sync", seconds=600, ledger=str(ledger))
        if state == "running":
            await appears(ledger, "start")
        await client.cancel(task_id)
        assert (await client.get(task_id)).status is Status.CANCELLED
        if state == "queued":
            processes.worker(APP)
        await client.cancel(task_id)
        await client.answer(task_id, {"name": HELLO})
        other = await submit(client, "add_sync", a=1, b=1)
        await until(client, other, Status.COMPLETED)
        assert (await client.get(task_id)).status is Status.CANCELLED
        assert lines(ledger, "end") == 0


async def test_an_expired_task_is_unknown_and_its_rows_go(processes: Processes, database_url: str) -> None:
    _, url = processes.serve(APP)
    processes.worker(APP)
    async with Client(url) as client:
        task_id = await submit(client, "short_lived")
        done = await until(client, task_id, Status.COMPLETED)
        assert text(done) == "remember me"
        with pytest.raises(RemoteError) as gone:
            await until(client, task_id, Status.CANCELLED)  # polls on, for it never is
        with pytest.raises(RemoteError) as never:
            await client.get("tsk_never")
        assert (gone.value.code, gone.value.message) == (never.value.code, never.value.message)
        async with asyncio.timeout(30):
            while await execute(database_url, "SELECT 1 FROM tasks"):
                await asyncio.sleep(0.2)


async def test_a_call_is_accepted_while_the_broker_is_away(processes: Processes) -> None:
    _, url = processes.serve(APP, broker_url="redis://127.0.0.1:1/0")
    async with Client(url) as client:
        task_id = await submit(client, "add", a=1, b=2)
        assert (await client.get(task_id)).status is Status.WORKING
        processes.worker(APP)
        await until(client, task_id, Status.COMPLETED)
