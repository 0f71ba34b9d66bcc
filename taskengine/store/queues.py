"""Queues as an operator sees them: how much waits in each, and which are paused.

A paused queue accepts calls and runs none; what runs already goes on, and what waits for an answer is asked on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from taskengine.store.database import Database
from taskengine.store.tables import queues, tasks
from taskengine.store.turns import QUEUED
from taskengine.tool import SYNC_SUFFIX

__all__ = ["Queues", "paused"]


def paused(route: ColumnElement[str]) -> ColumnElement[bool]:
    """The route is one of a paused queue."""
    return exists().where(or_(queues.c.name == route, queues.c.name + SYNC_SUFFIX == route))


class Queues:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def pause(self, name: str, reason: str | None = None) -> None:
        """No task of the queue is claimed from now on; again changes the reason."""
        paused_now = insert(queues).values(name=name, reason=reason)
        await self._database.run(
            paused_now.on_conflict_do_update(index_elements=["name"], set_={"reason": paused_now.excluded.reason})
        )

    async def resume(self, name: str) -> bool:
        """The queue is run again; the relay rings for what waits in it. False when it was not paused."""
        gone = delete(queues).where(queues.c.name == name).returning(queues.c.name)
        return bool(await self._database.run(gone))

    async def paused(self) -> list[dict[str, Any]]:
        """Every paused queue: name, paused_at, reason."""
        rows = await self._database.run(select(queues).order_by(queues.c.name))
        return [dict(row) for row in rows]

    async def waiting(self) -> Sequence[Mapping[str, Any]]:
        """Per queue: name, how many tasks wait for a worker, and how many of those a limit holds back."""
        name = func.regexp_replace(tasks.c.queue, rf"{SYNC_SUFFIX.replace('.', '[.]')}$", "").label("name")
        rows = await self._database.run(
            select(name, func.count().label("waiting"), func.count(tasks.c.blocked_by).label("blocked"))
            .where(tasks.c.phase == QUEUED)
            .group_by(name)
            .order_by(name)
        )
        return [dict(row) for row in rows]
