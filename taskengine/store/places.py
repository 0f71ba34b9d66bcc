"""How many tasks stand before one that waits for a worker: for its status message, when somebody asks.

Nothing is stored, since each claim would change it for all behind. It is counted when a queued task is read, from the
index of the queue's order and up to `MOST`, so a poll reads few entries however long the backlog is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal, select, tuple_

from taskengine.store.queues import paused
from taskengine.store.tables import tasks
from taskengine.store.turns import QUEUED

__all__ = ["MOST", "place", "with_place"]

MOST = 100
PAUSED = -1

_before = tasks.alias("before")


def _count(*which: ColumnElement[bool]) -> ColumnElement[int]:
    found = select(literal(1).label("one")).where(_before.c.phase == QUEUED, *which).limit(MOST + 1).correlate(tasks)
    return select(func.count()).select_from(found.subquery()).correlate(tasks).scalar_subquery()


def _ahead(*line: ColumnElement[bool]) -> ColumnElement[int]:
    """Two ranges of an index, each read from its beginning."""
    higher = _before.c.priority > tasks.c.priority
    sooner = tuple_(_before.c.turn, _before.c.created_at) < tuple_(tasks.c.turn, tasks.c.created_at)
    return _count(*line, higher) + _count(*line, and_(_before.c.priority == tasks.c.priority, sooner))


def place() -> ColumnElement[Any]:
    """Of a queued task: `PAUSED`, or how many stand before it; NULL of any other. Past `MOST` it is not exact."""
    due = _ahead(_before.c.queue == tasks.c.queue, _before.c.blocked_by.is_(None))
    blocked = _ahead(_before.c.blocked_by == tasks.c.blocked_by, _before.c.blocked_by.is_not(None))
    waits = case((tasks.c.blocked_by.is_(None), due), else_=blocked)
    return case(
        (and_(tasks.c.phase == QUEUED, paused(tasks.c.queue)), literal(PAUSED)), (tasks.c.phase == QUEUED, waits)
    )


def with_place(message: str | None, where: int | None) -> str | None:
    """The status message of a task that waits, with its place."""
    if where is None or not where:
        return message
    if where == PAUSED:
        return "Waiting: its queue is paused"
    before = f"more than {MOST}" if where > MOST else str(where)
    return f"{message or 'Waiting'}, {before} before it"
