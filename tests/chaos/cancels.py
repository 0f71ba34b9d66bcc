"""`python -m tests.chaos.cancels`: how long it takes from a cancel until the run has stopped, for each kind of wait.

Real services, one real worker, and the times that the database has recorded. Exits with 0 when every run had stopped
within two seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import secrets
import sys
import tempfile
from pathlib import Path
from typing import get_args

from pydantic import SecretStr

from taskengine.settings import Settings
from tests.apps.stopping import Block, Wait, engine
from tests.jobs.calls import OWNER, Calls, calls_on
from tests.jobs.test_worker import appears
from tests.processes import Processes
from tests.services import running_services
from tests.store.sql import execute

APP = "tests/apps/stopping.py:engine"
PROMISED_S = 2.0
TOOK = (
    "SELECT extract(epoch FROM stopped_at - ended_at)::float AS took FROM tasks"
    " WHERE id = ANY ($1) AND stopped_at IS NOT NULL"
)


def at_most(times: list[float], share: float) -> float:
    """The time that this share of them does not exceed."""
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)]


async def measured(calls: Calls, url: str, kind: tuple[str, str], times: int, folder: Path) -> list[float]:
    """Seconds from each cancel to its stop; cancels come one at a time, when the tool is known to wait."""
    (tool, how), ids = kind, []
    for n in range(times):
        ledger = folder / f"{tool}-{how}-{n}"
        task_id = await calls.submit(tool, how=how, ledger=str(ledger))
        await appears(ledger, "start")
        await calls.store.tasks.cancel(task_id, OWNER)
        await calls.until(task_id, lambda record: ";" in (record.status_message or ""))
        ids.append(task_id)
    return [row["took"] for row in await execute(url, TOOK, ids)]


async def perform(settings: Settings, url: str, times: int, folder: Path) -> bool:
    """Print the table; whether every stop was in time."""
    kinds = [*(("wait", how) for how in get_args(Wait)), *(("block", how) for how in get_args(Block))]
    holds = True
    print(f"{'tool':6} {'waits in':8} {'cancels':>7} {'p50 s':>7} {'p99 s':>7} {'worst s':>7}")
    async with calls_on(settings, engine) as calls:
        for tool, how in kinds:
            took = await measured(calls, url, (tool, how), times, folder)
            holds = holds and len(took) == times and max(took) <= PROMISED_S
            shares = f"{at_most(took, 0.5):7.3f} {at_most(took, 0.99):7.3f} {max(took):7.3f}"
            print(f"{'async' if tool == 'wait' else 'def':6} {how:8} {len(took):7} {shares}", flush=True)
    print(f"every run stopped within {PROMISED_S:g} s: {'yes' if holds else 'NO'}")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.cancels", description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="cancels of each kind")
    times: int = parser.parse_args().times
    with tempfile.TemporaryDirectory(prefix="cancels-") as name:
        folder = Path(name)
        with running_services(folder / "services") as services:
            url = services.create_database()
            settings = Settings(
                database_url=SecretStr(url),
                broker_url=SecretStr(services.broker_url),
                namespace=f"t{secrets.token_hex(6)}",
            )
            processes = Processes(settings, folder)
            try:
                processes.worker(APP)
                holds = asyncio.run(perform(settings, url, times, folder))
            finally:
                processes.kill_all()
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
