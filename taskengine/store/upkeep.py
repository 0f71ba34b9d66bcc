"""The periodic repairs of tasks: doorbells rung again, retention kept ahead, expired rows swept.

Every worker runs them. They take rows with SKIP LOCKED, so they need no leader and never wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import (
    Boolean,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    ScalarSelect,
    and_,
    bindparam,
    delete,
    exists,
    extract,
    false,
    func,
    literal_column,
    or_,
    select,
    update,
)

from taskengine.lifecycle import Event, Phase, Status, sources
from taskengine.records import Doorbell
from taskengine.store import channels, retention
from taskengine.store.children import parent_alive
from taskengine.store.database import Database
from taskengine.store.endings import ending, withdraw
from taskengine.store.queues import paused
from taskengine.store.statements import prepared
from taskengine.store.tables import tasks
from taskengine.store.workers import may_be_dead, orphaned, suspecting

__all__ = ["Due", "Swept", "Upkeep"]

_T = TypeVar("_T")
_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")
# What these statements compare with is `statement_timestamp`: an index is of no use against `clock_timestamp`, which
# is another at every row.
COUNTED = 10_000
_EVER: ColumnElement[datetime] = literal_column("'-infinity'::timestamptz")
SWEEPING = 0x73776565
"""Key of the advisory lock that one batch of the sweep holds."""
EXTEND_WITHIN_S = 60
"""A live task whose retention ends within this time gets more."""


def _unheard(rung_before_s: float | ColumnElement[float]) -> tuple[ColumnElement[bool], ...]:
    return (
        tasks.c.phase == Phase.QUEUED,
        tasks.c.blocked_by.is_(None),
        ~paused(tasks.c.queue),
        func.coalesce(tasks.c.rung_at, tasks.c.created_at) < func.statement_timestamp() - rung_before_s * _SECOND,
    )


@dataclass(frozen=True, slots=True)
class Due:
    """What the repairs would find: a look that costs one statement when there is nothing to do."""

    dead: bool
    """A worker may be dead."""
    held_by_nobody: bool
    """A task is held by a worker that is not registered. Only looked for when asked."""
    unheard: bool
    """A task waits for a worker although its doorbell was rung long ago."""
    wake_in_s: float | None
    """Seconds until the next timer, not positive when one is due; None without any."""
    blocked: bool
    """A limit of its tool holds a task back."""
    parents: bool
    """A task waits for others that it called."""
    children: bool
    """A task that another one called is alive."""
    ending: bool
    """The retention of a live task ends soon."""
    expired: bool
    """The retention of an ended task is over."""


@dataclass(frozen=True, slots=True)
class Swept:
    """A batch of deleted tasks."""

    tasks: int
    until: datetime | None
    """All that had expired before this, and was free to go, has gone; None when nothing went."""


_lease_s: ColumnElement[float] = bindparam("lease_s", type_=Double)
_suspected = suspecting(_lease_s)


def _first(column: ColumnElement[_T], *conditions: ColumnElement[bool]) -> ScalarSelect[_T]:
    """The least value, by the index that has it: an EXISTS might be tempted to read the whole table."""
    return select(column).where(*conditions).order_by(column).limit(1).scalar_subquery()


_LOOK = prepared(
    select(
        may_be_dead().label("dead"),
        and_(bindparam("thorough", type_=Boolean), exists().where(orphaned(_lease_s))).label("held_by_nobody"),
        exists().where(*_unheard(bindparam("rung_before_s", type_=Double))).label("unheard"),
        extract(
            "epoch",
            _first(tasks.c.wake_at, tasks.c.phase == Phase.WAITING, tasks.c.wake_at.is_not(None))
            - func.clock_timestamp(),
        ).label("wake_in_s"),
        exists().where(tasks.c.phase == Phase.QUEUED, tasks.c.blocked_by.is_not(None)).label("blocked"),
        exists().where(tasks.c.phase == Phase.WAITING, tasks.c.wake_open.is_not(None)).label("parents"),
        exists().where(tasks.c.parent.is_not(None), tasks.c.phase != Phase.DONE).label("children"),
        func.coalesce(
            _first(tasks.c.expires_at, tasks.c.phase != Phase.DONE)
            < func.statement_timestamp() + EXTEND_WITHIN_S * _SECOND,
            false(),
        ).label("ending"),
        func.coalesce(
            _first(tasks.c.expires_at, tasks.c.phase == Phase.DONE) < func.statement_timestamp(), false()
        ).label("expired"),
    ).add_cte(_suspected)
)

_expired = (
    select(tasks.c.id)
    .where(tasks.c.phase == Phase.DONE, tasks.c.expires_at < func.statement_timestamp())
    .where(tasks.c.expires_at >= func.coalesce(bindparam("after", type_=DateTime(timezone=True)), _EVER))
    .where(or_(tasks.c.parent.is_(None), ~parent_alive()))
    .where(select(func.pg_try_advisory_xact_lock(SWEEPING)).scalar_subquery())
    .order_by(tasks.c.expires_at)
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
    .cte("expired")
)
_swept = delete(tasks).where(tasks.c.id == _expired.c.id).returning(tasks.c.expires_at).cte("swept")
_SWEEP = prepared(select(func.count().label("swept"), func.max(_swept.c.expires_at).label("until")))


class Upkeep:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def look(self, lease_s: float, rung_before_s: float, *, thorough: bool = False) -> Due:
        """What is to be done now. It notes since when each worker's presence lock is free (see `workers`)."""
        values = {"lease_s": lease_s, "rung_before_s": rung_before_s, "thorough": thorough}
        (row,) = await self._database.run(_LOOK, values)
        seconds = None if row.wake_in_s is None else float(row.wake_in_s)
        return Due(**{**row, "wake_in_s": seconds})

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
        extended = await self._database.run(
            update(tasks).where(tasks.c.id.in_(taken)).values(**more).returning(tasks.c.id)
        )
        return len(extended)

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

    async def sweep(self, limit: int = 1000, after: datetime | None = None) -> Swept:
        """Delete up to `limit` ended tasks whose retention has passed, oldest first, with everything of theirs.

        `after` is where an earlier batch stopped: the next one need not walk over what that has left in the index.
        One sweep goes on at a time, however many workers there are; another one's batch is empty meanwhile. A task
        that another one called is kept while that one lives, which may still read its result.
        """
        (row,) = await self._database.run(_SWEEP, {"limit": limit, "after": after})
        return Swept(row.swept, row.until)
