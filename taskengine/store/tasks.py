"""What owners do with tasks: create them and cancel them, beside what they read of them (`reads`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, func, literal, select, update

from taskengine.errors import TaskNotFound
from taskengine.lifecycle import Event, Phase, Status, sources
from taskengine.records import Doorbell, NewTask, Same, TaskRecord
from taskengine.store import channels, retention, sameness
from taskengine.store.audit import noting
from taskengine.store.batches import Batches
from taskengine.store.blinding import Blinding
from taskengine.store.bounds import NO_BOUNDS, Bounds, Gate
from taskengine.store.children import cancel_below
from taskengine.store.creation import ACCEPTED, CREATE, CREATE_WITHIN, LARGE, values_of
from taskengine.store.database import Database, Row
from taskengine.store.endings import ending, withdraw
from taskengine.store.reads import VISIBLE, Reads, record
from taskengine.store.statements import unindexed
from taskengine.store.tables import tasks

__all__ = ["Tasks"]

CREATE_TRIES = 3


class Tasks(Reads):
    def __init__(self, database: Database, blinding: Blinding) -> None:
        super().__init__(database)
        self._blinding = blinding
        creating = Batches(database, CREATE[database.audits], {"id": "id"}, large=LARGE)
        self._gate = Gate(database, creating, CREATE_WITHIN[database.audits], LARGE)

    async def create(self, new: NewTask, within: Bounds = NO_BOUNDS) -> tuple[TaskRecord, Doorbell | None]:
        """Store the call; it is accepted once this returns. The doorbell is for whoever rings.

        Repeating it with the same id changes nothing, so a create whose outcome was not learned may be repeated; its
        doorbell comes again as long as no worker has taken the task. When `new.nonce` was used before, a task with its
        `dedupe` is alive, or one counts as the same call, nothing is stored and the earlier task is returned without a
        doorbell. Raises KeyReused, and LimitReached where the call would be one more than the bounds allow.
        """
        new = await self._blinding.of(new)
        values = values_of(self._sealing, new)
        for _ in range(CREATE_TRIES):
            row, refusal = await self._gate.create(values, within)
            if row is not None:
                return _created(new, values, row), Doorbell(new.id, 1, new.queue)
            if new.same is not None:
                same = await self.same_call(new.owner, new.tool, new.arguments, new.same)
                if same is not None:
                    return same, _again(new, same)
            for earlier in _earlier(new):
                row = (await self._database.run(select(*VISIBLE).where(earlier, retention.readable()))).one_or_none()
                if row is not None:
                    found = record(row, self._sealing)
                    return found, _again(new, found)
            if refusal is not None:
                raise refusal
            # The task that stood in the way has ended in between: there is room now.
        raise TaskNotFound(new.id)

    async def same_call(self, owner: str, tool: str, arguments: Mapping[str, Any], same: Same) -> TaskRecord | None:
        """The task that an earlier call has made which counts as the same one. Raises KeyReused."""
        task_id = await sameness.earlier(self._database, owner, tool, arguments, same)
        return None if task_id is None else await self.get(task_id, owner)

    async def cancel(self, task_id: str, owner: str, *, actor: str | None = None) -> None:
        """The task is cancelled when this returns, unless it had ended before (A-08). Raises TaskNotFound.

        `actor` is who asks for it, for the audit log; without one the owner.
        """
        await self._database.twice(lambda: self._cancel(task_id, owner, actor or owner))

    async def _cancel(self, task_id: str, owner: str, actor: str) -> None:
        async with self._database.transaction() as connection:
            held = await connection.execute(
                select(tasks.c.worker_id)
                .where(tasks.c.id == task_id, unindexed(tasks.c.owner) == owner, retention.readable())
                .with_for_update()
            )
            row = held.one_or_none()
            if row is None:
                raise TaskNotFound(task_id)
            cancelled = (
                update(tasks)
                .where(tasks.c.id == task_id, tasks.c.phase.in_(sources(Event.CANCEL)))
                .values(**ending(Event.CANCEL), status_message="Cancelled")
                .returning(tasks.c.id, tasks.c.tool)
                .cte("cancelled")
            )
            told = channels.telling(cancelled, cancelled.c.id)
            if self._database.audits:
                who, whose = literal(actor, Text), literal(owner, Text)
                told = told.add_cte(noting(cancelled, "cancel", actor=who, owner=whose, tool=cancelled.c.tool))
            await connection.execute(told)
            await connection.execute(withdraw(tasks.c.id == task_id))
            await cancel_below(connection, task_id, actor=actor if self._database.audits else None)
            if row.worker_id is not None:
                await connection.execute(select(func.pg_notify(channels.WORKERS, row.worker_id)))


def _again(new: NewTask, found: TaskRecord) -> Doorbell | None:
    """Who stored it before did not hear of it, so nobody has rung for it yet. A doorbell too many does no harm."""
    unheard = found.id == new.id and found.phase is Phase.QUEUED and found.attempt == 0
    return Doorbell(new.id, 1, new.queue) if unheard else None


def _earlier(new: NewTask) -> list[ColumnElement[bool]]:
    """Which tasks may stand in the way of this one, the first that counts first."""
    owners = unindexed(tasks.c.owner) == new.owner
    found = [and_(tasks.c.id == new.id, owners)]
    if new.nonce is not None:
        found.append(and_(tasks.c.nonce == new.nonce, owners))
    if new.dedupe is not None:
        found.append(and_(tasks.c.owner == new.owner, tasks.c.dedupe == new.dedupe, tasks.c.phase != Phase.DONE))
    return found


def _created(new: NewTask, values: Mapping[str, Any], row: Row) -> TaskRecord:
    """As it was stored just now."""
    return TaskRecord(
        id=new.id,
        tool=new.tool,
        status=Status.WORKING,
        phase=Phase.QUEUED,
        attempt=0,
        status_message=ACCEPTED,
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
        poll_interval_ms=values["poll_interval_ms"],
        session=new.session,
        progress_token=new.progress_token,
    )
