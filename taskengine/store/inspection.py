"""Tasks as the operator of the database sees them: of every owner, with what clients are not told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import ARRAY, Integer, case, cast, func, select

from taskengine.errors import TaskNotFound, Unreadable
from taskengine.lifecycle import Status
from taskengine.sensitive import shown_line, without_sensitive
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
    tasks.c.sensitive,
)

_TO_HIDE = case((tasks.c.sensitive.is_not(None), tasks.c.arguments)).label("arguments")
"""The arguments, where they are needed to know what must not be shown."""


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

    async def hidden(self, task_id: str) -> tuple[Mapping[str, Any], Sequence[str]]:
        """What an operator must not see of a task: its arguments, and the names of those that are sensitive. Raises
        TaskNotFound."""
        wanted = select(tasks.c.sensitive, _TO_HIDE).where(tasks.c.id == task_id, retention.readable())
        row = (await self._database.run(wanted)).one_or_none()
        if row is None:
            raise TaskNotFound(task_id)
        names = _names(row["sensitive"])
        return load(self._database.sealing.open(task_id, "arguments", row["arguments"])) if names else {}, names

    async def list(
        self,
        *,
        statuses: Iterable[Status] = (),
        tool: str | None = None,
        since: timedelta | None = None,
        limit: int = 50,
    ) -> Sequence[Mapping[str, Any]]:
        """The newest tasks first."""
        statement = select(*_ROW, _TO_HIDE).where(retention.readable()).order_by(tasks.c.created_at.desc()).limit(limit)
        if wanted := list(statuses):
            statement = statement.where(tasks.c.status.in_(wanted))
        if tool is not None:
            statement = statement.where(tasks.c.tool == tool)
        if since is not None:
            statement = statement.where(tasks.c.created_at > func.now() - since)
        return [self._listed(dict(row)) for row in await self._database.run(statement)]

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
        opened = partial(self._database.sealing.open, task_id)
        questions = []
        for each in asked:
            params, response = opened(f"question {each['key']}", each["params"]), each["response"]
            answer = None if response is None else load(opened(f"answer {each['key']}", response))
            questions.append({**each, "params": load(params), "response": answer})
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
        texts = {name: opened(name, row[name]) for name in ("status_message", "traceback")}
        parsed = {name: row[name] and load(opened(name, row[name])) for name in ("arguments", "result", "error")}
        entries = [{**each, "error": opened(f"journal error {each['path']}", each["error"])} for each in kept]
        hidden = {"sensitive": _names(row["sensitive"])}
        found_of = {**row, **texts, **parsed, **hidden, "questions": questions, "journal": entries, "losses": losses}
        return without_sensitive(found_of)

    async def logs(
        self, task_id: str, *, after: int = 0, limit: int = 1000, last: int | None = None
    ) -> Sequence[Mapping[str, Any]]:
        """The task's log lines after the one with the id `after`, oldest first; or the `last` so many."""
        found = await self._database.run(
            select(
                logs.c.id,
                logs.c.at,
                logs.c.attempt,
                logs.c.level,
                logs.c.logger,
                logs.c.data,
                tasks.c.sensitive,
                _TO_HIDE,
            )
            .join(tasks, tasks.c.id == logs.c.task_id)
            .where(logs.c.task_id == task_id, logs.c.id > after)
            .order_by(logs.c.id if last is None else logs.c.id.desc())
            .limit(limit if last is None else last)
        )
        lines = [self._line(task_id, dict(row)) for row in found]
        return lines if last is None else lines[::-1]

    def _line(self, task_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
        opened = partial(self._database.sealing.open, task_id)
        line = {**row, "logger": opened("logger", row["logger"]), "data": load(opened("logs", row["data"]))}
        names, arguments = _names(line.pop("sensitive")), line.pop("arguments")
        if names:
            line.update(shown_line(line["logger"], line["data"], load(opened("arguments", arguments)), names))
        return line

    def _listed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        opened = partial(self._database.sealing.open, row["id"])
        try:
            texts: dict[str, Any] = {"status_message": opened("status_message", row["status_message"])}
            texts["arguments"] = row["arguments"] and load(opened("arguments", row["arguments"]))
        except Unreadable as error:  # one such task must not hide all the others
            texts = {"status_message": f"({error.why})", "arguments": None}
        shown = without_sensitive({**row, **texts, "sensitive": _names(row["sensitive"])})
        return {name: value for name, value in shown.items() if name != "arguments"}

    async def busy(self) -> int:
        """How many tasks run or wait for a worker; those that wait for answers do not count."""
        found = await self._database.run(select(func.count()).where(tasks.c.status == Status.WORKING))
        return int(found.scalar_one())


def _names(stored: str | None) -> list[str]:
    return [] if stored is None else load(stored)
