"""What comes after a cancel: that the run has stopped, and who cleans up after it.

A cancelled row keeps its status and outcome for ever (M-TASK-28). Two columns tell what happened to the run: `stopper`,
the worker that had it and stops it, and `stopped_at`, when that was over. With the second comes the one addition to the
status message that a row gets after its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Numeric,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    exists,
    extract,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from taskengine.lifecycle import Status
from taskengine.store.database import Database
from taskengine.store.endings import touched
from taskengine.store.payload import load
from taskengine.store.statements import prepared, unindexed
from taskengine.store.tables import tasks, workers

__all__ = ["Stops", "Unfinished"]

_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")
_OPEN = and_(tasks.c.status == Status.CANCELLED, tasks.c.stopped_at.is_(None), tasks.c.attempt > literal_column("0"))
"""As the partial index `ix_tasks_stopping` has it."""
_OPEN_BY_ID = and_(unindexed(tasks.c.status) == Status.CANCELLED.value, tasks.c.stopped_at.is_(None))
"""The same of a task that is named, with its attempt."""

_WORKER = bindparam("worker", type_=Text)
_BEGIN = prepared(
    update(tasks)
    .where(tasks.c.id == bindparam("task", type_=Text), tasks.c.attempt == bindparam("current", type_=Integer))
    .where(_OPEN_BY_ID, or_(tasks.c.stopper.is_(None), tasks.c.stopper == _WORKER))
    .values(stopper=_WORKER)
    .returning(tasks.c.id)
)

NOTICED_WITHIN_S = 2.0
"""An attempt that lingers hears of a cancel at once, and looks for itself when it has lingered to the end."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A cancelled task whose function had begun, and after which nobody has cleaned up."""

    task_id: str
    attempt: int
    tool: str
    arguments: Mapping[str, Any]


class Stops:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, task_id: str, attempt: int, worker_id: str) -> bool:
        """Make the worker the stopper, if the task was cancelled in this attempt and nothing has been noted of it yet.

        False as well when another worker has taken it up. An attempt that lingered had no holder when its task was
        cancelled, and makes itself known by this.
        """
        return bool(await self._database.run(_BEGIN, {"task": task_id, "current": attempt, "worker": worker_id}))

    async def note(self, task_id: str, attempt: int, how: str, then: str = "", since_s: float = 0.0) -> bool:
        """Say once how the run ended: "Cancelled; the tool stopped after 3.1 s, cleaned up". Whether it was said.

        The seconds are those from the cancel until `since_s` ago, by the database's clock. `updated_at` moves, for a
        client can see the change (A-36). The number of the attempt is the condition: the task has no holder any more.
        """
        stopped_at = func.clock_timestamp() - since_s * _SECOND
        seconds = func.greatest(func.round(cast(extract("epoch", stopped_at - tasks.c.ended_at), Numeric), 1), 0)
        noted = await self._database.run(
            update(tasks)
            .where(tasks.c.id == task_id, tasks.c.attempt == attempt, _OPEN_BY_ID)
            .values(
                stopped_at=stopped_at,
                status_message=func.concat(tasks.c.status_message, f"; {how} after ", seconds, f" s{then}"),
                **touched(),
            )
            .returning(tasks.c.id)
        )
        return bool(noted)

    async def take(self, worker_id: str, tools: Sequence[str], patience_s: float, limit: int = 3) -> list[Unfinished]:
        """Make the worker the stopper of cancelled tasks of these tools that have none; what was tried last comes last.

        That is: nobody held the task when it was cancelled, or the one who did has died, or has not been done with it
        `patience_s` after the cancel. One whose attempt lingered is left to that until it must have noticed. Few at a
        time, so that other workers have their share of what a dead one leaves.
        """
        lingers = tasks.c.kept_until > func.statement_timestamp() - NOTICED_WITHIN_S * _SECOND
        nobody = and_(tasks.c.stopper.is_(None), or_(tasks.c.kept_until.is_(None), ~lingers))
        gone = ~exists().where(workers.c.id == tasks.c.stopper)
        late = tasks.c.updated_at < func.statement_timestamp() - patience_s * _SECOND
        taken = (
            select(tasks.c.id)
            .where(_OPEN, tasks.c.tool == any_(literal(list(tools), ARRAY(Text))))
            .where(or_(nobody, and_(tasks.c.stopper.is_not(None), gone), late))
            .order_by(tasks.c.updated_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        rows = await self._database.run(
            update(tasks)
            .where(tasks.c.id.in_(taken))
            .values(stopper=worker_id, **touched())
            .returning(tasks.c.id, tasks.c.attempt, tasks.c.tool, tasks.c.arguments)
        )
        opened = self._database.sealing.open
        return [
            Unfinished(row.id, row.attempt, row.tool, load(opened(row.id, "arguments", row.arguments))) for row in rows
        ]
