"""A crowd that waits: `python -m tests.chaos.crowd`. 10,000 tasks wait for answers and 10,000 sleep, all at once.

While they do, no worker may hold one, and the workers' memory must be within 10 % of what it was with none. Then all
sleepers wake at the same second and all questions are answered as fast as the front end takes it, and each of
the 20,000 must end with its own result. Memory is the proportional set size of the worker and its children.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from pydantic import SecretStr

from benchmarks.load import Connection, request
from taskengine.embedded import EmbeddedServices
from taskengine.settings import Settings
from taskengine.store import migrate
from tests.processes import Processes

TARGET = "tests/chaos/crowd_app.py:engine"
CONNECTIONS = 32
WARM_UP = 3000
"""Calls of each kind before memory is first looked at: what a worker keeps that has been as busy as it can be."""
MOST_GROWTH = 1.10
STUCK_S = 120.0
"""The crowd is given up when nothing changes for so long."""


class Crowd:
    def __init__(self, url: str, sql: asyncpg.Connection[Any], worker: psutil.Process) -> None:
        self.url, self.sql, self.worker = url, sql, worker
        self.repeated = 0
        """Requests that were told to try again, as they are when more come than the front end has sessions for."""

    async def _send(self, connection: Connection, message: bytes) -> None:
        """Again and again while the front end says that nothing was changed."""
        while True:
            try:
                await connection.send(message)
            except RuntimeError as refusal:
                if "nothing was changed, try again" not in str(refusal):
                    raise
                self.repeated += 1
                await asyncio.sleep(0.5)
            else:
                return

    async def all(self, work: Callable[[Connection, Any], Awaitable[object]], items: Iterable[Any]) -> float:
        """Do `work` for each item over some connections; how many a second."""
        started, waiting = time.monotonic(), list(reversed(list(items)))
        count = len(waiting)

        async def drive(connection: Connection) -> None:
            while waiting:
                await work(connection, waiting.pop())
            await connection.close()

        await asyncio.gather(*[drive(await Connection.open(self.url)) for _ in range(CONNECTIONS)])
        return count / (time.monotonic() - started)

    async def call(self, tool: str, numbers: Iterable[int], **arguments: Any) -> float:
        async def create(connection: Connection, number: int) -> None:
            params = {"name": tool, "arguments": {"number": number, **arguments}}
            await self._send(connection, request(self.url, "tools/call", tool, params, elicitation=True))

        return await self.all(create, numbers)

    async def answer_all(self) -> float:
        """Each open question gets its task's own answer."""

        async def answer(connection: Connection, row: asyncpg.Record) -> None:
            response = {"action": "accept", "content": {"name": f"nobody-{row['task_id'][-6:]}"}}
            params = {"taskId": row["task_id"], "inputResponses": {row["key"]: response}}
            await self._send(connection, request(self.url, "tasks/update", row["task_id"], params))

        return await self.all(answer, await self.sql.fetch("SELECT task_id, key FROM inputs WHERE response IS NULL"))

    async def until(self, what: str, condition: str, count: int) -> None:
        """`count` tasks are so. Raises SystemExit when no more come to be so."""
        best, since = -1, time.monotonic()
        while (now := await self.sql.fetchval(f"SELECT count(*) FROM tasks WHERE {condition}")) < count:
            if now > best:
                best, since = now, time.monotonic()
            if time.monotonic() - since > STUCK_S:
                raise SystemExit(f"only {now} of {count} {what}")
            await asyncio.sleep(0.2)

    def memory_mib(self) -> float:
        family = [self.worker, *self.worker.children(recursive=True)]
        return float(sum(process.memory_full_info().pss for process in family)) / 2**20


async def trial(crowd: Crowd, size: int, night_s: float) -> list[str]:
    """What was wrong."""
    wrong = []
    soon = datetime.now(UTC) + timedelta(seconds=1)
    warm_up = min(WARM_UP, size)
    await crowd.call("doze", range(warm_up), until=soon.isoformat())
    await crowd.call("ask", range(warm_up))
    await crowd.until("asked", "status = 'input_required'", warm_up)
    await crowd.answer_all()
    await crowd.until("ended", "phase = 'done'", 2 * warm_up)
    await asyncio.sleep(5)
    idle = crowd.memory_mib()
    await crowd.sql.execute("DELETE FROM tasks")
    alarm = datetime.now(UTC) + timedelta(seconds=night_s)
    rate = await crowd.call("doze", range(size), until=alarm.isoformat())
    print(f"{size:,} sleepers were begun, {rate:,.0f} a second", flush=True)
    rate = await crowd.call("ask", range(size))
    print(f"{size:,} askers were begun, {rate:,.0f} a second", flush=True)
    await crowd.until("wait or sleep", "phase = 'waiting'", 2 * size)
    await asyncio.sleep(5)
    crowded = crowd.memory_mib()
    held = await crowd.sql.fetchval("SELECT count(*) FROM tasks WHERE worker_id IS NOT NULL")
    print(f"{2 * size:,} wait: {held} held by a worker; memory {idle:.0f} MiB idle, {crowded:.0f} MiB now", flush=True)
    if datetime.now(UTC) > alarm:
        wrong.append("the alarm rang before the crowd was complete: give a longer --night")
    if held:
        wrong.append(f"{held} of the waiting tasks are held by a worker")
    if crowded > idle * MOST_GROWTH:
        wrong.append(f"the worker grew from {idle:.0f} to {crowded:.0f} MiB")
    started = time.monotonic()
    rate = await crowd.answer_all()
    print(f"{size:,} questions were answered, {rate:,.0f} a second", flush=True)
    await crowd.until("ended after their answer", "tool = 'ask' AND phase = 'done'", size)
    print(f"all askers had ended {time.monotonic() - started:.0f} s after the first answer", flush=True)
    await asyncio.sleep(max(0.0, (alarm - datetime.now(UTC)).total_seconds()))
    early = await crowd.sql.fetchval("SELECT count(*) FROM tasks WHERE tool = 'doze' AND ended_at < $1", alarm)
    if early:
        wrong.append(f"{early} woke before their alarm")
    await crowd.until("woke and ended", "tool = 'doze' AND phase = 'done'", size)
    print(f"all sleepers had ended {(datetime.now(UTC) - alarm).total_seconds():.0f} s after their alarm", flush=True)
    if crowd.repeated:
        print(f"{crowd.repeated} requests were told to try again, and did", flush=True)
    rows = await crowd.sql.fetch("SELECT id, tool, status, is_error, arguments, result FROM tasks")
    odd = [row["id"] for row in rows if not _right(row)]
    if odd:
        wrong.append(f"{len(odd)} ended wrong, such as {odd[0]}")
    if len(rows) != 2 * size:
        wrong.append(f"{len(rows)} tasks are there instead of {2 * size}")
    return wrong


def _right(row: asyncpg.Record) -> bool:
    number = json.loads(row["arguments"])["number"]
    expected = f"{number} awake" if row["tool"] == "doze" else f"{number} nobody-{row['id'][-6:]}"
    if row["status"] != "completed" or row["is_error"]:
        return False
    return bool(json.loads(row["result"])["content"][0]["text"] == expected)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.crowd", description=__doc__)
    parser.add_argument("--size", type=int, default=10_000, help="of each kind")
    parser.add_argument("--night", type=float, help="seconds from the first sleeper to the alarm; default: by size")
    options = parser.parse_args(arguments)
    size, night_s = options.size, options.night or 120 + options.size / 30
    with tempfile.TemporaryDirectory(prefix="crowd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with EmbeddedServices(folder / "services", durable=False) as services:
            migrate.upgrade(services.database_url)
            settings = Settings(
                database_url=SecretStr(services.database_url), broker_url=SecretStr(services.broker_url)
            )
            processes = Processes(settings, folder)
            try:
                _, url = processes.serve(TARGET)
                worker = psutil.Process(processes.worker(TARGET).pid)
                wrong = asyncio.run(_run(url, services.database_url, worker, size, night_s))
            finally:
                processes.kill_all()
    print("\n".join(wrong) or "none lost, none wrong")
    return 1 if wrong else 0


async def _run(url: str, database_url: str, worker: psutil.Process, size: int, night_s: float) -> list[str]:
    sql = await asyncpg.connect(database_url)
    try:
        return await trial(Crowd(url, sql, worker), size, night_s)
    finally:
        await sql.close()


if __name__ == "__main__":
    sys.exit(main())
