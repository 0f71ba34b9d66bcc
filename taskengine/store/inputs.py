"""Answers to open questions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, bindparam, exists, func, literal_column, or_, select, update

from taskengine.content import clean_text
from taskengine.errors import TaskNotFound
from taskengine.lifecycle import Event, Phase, sources, target
from taskengine.records import Doorbell
from taskengine.store import channels, retention, turns
from taskengine.store.audit import ENTRY, entry
from taskengine.store.database import Database
from taskengine.store.endings import touched
from taskengine.store.payload import dump
from taskengine.store.statements import prepared, unindexed
from taskengine.store.tables import inputs, tasks

__all__ = ["Inputs"]


_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")

_TASK = bindparam("task", type_=Text)
_THIS = tasks.c.id == _TASK
_LOCK = prepared(
    select(tasks.c.id)
    .where(_THIS, unindexed(tasks.c.owner) == bindparam("owner", type_=Text), retention.readable())
    .with_for_update()
)
_OPEN = and_(inputs.c.task_id == _TASK, inputs.c.response.is_(None))
_STORE = prepared(
    update(inputs)
    .where(_OPEN, inputs.c.key == bindparam("key", type_=Text))
    # A task that waited for something else as well may go on with a question open, and take its answer later.
    .where(exists().where(_THIS, tasks.c.phase != Phase.DONE))
    .values(response=bindparam("response", type_=inputs.c.response.type), answered_at=func.clock_timestamp())
    .returning(inputs.c.key)
)
_WAITS = and_(_THIS, tasks.c.phase.in_(sources(Event.RESUME)))
_status, _phase = target(Event.RESUME)
_RESUMED = (
    update(tasks)
    .where(_WAITS, ~exists().where(_OPEN))
    .values(
        status=_status,
        phase=_phase,
        wake_at=None,
        wake_open=None,
        turn=turns.again(),
        rung_at=func.now(),
        status_message="Answered; waiting for a worker",
        **touched(),
    )
    .returning(tasks.c.id, tasks.c.attempt, tasks.c.queue)
    .cte("resumed")
)
_RESUME = prepared(channels.telling(_RESUMED, _RESUMED.c.attempt, _RESUMED.c.queue))
_still_open = select(func.count()).where(_OPEN).scalar_subquery()
_PARTLY = (
    update(tasks)
    .where(_WAITS)
    .values(status_message=func.concat("Waiting for answers: ", _still_open, " to go"), **touched())
    .returning(tasks.c.id)
    .cte("partly")
)
_ANSWERED_PARTLY = prepared(channels.telling(_PARTLY, _PARTLY.c.id))


class Inputs:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def answer(
        self, task_id: str, owner: str, responses: Mapping[str, Mapping[str, Any]], *, actor: str | None = None
    ) -> Doorbell | None:
        """Store checked answers; keys that are not open are ignored (M-TASK-50). Raises TaskNotFound.

        The first answer to a key wins. When the last open question was answered the next attempt is due, and its
        doorbell is returned. The task's row is locked first, so two last answers cannot both see one left open. `actor`
        is who answers, for the audit log; without one the owner.
        """
        return await self._database.twice(lambda: self._answer(task_id, owner, responses, actor or owner))

    async def _answer(
        self, task_id: str, owner: str, responses: Mapping[str, Mapping[str, Any]], actor: str
    ) -> Doorbell | None:
        task = {"task": task_id}
        async with self._database.transaction() as connection:
            if (await connection.execute(_LOCK, {**task, "owner": owner})).one_or_none() is None:
                raise TaskNotFound(task_id)
            answered = 0
            for key, response in responses.items():
                if clean_text(key) != key:  # Postgres refuses it, and no question has such a key
                    continue
                sealed = self._database.sealing.seal(task_id, f"answer {key}", dump(response))
                answered += len(await connection.execute(_STORE, {**task, "key": key, "response": sealed}))
            if not answered:
                return None
            if self._database.audits:
                detail = "1 answer" if answered == 1 else f"{answered} answers"
                await connection.execute(ENTRY, entry(actor, "answer", task_id, owner, detail))
            row = (await connection.execute(_RESUME, task)).one_or_none()
            if row is not None:
                return Doorbell(task_id, row.attempt + 1, row.queue)
            await connection.execute(_ANSWERED_PARTLY, task)
            return None

    async def offer(self, task_id: str, keys: Collection[str], stream: str, seconds: float) -> set[str]:
        """Those of these open questions that `stream` alone may put to its client for that long (A-26)."""
        free = or_(
            inputs.c.offered_to.is_(None),
            inputs.c.offered_to == stream,
            inputs.c.offered_until < func.clock_timestamp(),
        )
        return await self._offer(task_id, keys, stream, seconds, free)

    async def renew(self, task_id: str, keys: Collection[str], stream: str, seconds: float) -> set[str]:
        """Those of these that are still open and still this stream's."""
        return await self._offer(task_id, keys, stream, seconds, inputs.c.offered_to == stream)

    async def _offer(
        self, task_id: str, keys: Collection[str], stream: str, seconds: float, which: ColumnElement[bool]
    ) -> set[str]:
        if not keys:
            return set()
        offered = await self._database.run(
            update(inputs)
            .where(inputs.c.task_id == task_id, inputs.c.key.in_(list(keys)), inputs.c.response.is_(None), which)
            .values(offered_to=stream, offered_until=func.clock_timestamp() + seconds * _SECOND)
            .returning(inputs.c.key)
        )
        return {row.key for row in offered}

    async def take_back(self, task_id: str, key: str | None = None, stream: str | None = None) -> None:
        """What the stream offered, or what was offered under the key, may be offered by any; its watchers are told."""
        which = [inputs.c.task_id == task_id, inputs.c.response.is_(None), inputs.c.offered_to.is_not(None)]
        if key is not None:
            which.append(inputs.c.key == key)
        if stream is not None:
            which.append(inputs.c.offered_to == stream)
        freed = (
            update(inputs)
            .where(*which)
            .values(offered_to=None, offered_until=None)
            .returning(inputs.c.task_id.label("id"))
            .cte("freed")
        )
        await self._database.run(channels.telling(freed, freed.c.id))
