"""A worker that is cut off from the database: it stops by itself, before others take over, and changes nothing late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from taskengine.lifecycle import Status
from taskengine.settings import Settings
from tests.apps.stopping import engine
from tests.jobs.calls import Calls, calls_on
from tests.jobs.test_faults import _postgres_has_run_for_a_lease
from tests.jobs.test_worker import appears, text
from tests.processes import Processes, wait_for_output
from tests.proxy import Proxy
from tests.store.sql import execute

APP = "tests/apps/stopping.py:engine"
LEASE = timedelta(seconds=4)
OVER = "SELECT lease_until < now() - interval '1 s' FROM workers"


@pytest.fixture
async def calls(settings: Settings) -> AsyncIterator[Calls]:
    async with calls_on(settings, engine) as opened:
        yield opened


def moments(ledger: Path, word: str) -> list[float]:
    """When each line that begins with `word` was written."""
    return [float(line.split()[-1]) for line in ledger.read_text().splitlines() if line.startswith(f"{word} ")]


async def test_a_worker_without_its_database_has_stopped_before_another_starts(
    calls: Calls, processes: Processes, database_url: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    await _postgres_has_run_for_a_lease(database_url)
    async with Proxy(database_url) as proxy:
        lost = await asyncio.to_thread(lambda: processes.worker(APP, lease=LEASE, database_url=SecretStr(proxy.url)))
        task_id = await calls.submit("tick", ledger=str(ledger))
        await appears(ledger, "start-1")
        await asyncio.to_thread(lambda: processes.worker(APP, lease=LEASE))
        proxy.cut()
        ended = await calls.end(task_id)
        assert (ended.status, text(ended)) == (Status.COMPLETED, "ticked in attempt 2")
        assert max(moments(ledger, "tick")) < moments(ledger, "start-2")[0]
        proxy.mend()
        await asyncio.to_thread(wait_for_output, lost, "all attempts are stopped")
        async with asyncio.timeout(60):
            while len(await calls.store.workers.alive()) < 2:  # it has come back, under another name
                await asyncio.sleep(0.1)
        again = await calls.end(task_id)
        assert (again.result, again.updated_at) == (ended.result, ended.updated_at)


async def test_what_an_outage_of_the_database_stops_goes_on_uncounted(
    calls: Calls, processes: Processes, database_url: str, tmp_path: Path
) -> None:
    """Longer than its lease, and for all workers: none of them is dead, and no task is to blame."""
    ledger = tmp_path / "ledger"
    async with Proxy(database_url) as proxy:
        lost = await asyncio.to_thread(lambda: processes.worker(APP, lease=LEASE, database_url=SecretStr(proxy.url)))
        ids = [await calls.submit(tool, ledger=str(ledger)) for tool in ("tick", "hours")]
        await appears(ledger, "start", 2)
        await _postgres_has_run_for_a_lease(database_url)  # a lease that is over counts
        proxy.cut()
        await asyncio.to_thread(wait_for_output, lost, "all attempts are stopped")
        async with asyncio.timeout(30):
            while not (await execute(database_url, OVER))[0][0]:
                await asyncio.sleep(0.1)
        proxy.mend()
        for task_id in ids:
            record = await calls.end(task_id)
            assert (record.status, record.attempt) == (Status.COMPLETED, 2)
            row = await calls.store.inspection.show(task_id)
            assert (row["crashes"], row["losses"]) == (0, [])
