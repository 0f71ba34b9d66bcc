"""Tasks as the operator of the database sees them: of every owner, with what clients are not told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import ARRAY, Integer, cast, func, select

from taskengine.errors import TaskNotFound
from taskengine.lifecycle import Status
from taskengine.store import retention
from taskengine.store.database import Database
from taskengine.store.losses import by_task, reading
from taskengine.store.payload import load
from taskengine.store.tables import inputs, journal, logs, tasks

__all__ = ["Inspection"]

_ROW = (
    tasks.c.id,
    tasks.c.owner,
    tasks.c.tool,
    tasks.c.status,
    tasks.c.phase,
    tasks.c.is_error,
    tasks.c.status_message,
    tasks.c.attempt,
    tasks.c.created_at,
    tasks.c.updated_at,
    tasks.c.ended_at,
    tasks.c.expires_at,
)


class Inspection:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def owner(self, task_id: str) -> str:
        """Raises TaskNotFound."""
        found = await self._database.run(select(tasks.c.owner).where(tasks.c.id == task_id, retention.readable()))
        owner: str | None = found.scalar_one_or_none()
        if owner is None:
            raise TaskNotFound(task_id)
        return owner

    async def list(
        self,
        *,
        statuses: Iterable[Status] = (),
        tool: str | None = None,
        since: timedelta | None = None,
        limit: int = 50,
    ) -> Sequence[Mapping[str, Any]]:
        """The newest tasks first."""
        statement = select(*_ROW).where(retention.readable()).order_by(tasks.c.created_at.desc()).limit(limit)
        if wanted := list(statuses):
            statement = statement.where(tasks.c.status.in_(wanted))
        if tool is not None:
            statement = statement.where(tasks.c.tool == tool)
        if since is not None:
            statement = statement.where(tasks.c.created_at > func.now() - since)
        return [dict(row) for row in await self._database.run(statement)]

    async def show(self, task_id: str) -> Mapping[str, Any]:
        """Everything about one task, with its questions, journal and lost attempts. Raises TaskNotFound."""
        extra = (
            tasks.c.queue,
            tasks.c.worker_id,
            tasks.c.crashes,
            tasks.c.stopped_at,
            tasks.c.arguments,
            tasks.c.ran_ms,
            tasks.c.result,
            tasks.c.error,
            tasks.c.traceback,
        )
        found = await self._database.run(select(*_ROW, *extra).where(tasks.c.id == task_id, retention.readable()))
        row = found.one_or_none()
        if row is None:
            raise TaskNotFound(task_id)
        asked = await self._database.run(
            select(
                inputs.c.key,
                inputs.c.method,
                inputs.c.params,
                inputs.c.response,
                inputs.c.asked_at,
                inputs.c.answered_at,
            )
            .where(inputs.c.task_id == task_id)
            .order_by(inputs.c.asked_at, inputs.c.position)
        )
        questions = [
            {**each, "params": load(each["params"]), "response": each["response"] and load(each["response"])}
            for each in asked
        ]
        kept = await self._database.run(
            select(
                journal.c.path,
                journal.c.kind,
                journal.c.name,
                journal.c.done,
                journal.c.error,
                journal.c.tries,
                journal.c.due,
                journal.c.child_id,
                journal.c.attempt,
                journal.c.at,
            )
            .where(journal.c.task_id == task_id)
            .order_by(cast(func.string_to_array(journal.c.path, "."), ARRAY(Integer)))
        )
        lost = by_task(await self._database.run(reading([task_id])))
        losses = [asdict(loss) for loss in lost.get(task_id, [])]
        parsed = {name: row[name] and load(row[name]) for name in ("arguments", "result", "error")}
        entries = [dict(each) for each in kept]
        return {**row, **parsed, "questions": questions, "journal": entries, "losses": losses}

    async def logs(
        self, task_id: str, *, after: int = 0, limit: int = 1000, last: int | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """The task's log lines after the one with the id `after`, oldest first; or the `last` so many."""
        found = await self._database.run(
            select(logs.c.id, logs.c.at, logs.c.attempt, logs.c.level, logs.c.logger, logs.c.data)
            .where(logs.c.task_id == task_id, logs.c.id > after)
            .order_by(logs.c.id if last is None else logs.c.id.desc())
            .limit(limit if last is None else last)
        )
        lines = [{**row, "data": load(row["data"])} for row in found]
        return lines if last is None else lines[::-1]

    async def busy(self) -> int:
        """How many tasks run or wait for a worker; those that wait for answers do not count."""
        found = await self._database.run(select(func.count()).where(tasks.c.status == Status.WORKING))
        return int(found.scalar_one())
