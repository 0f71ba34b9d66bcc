"""Tasks as their owners see them: one, those that are named, and lists."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from taskengine.errors import TaskNotFound
from taskengine.lifecycle import Phase, Status
from taskengine.records import LogLine, TaskRecord
from taskengine.store import retention
from taskengine.store.batches import Batches
from taskengine.store.database import Database, Row
from taskengine.store.payload import load, questions_of
from taskengine.store.places import place, with_place
from taskengine.store.sealing import Sealing
from taskengine.store.statements import prepared, unindexed
from taskengine.store.tables import inputs, logs, tasks

__all__ = ["LARGE_BYTES", "VISIBLE", "Reads", "record"]

_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")

_open_questions = (
    select(
        func.json_agg(
            aggregate_order_by(
                func.json_build_array(inputs.c.key, inputs.c.method, inputs.c.params), inputs.c.position, inputs.c.key
            )
        )
    )
    .where(inputs.c.task_id == tasks.c.id, inputs.c.response.is_(None))
    .scalar_subquery()
)

VISIBLE = (
    tasks.c.id,
    tasks.c.tool,
    tasks.c.status,
    tasks.c.phase,
    tasks.c.attempt,
    tasks.c.status_message,
    tasks.c.progress,
    tasks.c.progress_total,
    tasks.c.progress_message,
    tasks.c.result,
    tasks.c.is_error,
    tasks.c.error,
    tasks.c.created_at,
    tasks.c.updated_at,
    func.clock_timestamp().label("now"),
    tasks.c.ttl_ms,
    tasks.c.poll_interval_ms,
    # A task that goes on while it asks may get its answers all the same; one that has never run asks nothing.
    case((and_(tasks.c.phase != Phase.DONE, tasks.c.attempt > 0), _open_questions)).label("open_questions"),
    tasks.c.session,
    tasks.c.progress_token,
)
"""In the order of the members of a `TaskRecord`."""
_SEALED = ((5, "status_message"), (8, "progress_message"), (9, "result"), (11, "error"))
"""Where among these what is sealed stands, and what it was sealed as."""


def _without(names: Collection[str]) -> tuple[ColumnElement[Any], ...]:
    return tuple(cast(null(), Text).label(each.name) if each.name in names else each for each in VISIBLE)


_LISTED = _without({"result"})
"""The same without results, which may be large and which no list shows."""
_HEAD = _without({"result", "error", "open_questions"})
"""The same without anything that is as large as a tool makes it."""
LARGE_BYTES = 256 * 1024
"""A result that is larger is not read together with what others poll, but by itself."""
_IS_LARGE = func.octet_length(tasks.c.result) > literal_column(str(LARGE_BYTES))
_POLLED = [
    case((not_(_IS_LARGE), tasks.c.result)).label("result") if column is tasks.c.result else column
    for column in VISIBLE
]

_OWNER = bindparam("owner", type_=Text)
_LIMIT: Any = bindparam("limit", type_=Integer)


def _named(columns: Iterable[ColumnElement[Any]], ids: ColumnElement[bool]) -> Select[Any]:
    return select(*columns).where(ids, unindexed(tasks.c.owner) == _OWNER, retention.readable())


def _newest(columns: Iterable[ColumnElement[Any]], *conditions: ColumnElement[bool]) -> Select[Any]:
    found = select(*columns).where(tasks.c.owner == _OWNER, retention.readable(), *conditions)
    return found.order_by(tasks.c.created_at.desc(), tasks.c.id.desc()).limit(_LIMIT)


_THIS = tasks.c.id == bindparam("task_id", type_=Text)
_THESE = tasks.c.id == any_(bindparam("task_ids", type_=ARRAY(Text)))
_GET = prepared(_named([*_POLLED, tasks.c.owner, place().label("place"), _IS_LARGE.label("large")], _THIS))
_GET_LARGE = prepared(_named(VISIBLE, _THIS))
_GET_MANY = prepared(_named(VISIBLE, _THESE))
_HEADS = prepared(_named(_HEAD, _THESE))

_before = tuple_(bindparam("made_at", type_=DateTime(timezone=True)), bindparam("made_id", type_=Text))
_PAGE = prepared(_newest(_HEAD))
_NEXT_PAGE = prepared(_newest(_HEAD, tuple_(tasks.c.created_at, tasks.c.id) < _before))

_alive = tasks.c.phase != Phase.DONE
_of_session = tasks.c.session == bindparam("session", type_=Text)
_changed = tasks.c.updated_at > bindparam("since", type_=DateTime(timezone=True))
_OF_SESSION = prepared(_newest(_HEAD, _of_session, _alive))
_OF_SESSION_SINCE = prepared(_newest(_HEAD, _of_session, or_(_alive, _changed)))

_ended_after = func.clock_timestamp() - bindparam("ended_within_s", type_=Float) * _SECOND
_RECENT = prepared(_newest(_LISTED, or_(_alive, tasks.c.ended_at > _ended_after)))

_LINES = prepared(
    select(logs.c.id, logs.c.level, logs.c.logger, logs.c.data, logs.c.at)
    .join(tasks, tasks.c.id == logs.c.task_id)
    .where(
        logs.c.task_id == bindparam("task_id", type_=Text),
        unindexed(tasks.c.owner) == _OWNER,
        logs.c.id > bindparam("after", type_=logs.c.id.type),
    )
    .order_by(logs.c.id)
    .limit(_LIMIT)
)
READS_AT_ONCE = 16
"""What they read is in memory together."""


class Reads:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._sealing = database.sealing
        self._reading = Batches(database, _GET, {"task_id": "id", "owner": "owner"}, shared=True, most=READS_AT_ONCE)

    async def get(self, task_id: str, owner: str) -> TaskRecord:
        """With its place in the queue, while it waits for a worker. Raises TaskNotFound for an unknown, expired or
        foreign id alike."""
        row = await self._reading.run({"task_id": task_id, "owner": owner})
        if row is not None and row.large:
            whole = await self._database.run(_GET_LARGE, {"task_id": task_id, "owner": owner})
            row = whole.one_or_none()
        if row is None:
            raise TaskNotFound(task_id)
        found = record(row, self._sealing)
        where = row.get("place")
        return found if where is None else replace(found, status_message=with_place(found.status_message, where))

    async def get_many(self, task_ids: Iterable[str], owner: str) -> dict[str, TaskRecord]:
        """Those of `task_ids` that the owner may see, by id."""
        found = await self._database.run(_GET_MANY, {"task_ids": list(task_ids), "owner": owner})
        return {row.id: record(row, self._sealing) for row in found}

    async def heads(self, task_ids: Iterable[str], owner: str) -> dict[str, TaskRecord]:
        """The same without what may be large: how each stands, and neither its outcome nor what it asks."""
        found = await self._database.run(_HEADS, {"task_ids": list(task_ids), "owner": owner})
        return {row.id: record(row, self._sealing) for row in found}

    async def page(self, owner: str, before: tuple[datetime, str] | None, limit: int) -> list[TaskRecord]:
        """Up to `limit` tasks of the owner, newest first, as heads; those made before the (created_at, id) of
        another."""
        if before is None:
            found = await self._database.run(_PAGE, {"owner": owner, "limit": limit})
        else:
            made_at, made_id = before
            older = {"owner": owner, "made_at": made_at, "made_id": made_id, "limit": limit}
            found = await self._database.run(_NEXT_PAGE, older)
        return [record(row, self._sealing) for row in found]

    async def of_session(self, session: str, owner: str, since: datetime | None, limit: int) -> list[TaskRecord]:
        """The tasks that the session is told of, as heads: those alive, and those that changed after `since`."""
        values = {"session": session, "owner": owner, "limit": limit}
        if since is None:
            found = await self._database.run(_OF_SESSION, values)
        else:
            found = await self._database.run(_OF_SESSION_SINCE, {**values, "since": since})
        return [record(row, self._sealing) for row in found]

    async def recent(self, owner: str, ended_within_s: float, limit: int) -> list[TaskRecord]:
        """The owner's live tasks, and those that ended within this time, newest first; without their results."""
        values = {"owner": owner, "ended_within_s": ended_within_s, "limit": limit}
        return [record(row, self._sealing) for row in await self._database.run(_RECENT, values)]

    async def lines(self, task_id: str, owner: str, after: int, limit: int) -> list[LogLine]:
        """Log lines of the task past the id `after`, oldest first."""
        values = {"task_id": task_id, "owner": owner, "after": after, "limit": limit}
        found = await self._database.run(_LINES, values)
        opened = partial(self._sealing.open, task_id)
        return [
            LogLine(row.id, row.level, opened("logger", row.logger), opened("logs", row.data), row.at) for row in found
        ]


def record(row: Row, sealing: Sealing) -> TaskRecord:
    """Of the columns of `VISIBLE`."""
    members = list(row[: len(VISIBLE)])
    task_id = members[0]
    members[2], members[3] = Status(members[2]), Phase(members[3])
    for at, name in _SEALED:
        members[at] = sealing.open(task_id, name, members[at])
    questions, _, token = members[17:]
    members[17] = () if questions is None else questions_of(sealing, task_id, load(questions))
    members[19] = None if token is None else load(sealing.open(task_id, "progress_token", token))
    return TaskRecord(*members)
