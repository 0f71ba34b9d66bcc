"""Races that are made, not awaited: all moves are at the start, or wait behind one row, before any is let go.

Two connections beside the store: one holds what all need, the other sees that each of them waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

__all__ = ["Stage"]

_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
Move = Callable[[], Awaitable[Any]]


class Stage:
    def __init__(self, holder: asyncpg.Connection[Any], looker: asyncpg.Connection[Any]) -> None:
        self._holder = holder
        self._looker = looker

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str) -> AsyncIterator[Stage]:
        holder, looker = await asyncpg.connect(url), await asyncpg.connect(url)
        try:
            yield cls(holder, looker)
        finally:
            await holder.close()
            await looker.close()

    async def behind(self, task_id: str, moves: Sequence[Move]) -> list[Any]:
        """Start all while the row of the task is held, and let it go once each waits for a lock or has ended.

        Each begins when the one before it waits, and Postgres gives a row to those who wait for it in their order. What
        takes rows with SKIP LOCKED does not wait, and passes this one over.
        """
        return await self._at("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", [task_id], moves)

    async def together(self, moves: Sequence[Move]) -> list[Any]:
        """Start all while nobody can read the table of tasks, and let them go at one moment, in no order."""
        return await self._at("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE", [], moves)

    async def _at(self, hold: str, values: Sequence[Any], moves: Sequence[Move]) -> list[Any]:
        """What each returned."""
        started: list[asyncio.Future[Any]] = []
        async with self._holder.transaction():
            await self._holder.execute(hold, *values)
            for move in moves:
                started.append(asyncio.ensure_future(move()))
                while await self._waiting() + sum(each.done() for each in started) < len(started):
                    await asyncio.sleep(0.001)
        return list(await asyncio.gather(*started))

    async def _waiting(self) -> int:
        return int(await self._looker.fetchval(_BLOCKED))
