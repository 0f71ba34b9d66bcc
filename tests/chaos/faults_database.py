"""Faults of Postgres and of the way to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import asyncpg
import psutil

from taskengine.store import migrate
from tests.chaos.client import View
from tests.chaos.run import Run, Wrong, fault

PHASE = "database"
LEASE_S = 15.0


async def _unharmed(run: Run, views: list[View]) -> None:
    """Nobody else has taken these over."""
    await run.until(lambda: all(view.over for view in views), "the probes end")
    replaced = [view.label for view in views if len(run.starts(view)) > 1]
    if replaced:
        raise Wrong(f"{len(replaced)} of {len(views)} live attempts were replaced")


@fault("Postgres restarted", bar_s=5.0, phase="restart", share=8)
async def restarted(run: Run) -> list[float]:
    """an immediate restart, as by a power cut, under running tools; the time counts from when it accepts again"""
    views = await run.hold("probe", 8, seconds=6) + await run.hold("probe_sync", 1, seconds=4)
    at = time.time()
    await run.site.restart_postgres(run.rng.uniform(0, 2))
    accepts = run.site.accepts_since_s
    run.outages.append((at, accepts + 5))
    new = await run.calls("doze", 5, seconds=0.1)
    recovered = await run.started(new, accepts)
    # A call is started when it is accepted: what counts is the whole way from when Postgres was there.
    first = [run.starts(view)[0].at_s - accepts for view in new if run.starts(view)]
    # A worker that has gone without a renewal for two thirds of its lease stops what it runs, as it should.
    if accepts - at < run.site.settings(far=False).lease.total_seconds() / 4:
        await _unharmed(run, views)
    await run.until(lambda: all(view.over for view in views), "the probes end")
    return first or recovered


@fault("Postgres frozen", bar_s=20.0, phase="slow", share=1)
async def frozen(run: Run) -> list[float]:
    """SIGSTOP of all of Postgres for three leases, then SIGCONT: everybody's lease looks over at once"""
    views = await run.hold("probe", 4, seconds=1)
    await run.until(lambda: all(view.over for view in views), "the probes end")
    at = time.time()
    stopped = run.site.postgres_processes()
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    await asyncio.sleep(3 * LEASE_S)
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    thawed = time.time()
    run.outages.append((at, thawed + 10))
    return await run.started(await run.calls("doze", 5, seconds=0.1), thawed)


async def _terminate(run: Run, which: str) -> None:
    ended = await run.site.sql(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name <> 'chaos'"
        f" AND datname = current_database() AND pid <> pg_backend_pid() AND {which}"
    )
    run.note(f"{len(ended)} sessions ended")


async def _sessions_end(run: Run, which: str) -> list[float]:
    views = await run.hold("probe", 4, seconds=3)
    at = time.time()
    await _terminate(run, which)
    run.outages.append((at, at + 3))
    new = await run.calls("doze", 4, seconds=0.1)
    recovered = await run.started(new, at)
    await _unharmed(run, views)
    return recovered


@fault("a session ended", bar_s=5.0, phase=PHASE, share=8)
async def some_sessions(run: Run) -> list[float]:
    """pg_terminate_backend of sessions drawn by lot"""
    return await _sessions_end(run, f"pid % 3 = {run.rng.randrange(3)}")


@fault("presence sessions ended", bar_s=5.0, phase=PHASE, share=6)
async def presence_sessions(run: Run) -> list[float]:
    """pg_terminate_backend of the sessions that hold the workers' presence locks: nobody is taken for dead"""
    return await _sessions_end(run, "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')")


@fault("listening sessions ended", bar_s=5.0, phase=PHASE, share=4)
async def listening_sessions(run: Run) -> list[float]:
    """pg_terminate_backend of the sessions that hear of changes, of front ends and workers"""
    return await _sessions_end(run, "query ILIKE '%listen%'")


@fault("all sessions ended", bar_s=5.0, phase=PHASE, share=4)
async def all_sessions(run: Run) -> list[float]:
    """pg_terminate_backend of every session at once"""
    return await _sessions_end(run, "true")


@fault("an answer of Postgres lost", phase=PHASE, share=20)
async def ambiguous(run: Run) -> list[float]:
    """the connection of one worker or front end is reset after a commit and before its answer"""
    proxy = run.site.proxies["database"]
    cut, at = proxy.cut, time.time()
    views = await run.calls("doze", 4, seconds=0.2) + await run.calls("ask", 2)
    await asyncio.sleep(run.rng.random() * 0.2)
    proxy.set("ambiguous")
    await run.until(lambda: proxy.cut > cut, "an answer is cut", 30)
    run.outages.append((at, time.time() + 2))
    await run.until(lambda: all(view.over for view in views), "the calls end")
    return []


async def _link(run: Run, mode: Any, seconds: float) -> list[float]:
    proxy = run.site.proxies["database"]
    at = time.time()
    proxy.set(mode)
    views = await run.calls("doze", 6, seconds=0.1)
    await asyncio.sleep(seconds)
    proxy.set("pass")
    healed = time.time()
    run.outages.append((at, healed + 5))
    return await run.started(views, healed)


@fault("way to Postgres reset", bar_s=5.0, phase=PHASE, share=6)
async def link_reset(run: Run) -> list[float]:
    """every connection of one worker and one front end to Postgres is reset"""
    return await _link(run, "reset", 0.0)


@fault("way to Postgres refused", bar_s=5.0, phase=PHASE, share=3)
async def link_refused(run: Run) -> list[float]:
    """one worker and one front end lose Postgres and are refused for two seconds"""
    run.site.proxies["database"].set("reset")
    return await _link(run, "refuse", 2.0)


@fault("way to Postgres slow", bar_s=5.0, phase=PHASE, share=2)
async def link_slow(run: Run) -> list[float]:
    """200 ms are added to every piece between Postgres and one worker and front end"""
    return await _link(run, "delay", 3.0)


@fault("worker cut off", bar_s=20.0, phase="slow", share=2)
async def cut_off(run: Run) -> list[float]:
    """one worker and one front end hear nothing of Postgres and Valkey for 30 seconds; then the network is back"""
    views = await run.hold("probe", 8, seconds=40)
    far = run.site.workers["worker-far"].pid
    held = [view for view in views if run.worker_of(view) == far]
    at = time.time()
    for proxy in run.site.proxies.values():
        proxy.set("blackhole")
    try:
        recovered = await run.started_again(held, at)
        await asyncio.sleep(max(0.0, at + 2 * LEASE_S - time.time()))
    finally:
        for proxy in run.site.proxies.values():
            proxy.set("pass")
        run.outages.append((at, time.time() + 15))
    await run.until(lambda: all(view.over for view in held), "the probes end elsewhere")
    return recovered


@fault("connections used up", bar_s=5.0, phase=PHASE, share=2)
async def exhausted(run: Run) -> list[float]:
    """others take every connection Postgres has left, for three seconds, after the engine lost some of its own"""
    taken: list[Any] = []
    views = await run.hold("probe", 4, seconds=5)
    at = time.time()
    try:
        while len(taken) < 300:
            taken.append(await asyncpg.connect(run.site.database_url, server_settings={"application_name": "greedy"}))
    except (asyncpg.PostgresError, OSError):
        run.note(f"{len(taken)} connections taken")
    new = await run.calls("doze", 4, seconds=0.1)
    await asyncio.sleep(3)
    for connection in taken:
        connection.terminate()
    given = time.time()
    run.outages.append((at, given + 2))
    recovered = await run.started(new, given)
    await _unharmed(run, views)
    return recovered


@fault("table locked", phase=PHASE, share=1)
async def locked(run: Run) -> list[float]:
    """another session locks the table of tasks for 12 seconds: requests wait or fail, no running tool is replaced"""
    views = await run.hold("probe", 6, seconds=6)
    at = time.time()
    connection = await asyncpg.connect(run.site.database_url, server_settings={"application_name": "chaos"})
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(12)
    finally:
        await connection.close()
    run.outages.append((at, time.time() + 5))
    await _unharmed(run, views)
    return []


@fault("migrated under load", phase=PHASE, share=2)
async def migrated(run: Run) -> list[float]:
    """`migrate` runs twice at once while calls are made: nothing is changed and nobody waits long"""
    at = time.time()
    await asyncio.gather(*(asyncio.to_thread(migrate.upgrade, run.site.database_url) for _ in range(2)))
    views = await run.calls("doze", 4, seconds=0.1)
    recovered = await run.started(views, at)
    if max(recovered) > 10:
        raise Wrong(f"a call began after {max(recovered):.1f} s")
    return []
