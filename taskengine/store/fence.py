"""The condition that every write of an attempt carries: the task is still held, under this number, by this worker."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, bindparam, cast, extract, func

from taskengine.records import Claim
from taskengine.store.tables import tasks

__all__ = ["fence", "holding", "ran_ms"]


def holding() -> ColumnElement[bool]:
    return and_(
        tasks.c.id == bindparam("task"),
        tasks.c.attempt == bindparam("current"),
        tasks.c.worker_id == bindparam("holder"),
    )


def fence(claim: Claim) -> dict[str, Any]:
    """The parameters of `holding`."""
    return {"task": claim.task_id, "current": claim.attempt, "holder": claim.worker_id}


def ran_ms() -> ColumnElement[int]:
    """The running time of the task, with that of the attempt that ends now."""
    running = cast(extract("epoch", func.clock_timestamp() - tasks.c.claimed_at) * 1000, BigInteger)
    return tasks.c.ran_ms + func.coalesce(running, 0)
