"""Tasks as their owners see them: create, read, cancel."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from taskengine.errors import TaskNotFound
from taskengine.lifecycle import LONGEST_POLL, Event, Phase, Status, sources
from taskengine.records import Doorbell, LogLine, NewTask, Question, TaskRecord
from taskengine.store import channels, retention
from taskengine.store.batches import Batches
from taskengine.store.children import cancel_below
from taskengine.store.database import Database, Row
from taskengine.store.endings import ending, withdraw
from taskengine.store.payload import dump, load
from taskengine.store.statements import prepared
from taskengine.store.tables import inputs, logs, tasks

__all__ = ["Tasks"]

CREATE_TRIES = 3
_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")
_LONGEST_POLL_MS = LONGEST_POLL // timedelta(milliseconds=1)

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

_VISIBLE = (
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
_ACCEPTED = "Waiting for a worker"


# What every call and every poll meets is built once.
_CREATE = prepared(
    insert(tasks)
    .values(
        id=bindparam("id"),
        owner=bindparam("owner"),
        tool=bindparam("tool"),
        queue=bindparam("queue"),
        status=Status.WORKING,
        phase=Phase.QUEUED,
        arguments=bindparam("arguments"),
        capabilities=bindparam("capabilities"),
        first=bindparam("first"),
        nonce=bindparam("nonce"),
        dedupe=bindparam("dedupe"),
        session=bindparam("session"),
        progress_token=bindparam("progress_token"),
        status_message=_ACCEPTED,
        base_ttl_ms=bindparam("ttl_ms"),
        ttl_ms=bindparam("ttl_ms"),
        expires_at=retention.from_creation(func.now(), bindparam("ttl_ms", type_=BigInteger)),
        poll_interval_ms=bindparam("poll_interval_ms"),
        rung_at=func.now(),
    )
    .on_conflict_do_nothing()
    .returning(tasks.c.id, tasks.c.created_at, func.clock_timestamp().label("now"))
)
_GET = prepared(
    select(*_VISIBLE, tasks.c.owner).where(
        tasks.c.id == bindparam("task_id"), tasks.c.owner == bindparam("owner"), retention.readable()
    )
)
READS_AT_ONCE = 16
"""Results may be large, and those of one batch are in memory together."""


class Tasks:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._creating = Batches(database, _CREATE, {"id": "id"})
        self._reading = Batches(database, _GET, {"task_id": "id", "owner": "owner"}, shared=True, most=READS_AT_ONCE)

    async def create(self, new: NewTask) -> tuple[TaskRecord, Doorbell | None]:
        """Store the call; it is accepted once this returns. The doorbell is for whoever rings.

        Repeating it with the same id changes nothing, so a create whose outcome was not learned may be repeated. When
        `new.nonce` was used before, or a task with its `dedupe` is alive, nothing is stored and the earlier task is
        returned without a doorbell.
        """
        poll_interval_ms = min(new.poll_interval_ms, _LONGEST_POLL_MS)
        values = {
            "id": new.id,
            "owner": new.owner,
            "tool": new.tool,
            "queue": new.queue,
            "arguments": dump(new.arguments),
            "capabilities": dump(new.capabilities),
            "first": dump(new.first),
            "nonce": new.nonce,
            "dedupe": new.dedupe,
            "session": new.session,
            "progress_token": None if new.progress_token is None else dump(new.progress_token),
            "ttl_ms": new.ttl_ms,
            "poll_interval_ms": poll_interval_ms,
        }
        for _ in range(CREATE_TRIES):
            row = await self._creating.run(values)
            if row is not None:
                return _created(new, poll_interval_ms, row), Doorbell(new.id, 1, new.queue)
            for earlier in _earlier(new):
                row = (await self._database.run(_visible_to(new.owner).where(earlier))).one_or_none()
                if row is not None:
                    return _record(row), None
            # The task that stood in the way has ended in between: there is room now.
        raise TaskNotFound(new.id)

    async def get(self, task_id: str, owner: str) -> TaskRecord:
        """Raises TaskNotFound for an unknown, expired or foreign id alike."""
        row = await self._reading.run({"task_id": task_id, "owner": owner})
        if row is None:
            raise TaskNotFound(task_id)
        return _record(row)

    async def get_many(self, task_ids: Iterable[str], owner: str) -> dict[str, TaskRecord]:
        """Those of `task_ids` that the owner may see, by id."""
        found = await self._database.run(_visible_to(owner).where(tasks.c.id.in_(list(task_ids))))
        return {row.id: _record(row) for row in found}

    async def page(self, owner: str, before: tuple[datetime, str] | None, limit: int) -> list[TaskRecord]:
        """Up to `limit` tasks of the owner, newest first, without their results; those made before the (created_at, id)
        of another."""
        older = _listed_for(owner)
        if before is not None:
            older = older.where(tuple_(tasks.c.created_at, tasks.c.id) < tuple_(*before))
        newest_first = older.order_by(tasks.c.created_at.desc(), tasks.c.id.desc()).limit(limit)
        return [_record(row) for row in await self._database.run(newest_first)]

    async def of_session(self, session: str, owner: str, since: datetime | None, limit: int) -> list[TaskRecord]:
        """The tasks that the session is told of, without their results: those alive, and those that changed after
        `since`."""
        interesting = tasks.c.phase != Phase.DONE
        if since is not None:
            interesting = or_(interesting, tasks.c.updated_at > since)
        found = _listed_for(owner).where(tasks.c.session == session, interesting)
        newest_first = found.order_by(tasks.c.created_at.desc()).limit(limit)
        return [_record(row) for row in await self._database.run(newest_first)]

    async def lines(self, task_id: str, owner: str, after: int, limit: int) -> list[LogLine]:
        """Log lines of the task past the id `after`, oldest first."""
        found = await self._database.run(
            select(logs.c.id, logs.c.level, logs.c.logger, logs.c.data, logs.c.at)
            .join(tasks, tasks.c.id == logs.c.task_id)
            .where(logs.c.task_id == task_id, tasks.c.owner == owner, logs.c.id > after)
            .order_by(logs.c.id)
            .limit(limit)
        )
        return [LogLine(row.id, row.level, row.logger, row.data, row.at) for row in found]

    async def recent(self, owner: str, ended_within_s: float, limit: int) -> list[TaskRecord]:
        """The owner's live tasks, and those that ended within this time, newest first; without their results."""
        ended = func.clock_timestamp() - ended_within_s * _SECOND
        found = await self._database.run(
            _listed_for(owner)
            .where(or_(tasks.c.phase != Phase.DONE, tasks.c.ended_at > ended))
            .order_by(tasks.c.created_at.desc(), tasks.c.id)
            .limit(limit)
        )
        return [_record(row) for row in found]

    async def cancel(self, task_id: str, owner: str) -> None:
        """The task is cancelled when this returns, unless it had ended before (A-08). Raises TaskNotFound."""
        await self._database.twice(lambda: self._cancel(task_id, owner))

    async def _cancel(self, task_id: str, owner: str) -> None:
        async with self._database.transaction() as connection:
            held = await connection.execute(
                select(tasks.c.worker_id)
                .where(tasks.c.id == task_id, tasks.c.owner == owner, retention.readable())
                .with_for_update()
            )
            row = held.one_or_none()
            if row is None:
                raise TaskNotFound(task_id)
            cancelled = (
                update(tasks)
                .where(tasks.c.id == task_id, tasks.c.phase.in_(sources(Event.CANCEL)))
                .values(**ending(Event.CANCEL), status_message="Cancelled")
                .returning(tasks.c.id)
                .cte("cancelled")
            )
            await connection.execute(channels.telling(cancelled, cancelled.c.id))
            await connection.execute(withdraw(tasks.c.id == task_id))
            await cancel_below(connection, task_id)
            if row.worker_id is not None:
                await connection.execute(select(func.pg_notify(channels.WORKERS, row.worker_id)))


def _earlier(new: NewTask) -> list[ColumnElement[bool]]:
    """Which tasks may stand in the way of this one, the first that counts first."""
    found = [tasks.c.id == new.id]
    if new.nonce is not None:
        found.append(tasks.c.nonce == new.nonce)
    if new.dedupe is not None:
        found.append(and_(tasks.c.dedupe == new.dedupe, tasks.c.phase != Phase.DONE))
    return found


def _visible_to(owner: str) -> Select[Any]:
    return select(*_VISIBLE).where(tasks.c.owner == owner, retention.readable())


def _listed_for(owner: str) -> Select[Any]:
    """The same without results, which may be large and which no list shows."""
    columns = [cast(null(), Text).label("result") if column is tasks.c.result else column for column in _VISIBLE]
    return select(*columns).where(tasks.c.owner == owner, retention.readable())


def _created(new: NewTask, poll_interval_ms: int, row: Row) -> TaskRecord:
    """As it was stored just now."""
    return TaskRecord(
        id=new.id,
        tool=new.tool,
        status=Status.WORKING,
        phase=Phase.QUEUED,
        attempt=0,
        status_message=_ACCEPTED,
        progress=None,
        progress_total=None,
        progress_message=None,
        result=None,
        is_error=False,
        error=None,
        created_at=row.created_at,
        updated_at=row.created_at,
        now=row.now,
        ttl_ms=new.ttl_ms,
        poll_interval_ms=poll_interval_ms,
        session=new.session,
        progress_token=new.progress_token,
    )


def _record(row: Row) -> TaskRecord:
    """Of the columns of `_VISIBLE`."""
    members = list(row[: len(_VISIBLE)])
    members[2], members[3] = Status(members[2]), Phase(members[3])
    questions, _, token = members[17:]
    asked = () if questions is None else load(questions)
    members[17] = tuple(Question(key, method, load(params)) for key, method, params in asked)
    members[19] = None if token is None else load(token)
    return TaskRecord(*members)
