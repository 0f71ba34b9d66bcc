"""How long a task is kept: `ttl_ms` from creation, ahead of a task that is alive.

`ttl_ms` starts as the tool's ttl (`base_ttl_ms`). While the task lives it grows by whole multiples of it, so that at
least half a ttl always remains, also for reading the result of a task that has just ended (A-34).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, extract, func, literal_column, or_

from taskengine.lifecycle import Phase
from taskengine.store.tables import tasks

__all__ = ["ahead", "readable"]

_MILLISECOND: ColumnElement[timedelta] = literal_column("interval '1 millisecond'")


def ahead() -> dict[str, ColumnElement[Any]]:
    """The SET of both columns for a task that is alive, or is just ending."""
    age_ms = cast(extract("epoch", func.clock_timestamp() - tasks.c.created_at) * 1000, BigInteger)
    base = tasks.c.base_ttl_ms
    ttl_ms = func.greatest(tasks.c.ttl_ms, base * (1 + (age_ms + base // 2) // base), type_=BigInteger)
    return {"ttl_ms": ttl_ms, "expires_at": tasks.c.created_at + ttl_ms * _MILLISECOND}


def from_creation(now: ColumnElement[datetime], ttl_ms: ColumnElement[int]) -> ColumnElement[datetime]:
    return now + ttl_ms * _MILLISECOND


def readable() -> ColumnElement[bool]:
    """A task that lives, or whose retention has not passed: anything else is not found."""
    return or_(tasks.c.phase != Phase.DONE, tasks.c.expires_at > func.clock_timestamp())
