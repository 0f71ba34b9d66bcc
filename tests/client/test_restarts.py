"""A front end that goes away while a task is watched, on both revisions."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from taskengine.client import Client, Remote, ServerUnreachable
from taskengine.records import Question
from tests.processes import Processes, free_port

APP = "tests/apps/app.py:engine"


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
async def test_a_task_is_watched_over_a_restart_of_the_front_end(processes: Processes, revision: str) -> None:
    port = free_port()
    front, url = processes.serve(APP, port=port)
    processes.worker(APP)
    begun: list[Remote] = []
    asked = asyncio.Event()
    restarted = asyncio.Event()

    async def answer(_question: Question) -> dict[str, Any]:
        asked.set()
        await restarted.wait()
        return {"action": "accept", "content": {"name": "Ada"}}

    async with Client(url, revision=revision, listen_after=timedelta(0)) as client:
        working = asyncio.create_task(client.call("walk", {"steps": 60}, on_task=begun.append))
        waiting = asyncio.create_task(client.call("greet", on_question=answer))
        await asked.wait()
        while not begun:
            await asyncio.sleep(0.01)
        front.kill()
        while True:
            try:
                await client.get(begun[0].id)
            except ServerUnreachable:
                break
        await asyncio.to_thread(processes.serve, APP, port=port)
        restarted.set()
        assert (await working).text.startswith("walked")
        assert (await waiting).text == "Hello, Ada! (attempt 2)"
    assert (await _tasks_of(url)) == 2  # nothing was called twice


async def _tasks_of(url: str) -> int:
    async with Client(url) as client:
        return len((await client.call("task_list")).structured["tasks"])


async def test_a_server_that_stays_away_ends_the_wait_after_the_patience(processes: Processes) -> None:
    front, url = processes.serve(APP)
    async with Client(url, patience=timedelta(seconds=1)) as client:
        task = await client.submit("sleep", {"seconds": 60})
        front.kill()
        with pytest.raises(ServerUnreachable):
            await task.wait()
