"""What our processes cost: idle, waiting, starting, and more than one of a kind."""

from __future__ import annotations

import asyncio
import statistics
import time

from benchmarks.load import Connection, request
from benchmarks.scale_site import Figure, Site, execute, run

__all__ = ["idle", "start", "waiting"]

IDLE_S = 60.0
WAITING = 300
STARTS = 5
MIB = 1 << 20
_CALLS = """
    SELECT query, calls FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND query NOT LIKE '%pg_stat_statements%'
"""


def idle(site: Site) -> list[Figure]:
    """A front end and a worker with nothing to do."""
    url = site.database()
    with site.front_end(url) as front, site.worker(url) as worker:
        time.sleep(5)  # what comes after the start is no idling
        before, databases = {each: each.cpu_s() for each in (front, worker)}, site.postgres.cpu_s()
        site.sql("SELECT pg_stat_statements_reset()", url=url)
        started = time.monotonic()
        time.sleep(max(10.0, IDLE_S * site.size))
        calls = {row[0]: row[1] for row in site.sql(_CALLS, url=url)}
        passed = time.monotonic() - started
        shares = [(each.cpu_s() - cpu) / passed * 100 for each, cpu in before.items()]
        database = (site.postgres.cpu_s() - databases) / passed * 100
    for query, count in sorted(calls.items(), key=lambda call: -call[1]):
        print(f"  {count / passed:6.2f}/s  {' '.join(query.split())[:110]}", flush=True)
    queries = sum(calls.values()) / passed
    return [
        Figure(
            "idle, no task: CPU of front end and worker",
            "under 1 % of a core",
            f"{sum(shares):.2f} % (front {shares[0]:.2f}, worker {shares[1]:.2f}; PostgreSQL beside: {database:.2f})",
            sum(shares) < 1,
        ),
        Figure("idle, no task: statements a second", "under 5", f"{queries:.1f}", queries < 5),
    ]


def start(site: Site) -> list[Figure]:
    """From the start of the process to the claim of a task that waits already."""
    url = site.database()
    took = []
    with site.front_end(url) as front:
        for _ in range(STARTS):
            task_id = run(_submit(front.url, "nothing", {}))
            started = time.time()
            with site.starting_worker(url):
                claimed = None
                while claimed is None:
                    time.sleep(0.7)  # looking costs CPU that the start needs
                    (row,) = site.sql(
                        "SELECT extract(epoch FROM claimed_at) FROM tasks WHERE id = $1", task_id, url=url
                    )
                    claimed = row[0]
            took.append(float(claimed) - started)
            print(f"  {took[-1]:.2f} s", flush=True)
    middle = statistics.median(took)
    figure = f"{middle:.2f} s ({min(took):.2f} to {max(took):.2f}, {STARTS} starts)"
    return [Figure("worker start to first claim", "under 2 s", figure, middle < 2)]


def waiting(site: Site) -> list[Figure]:
    """A worker with all its tool processes, and async calls that wait."""
    count = site.scaled(WAITING)
    url = site.database()
    with site.front_end(url) as front, site.worker(url) as worker:
        run(_submit(front.url, "count", {"up_to": 1000}))
        time.sleep(3)
        empty = worker.memory_bytes()

        async def fill() -> None:
            connection = await Connection.open(front.url)
            message = request(front.url, "tools/call", "sleep", {"name": "sleep", "arguments": {"seconds": 600}})
            for _ in range(count):
                await connection.send(message)
            await connection.close()
            running = 0
            while running < count:
                (row,) = await execute(url, "SELECT count(*) FROM tasks WHERE phase = 'running'")
                running = row[0]
                await asyncio.sleep(0.1)

        run(fill())
        time.sleep(3)
        full = worker.memory_bytes()
        processes = len(worker.pids())
        site.sql(
            "UPDATE tasks SET phase = 'done', status = 'cancelled', worker_id = NULL, ended_at = now(),"
            " stopped_at = now() WHERE phase = 'running'",
            url=url,
        )
    figure = f"{full / MIB:.0f} MB in {processes} processes ({empty / MIB:.0f} MB without calls)"
    return [Figure(f"{count} waiting async calls in one worker machine", "under 400 MB", figure, full < 400 * MIB)]


async def _submit(url: str, tool: str, arguments: dict[str, object]) -> str:
    connection = await Connection.open(url)
    created = await connection.send(request(url, "tools/call", tool, {"name": tool, "arguments": arguments}))
    await connection.close()
    return str(created["taskId"])
