"""How the janitor sweeps: a little at a time, and much at a time once it is behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg
import pytest

from taskengine.jobs import janitor
from taskengine.jobs.bell import Bell
from taskengine.jobs.janitor import Janitor
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.upkeep import SWEEPING, Swept
from tests.store.calls import OWNER, stored
from tests.store.sql import execute

MADE = 2 * janitor.SWEEP_BATCH + 1


@asynccontextmanager
async def holding(url: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(url)
    await connection.execute("SELECT pg_advisory_lock($1)", SWEEPING)
    yield
    await connection.close()


@pytest.mark.parametrize("behind", [False, True])
async def test_it_sweeps_to_the_last_in_small_batches_and_in_large_ones_when_it_is_behind(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    monkeypatch.setattr(janitor, "BEHIND_S", 0.0 if behind else 600.0)
    store = await Store.open(settings)
    try:
        for _ in range(MADE):
            await store.tasks.cancel((await stored(store)).task_id, OWNER)
        await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 s'")
        batches: list[tuple[int, int]] = []
        sweep = store.upkeep.sweep

        async def counted(limit: int = 1000, after: datetime | None = None) -> Swept:
            swept = await sweep(limit, after)
            batches.append((limit, swept.tasks))
            return swept

        monkeypatch.setattr(store.upkeep, "sweep", counted)
        keeper = Janitor(store, Bell(settings), settings)
        monkeypatch.setattr(keeper, "_list", lambda _: ())  # the look alone, which tells since when it is so
        await keeper._look()
        since = keeper._behind_since
        assert since is not None
        async with holding(database_url):  # as another worker that sweeps
            await keeper.sweep()
        assert batches.pop() == (janitor.BEHIND_BATCH if behind else janitor.SWEEP_BATCH, 0)
        assert keeper._behind_since == since, "it has not"
        await keeper.sweep()
        small, large = janitor.SWEEP_BATCH, janitor.BEHIND_BATCH
        assert batches == ([(large, MADE)] if behind else [(small, small), (small, small), (small, 1)])
        assert await execute(database_url, "SELECT 1 FROM tasks") == []
        assert keeper._behind_since is None, "it has caught up"
    finally:
        await store.close()
