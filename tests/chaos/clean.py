"""Whether everything is back to where it was: slots, sessions, locks, leases, messages, processes, files (I6)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import psutil
import redis

from tests.chaos.run import Run, Wrong
from tests.services import broken_invariants

__all__ = ["descriptors", "idle_problems", "stopped_problems"]

SLOT_S = 6.0
"""How long each slot is held to see that there are others: longer than it takes to ring again for a lost doorbell."""
MORE_DESCRIPTORS = 25
"""A process's pools may have grown since its start."""


def descriptors(run: Run) -> dict[str, int]:
    """Open files of each front end and worker."""
    named = {**run.site.workers, **run.site.front_ends}
    return {name: psutil.Process(child.pid).num_fds() for name, child in named.items() if child.running}


async def idle_problems(
    run: Run, at_first: dict[str, int], *, sync_slots: int, patience_s: float, messages_too: bool
) -> list[str]:
    """With the load over and everything running: what is left that should not be."""
    site, problems = run.site, []

    async def settles(what: str, left: Callable[[], Awaitable[object]]) -> None:
        until = time.monotonic() + patience_s
        while (found := await left()) and time.monotonic() < until:
            await asyncio.sleep(0.3)
        if found:
            problems.append(f"{what}: {found}")

    async def strange_workers() -> object:
        rows = await site.sql("SELECT pid FROM workers")
        pids, live = sorted(row["pid"] for row in rows), sorted(child.pid for child in site.workers.values())
        return pids != live and f"registered {pids}, running {live}"

    async def strange_locks() -> object:
        rows = await site.sql("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
        return len(rows) != len(site.workers) and f"{len(rows)} for {len(site.workers)} workers"

    async def held() -> object:
        return await site.sql("SELECT id, worker_id FROM tasks WHERE worker_id IS NOT NULL OR phase <> 'done'")

    async def stuck_sessions() -> object:
        return await site.sql(
            "SELECT pid, state, query FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%' AND state_change < now() - interval '2 seconds'"
        )

    async def messages() -> object:
        with redis.Redis.from_url(site.broker_url) as broker:
            keys = [key.decode() for key in broker.scan_iter("*")]
            queued = {key: broker.llen(key) for key in keys if broker.type(key) == b"list"}
        return {key: count for key, count in queued.items() if count}

    await settles("tasks", held)
    await settles("registered workers", strange_workers)
    await settles("presence locks", strange_locks)
    await settles("sessions in a transaction", stuck_sessions)
    if messages_too:
        await settles("messages in the broker", messages)
    problems += await broken_invariants(site.database_url)
    problems += await _slot_problems(run, sync_slots * len(site.workers))
    await run.load.wire.close()
    await asyncio.sleep(0.5)
    problems += [
        f"{name} has {count} open files, {at_first.get(name, count)} at first"
        for name, count in descriptors(run).items()
        if count > at_first.get(name, count) + MORE_DESCRIPTORS
    ]
    return problems


async def _slot_problems(run: Run, slots: int) -> list[str]:
    """As many sync tools as there are slots run at one moment."""
    try:
        await run.hold("probe_sync", slots, seconds=SLOT_S)
    except Wrong as error:
        return [f"of {slots} sync slots not all are there: {error}"]
    probes = run.load.views[-slots:]
    begun = [run.starts(view)[0].at_s for view in probes]
    await run.until(lambda: all(view.over for view in probes), "the probes end")
    apart = max(begun) - min(begun)
    return [f"{slots} sync tools began {apart:.1f} s apart: a slot is missing"] if apart > SLOT_S - 0.1 else []


async def stopped_problems(run: Run) -> list[str]:
    """Stop every process as an operator would; what is left afterwards."""
    site, problems = run.site, []
    children = [*site.workers.values(), *site.front_ends.values()]
    for child in children:
        child.send(signal.SIGTERM)
    for child in children:
        try:
            code = await asyncio.to_thread(child.wait, 40)
        except TimeoutError:
            problems.append(f"{child.name} did not end within 40 s of SIGTERM")
            continue
        if code != 0:
            problems.append(f"{child.name} ended with code {code}")
    problems += [f"process {left.pid} is left: {' '.join(left.cmdline())}" for left in site.processes()]
    problems += [f"temporary file {path.name} is left" for path in site.temporary.iterdir()]
    for what, query in {
        "session": "SELECT pid, query FROM pg_stat_activity WHERE application_name = 'taskengine'",
        "lock": "SELECT pid FROM pg_locks WHERE locktype = 'advisory'",
        "registered worker": "SELECT id FROM workers",
        "held task": "SELECT id FROM tasks WHERE worker_id IS NOT NULL",
    }.items():
        problems += [f"{what} is left: {dict(row)}" for row in await site.sql(query)]
    return problems
