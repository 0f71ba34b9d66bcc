"""The short history of a task's lost attempts: at most `max_crashes` rows, gone with their task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ARRAY, CTE, BigInteger, Executable, Insert, Integer, Text, any_, literal, select
from sqlalchemy.dialects.postgresql import insert

from taskengine.losses import Loss
from taskengine.store.tables import losses

__all__ = ["by_task", "noting", "reading"]

_COLUMNS = ("task_id", "attempt", "worker_id", "cause", "signal", "exit_code", "peak_bytes")


def noting(changed: CTE, loss: Loss) -> Insert:
    """Record the loss for every row of `changed` (`id`): part of the statement that takes the attempt away.

    Repeated for the same attempt it changes nothing.
    """
    row = select(
        changed.c.id,
        literal(loss.attempt, Integer),
        literal(loss.worker, Text),
        literal(loss.cause, Text),
        literal(loss.signal, Text),
        literal(loss.exit_code, Integer),
        literal(loss.peak_bytes, BigInteger),
    )
    return insert(losses).from_select(list(_COLUMNS), row).on_conflict_do_nothing()


def reading(task_ids: Iterable[str]) -> Executable:
    """The losses of these tasks, oldest first; for `by_task`."""
    wanted = literal(list(task_ids), ARRAY(Text))
    return select(losses).where(losses.c.task_id == any_(wanted)).order_by(losses.c.task_id, losses.c.attempt)


def by_task(rows: Iterable[Any]) -> dict[str, list[Loss]]:
    found: dict[str, list[Loss]] = {}
    for row in rows:
        loss = Loss(row.cause, row.signal, row.exit_code, row.peak_bytes, row.attempt, row.worker_id, row.at)
        found.setdefault(row.task_id, []).append(loss)
    return found
