"""The periodic repairs of tasks: doorbells rung again, retention kept ahead, expired rows swept.

Every worker runs them. They take rows with SKIP LOCKED, so they need no leader and never wait for each other.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, literal_column, or_, select, update

from taskengine.lifecycle import Event, Phase, Status, sources
from taskengine.records import Doorbell
from taskengine.store import channels, retention
from taskengine.store.children import parent_alive
from taskengine.store.database import Database
from taskengine.store.endings import ending, withdraw
from taskengine.store.queues import paused
from taskengine.store.tables import tasks

__all__ = ["Upkeep"]

_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")
# What these statements compare with is `statement_timestamp`: an index is of no use against `clock_timestamp`, which
# is another at every row.
COUNTED = 10_000
EXTEND_WITHIN_S = 60
"""A live task whose retention ends within this time gets more."""


class Upkeep:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, rung_before_s: float) -> dict[str, int]:
        """How many tasks of each queue wait for a worker although their doorbell was rung that long ago.

        It counts at most `COUNTED` of them: beyond that the exact length of a backlog decides nothing.
        """
        waiting = select(tasks.c.queue).where(*_unheard(rung_before_s)).limit(COUNTED).subquery()
        rows = await self._database.run(select(waiting.c.queue, func.count().label("due")).group_by(waiting.c.queue))
        return {row.queue: row.due for row in rows}

    async def ring_again(self, queue: str, rung_before_s: float, limit: int) -> list[Doorbell]:
        """Take up to `limit` of them, oldest first, as rung now; their doorbells are for the caller to ring."""
        taken = (
            select(tasks.c.id)
            .where(tasks.c.queue == queue, *_unheard(rung_before_s))
            .order_by(tasks.c.created_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        rung = await self._database.run(
            update(tasks)
            .where(tasks.c.id.in_(taken))
            .values(rung_at=func.now())
            .returning(tasks.c.id, tasks.c.attempt, tasks.c.queue)
        )
        return [Doorbell(row.id, row.attempt + 1, row.queue) for row in rung]

    async def extend(self) -> int:
        """Keep the retention of live tasks ahead of them; how many got more."""
        more = retention.ahead()
        soon = func.statement_timestamp() + EXTEND_WITHIN_S * _SECOND
        taken = (
            select(tasks.c.id)
            .where(tasks.c.phase != Phase.DONE, tasks.c.expires_at < soon, tasks.c.ttl_ms < more["ttl_ms"])
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        extended = await self._database.run(update(tasks).where(tasks.c.id.in_(taken)).values(**more))
        return extended.rowcount

    async def expire(self, max_wait_s: float, error: str, limit: int = 500) -> int:
        """Fail tasks that have waited for answers since longer ago than that; how many."""
        stale = (
            select(tasks.c.id)
            .where(tasks.c.phase.in_(sources(Event.EXPIRE)), tasks.c.status == Status.INPUT_REQUIRED)
            .where(tasks.c.updated_at < func.statement_timestamp() - max_wait_s * _SECOND)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        expired = (
            update(tasks)
            .where(tasks.c.id.in_(stale))
            .values(**ending(Event.EXPIRE), error=error, status_message="Nobody answered in time")
            .returning(tasks.c.id)
            .cte("expired")
        )
        async with self._database.transaction() as connection:
            told = await connection.execute(channels.telling(expired, expired.c.id))
            ids = [row.id for row in told]
            await connection.execute(withdraw(tasks.c.id.in_(ids)))
        return len(ids)

    async def sweep(self, limit: int = 1000) -> int:
        """Delete one batch of ended tasks whose retention has passed; how many.

        A task that another one called is kept while that one lives, which may still read its result.
        """
        expired = (
            select(tasks.c.id)
            .where(tasks.c.phase == Phase.DONE, tasks.c.expires_at < func.statement_timestamp())
            .where(or_(tasks.c.parent.is_(None), ~parent_alive()))
            .order_by(tasks.c.expires_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        return (await self._database.run(delete(tasks).where(tasks.c.id.in_(expired)))).rowcount


def _unheard(rung_before_s: float) -> tuple[ColumnElement[bool], ...]:
    return (
        tasks.c.phase == Phase.QUEUED,
        tasks.c.blocked_by.is_(None),
        ~paused(tasks.c.queue),
        func.coalesce(tasks.c.rung_at, tasks.c.created_at) < func.statement_timestamp() - rung_before_s * _SECOND,
    )
