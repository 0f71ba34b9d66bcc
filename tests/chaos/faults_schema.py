"""Faults that Postgres reports: what it refuses for a while, and what is done to its tables under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import asyncpg
from alembic.script import ScriptDirectory

from taskengine.errors import StoreUnavailable
from taskengine.store import migrate
from tests.chaos.faults_database import unharmed
from tests.chaos.run import LEFT_OUT, Run, Wrong, fault

PHASE = "database"


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
    await unharmed(run, views)
    return []


@fault("migrated under load", bar_s=10.0, phase=PHASE, share=2)
async def migrated(run: Run) -> list[float]:
    """the last migration is taken back and made again, by two runs of `migrate` at once, while calls are made"""
    url = run.site.database_url
    # With the last migration goes the column of idempotency keys: no call may rely on one meanwhile.
    keyed, run.load.keyed = run.load.keyed, 0.0
    await asyncio.sleep(2)
    views = await run.hold("probe", 4, seconds=6)
    at = time.time()
    await _unless_locked(lambda: migrate.downgrade(url, _before_the_last()))
    await asyncio.gather(*(_unless_locked(lambda: migrate.upgrade(url)) for _ in range(2)))
    there = time.time()
    run.load.keyed = keyed
    run.outages.append((at, there + 5))
    recovered = await run.started(await run.calls("doze", 4, seconds=0.1), there)
    rows = await run.site.sql(f"SELECT version_num FROM {migrate.VERSION_TABLE}")
    if [row["version_num"] for row in rows] != [migrate.head()]:
        raise Wrong(f"the schema is at {rows}, not at {migrate.head()}")
    await unharmed(run, views)
    return recovered


def _before_the_last() -> str:
    scripts = ScriptDirectory(str(migrate.scripts()))
    below = scripts.get_revision(migrate.head()).down_revision
    assert isinstance(below, str)
    return below


async def _unless_locked(work: Callable[[], None]) -> None:
    """Again while others keep the table from a migration, which gives up rather than hold them up."""
    for tries in range(20):
        try:
            await asyncio.to_thread(work)
        except StoreUnavailable:
            if tries == 19:
                raise
            await asyncio.sleep(0.5)
        else:
            return


async def _owner(run: Run, *statements: str) -> None:
    """Run these as somebody whom the settings below do not concern."""
    connection = await asyncpg.connect(
        run.site.database_url,
        server_settings={"application_name": "chaos", "default_transaction_read_only": "off", "statement_timeout": "0"},
    )
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _while_set(run: Run, variable: str, value: str, seconds: float, *, read: bool = False) -> list[float]:
    """Every session of the engine has this setting for some seconds. From their end on until new calls run.

    With `read` a task must be there to be read all the same.
    """
    anew = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskengine'"
    views = await run.hold("probe", 4, seconds=seconds + 3) + await run.hold("probe_sync", 1, seconds=seconds)
    at = time.time()
    await _owner(run, f"ALTER DATABASE taskengine SET {variable} = '{value}'", anew)
    try:
        meanwhile = await run.calls("doze", 4, seconds=0.1) + await run.calls("ask", 2)
        await asyncio.sleep(seconds - 1)
        if read and not await run.load.look(views[0], run.rng):
            raise Wrong("a task could not be read")
        await asyncio.sleep(1)
    finally:
        await _owner(run, f"ALTER DATABASE taskengine RESET {variable}", anew)
    over = time.time()
    run.outages.append((at, over + 5))
    recovered = await run.started(meanwhile + await run.calls("doze", 4, seconds=0.1), over)
    await unharmed(run, views)
    return recovered


@fault("Postgres takes no writes", bar_s=5.0, phase=PHASE, share=2)
async def read_only(run: Run) -> list[float]:
    """every session is read-only for 5 s, as after a failover to a standby (25006): tasks can be read; from when writes
    are taken again"""
    return await _while_set(run, "default_transaction_read_only", "on", 5.0, read=True)


@fault("statements out of time", bar_s=5.0, phase=PHASE, share=2)
async def out_of_time(run: Run) -> list[float]:
    """every statement that takes longer than 1 ms is cancelled for 4 s (`statement_timeout`); from when it is over"""
    return await _while_set(run, "statement_timeout", "1ms", 4.0)


@fault("transactions that conflict", bar_s=5.0, phase=PHASE, share=2)
async def conflicting(run: Run) -> list[float]:
    """for 5 s transactions are serializable, and fail when they meet (40001); from when it is over"""
    return await _while_set(run, "default_transaction_isolation", "serializable", 5.0)


LEFT_OUT["disk full"] = "needs a file system of its own; its error (53100) is of the class that is told as away"
