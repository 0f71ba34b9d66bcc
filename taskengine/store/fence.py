"""The condition that every write of an attempt carries: the task is still held, under this number, by this worker."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    extract,
    func,
)
from sqlalchemy.sql.selectable import TableValuedAlias

from taskengine.records import Claim
from taskengine.store.statements import unindexed
from taskengine.store.tables import tasks

__all__ = ["fence", "holding", "holding_each", "ran_ms"]


def holding() -> ColumnElement[bool]:
    return and_(
        tasks.c.id == bindparam("task"),
        tasks.c.attempt == bindparam("current"),
        unindexed(tasks.c.worker_id) == bindparam("holder"),
    )


def holding_each(claims: TableValuedAlias) -> ColumnElement[bool]:
    """The same of several tasks, whose `task`, `current` and `holder` are the columns of `claims`."""
    return and_(
        # Also by the array: whatever Postgres expects of the join, the rows are found by their primary key.
        tasks.c.id == any_(bindparam("task", type_=ARRAY(Text))),
        tasks.c.id == claims.c.task,
        tasks.c.attempt == claims.c.current,
        unindexed(tasks.c.worker_id) == claims.c.holder,
    )


def fence(claim: Claim) -> dict[str, Any]:
    """The parameters of `holding`."""
    return {"task": claim.task_id, "current": claim.attempt, "holder": claim.worker_id}


def ran_ms() -> ColumnElement[int]:
    """The running time of the task, with that of the attempt that ends now."""
    running = cast(extract("epoch", func.clock_timestamp() - tasks.c.claimed_at) * 1000, BigInteger)
    return tasks.c.ran_ms + func.coalesce(running, 0)
