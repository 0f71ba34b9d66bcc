"""Faults of Postgres and of the way to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import asyncpg
import psutil

from tests.chaos.client import View
from tests.chaos.run import Run, Wrong, fault

__all__ = ["unharmed"]

PHASE = "database"
DOWN_LEASES = 2 / 15
"""How long Postgres is down at most: 2 s under the usual lease."""
SURVIVED_LEASES = 1 / 3
"""A worker stops what it runs at two thirds of a lease from its last renewal, which may be a fifth of it old when
Postgres goes; the rest is for finding it again on a busy machine."""


async def unharmed(run: Run, views: list[View]) -> None:
    """Nobody else has taken these over. Raises Wrong."""
    await run.until(lambda: all(view.over for view in views), "the probes end")
    replaced = [view.label for view in views if len(run.starts(view)) > 1]
    if replaced:
        raise Wrong(f"{len(replaced)} of {len(views)} live attempts were replaced")


@fault("Postgres restarted", bar_s=5.0, phase="restart", share=8)
async def restarted(run: Run) -> list[float]:
    """an immediate restart, as by a power cut, under running tools, some of which end meanwhile; from its return on"""
    views = await run.hold("probe", 8, seconds=8) + await run.hold("probe_sync", 1, seconds=6)
    ending = await run.hold("probe", 4, seconds=0.6)
    return await _restarted(run, views, ending)


async def _restarted(run: Run, views: list[View], ending: list[View]) -> list[float]:
    """From when Postgres accepts again: until what is called then runs, and until the ends of `ending` are stored.
    Nobody else takes `views` over."""
    at = time.time()
    await run.site.restart_postgres(run.rng.uniform(0, DOWN_LEASES * run.site.lease_s))
    accepts = run.site.accepts_since_s
    away_s = accepts - at
    run.outages.append((at, accepts + 5))
    new = await run.calls("doze", 5, seconds=0.1)
    await run.started(new, accepts)
    # A call is started when it is accepted: what counts is the whole way from when Postgres was there.
    recovered = [run.starts(view)[0].at_s - accepts for view in new if run.starts(view)]
    await run.until(lambda: all(view.over for view in ending), "those that ended meanwhile are stored")
    recovered += [view.ended_at_s - accepts for view in ending if view.ended_at_s > accepts]
    if away_s < SURVIVED_LEASES * run.site.lease_s:
        await unharmed(run, views)
    else:
        run.unjudged += 1
        run.note(f"Postgres took {away_s:.1f} s to be back: workers had to stop what they ran")
        await run.until(lambda: all(view.over for view in views), "the probes end")
    return recovered


@fault("Postgres restarted again and again", bar_s=5.0, phase="restart", share=1)
async def restarted_often(run: Run) -> list[float]:
    """restarts every 5 to 40 s under running tools: three of them, in a run of ten times the length thirty"""
    recovered: list[float] = []
    for _ in range(round(min(30, max(2, 3 * run.length)))):
        views = await run.hold("probe", 6, seconds=8)
        recovered += await _restarted(run, views, [])
        await asyncio.sleep(max(0.0, run.rng.uniform(5, 40) - 8))
    return recovered


@fault("Postgres away for 12 s", bar_s=5.0, phase="restart", share=1)
async def away(run: Run) -> list[float]:
    """longer than two thirds of the lease: workers stop their own attempts, which go on when Postgres is back"""
    views = await run.hold("probe", 8, seconds=40)
    at = time.time()
    await run.site.restart_postgres(12.0)
    accepts = run.site.accepts_since_s
    run.outages.append((at, accepts + 5))
    recovered = await run.started_again(views, accepts)
    await run.until(lambda: all(view.over for view in views), "the probes end")
    return recovered


@fault("Postgres frozen", bar_s=20.0, phase="slow", share=1)
async def frozen(run: Run) -> list[float]:
    """SIGSTOP of all of Postgres for three leases, then SIGCONT: everybody's lease looks over at once"""
    return await _frozen(run, 3 * run.site.lease_s)


@fault("Postgres paused", bar_s=5.0, phase="slow", share=1)
async def paused(run: Run) -> list[float]:
    """SIGSTOP of all of Postgres for 8 s under running tools, then SIGCONT: nobody else takes them over"""
    views = await run.hold("probe", 8, seconds=14) + await run.hold("probe_sync", 1, seconds=12)
    recovered = await _frozen(run, 8.0)
    await unharmed(run, views)
    return recovered


async def _frozen(run: Run, seconds: float) -> list[float]:
    """From when it goes on until new calls run."""
    at = time.time()
    stopped = run.site.postgres_processes()
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    await asyncio.sleep(seconds)
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
    await unharmed(run, views)
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


@fault("an answer of Postgres lost", phase=PHASE, share=16)
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
    held = (await run.hold_everywhere("probe", seconds=40))[run.site.workers["worker-far"].pid]
    at = time.time()
    for proxy in run.site.proxies.values():
        proxy.set("blackhole")
    try:
        recovered = await run.started_again(held, at)
        await asyncio.sleep(max(0.0, at + 2 * run.site.lease_s - time.time()))
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
    await unharmed(run, views)
    return recovered
