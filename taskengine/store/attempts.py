"""What a worker writes of the attempt it holds. Every statement is conditioned on the attempt's number.

A write of an attempt that is no longer current changes nothing and raises ClaimLost: a worker that was frozen, cut
off or cancelled in the middle can do no harm, whatever it tries later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Executable,
    Integer,
    Text,
    Update,
    bindparam,
    func,
    insert,
    select,
    true,
    update,
)

from taskengine.errors import ClaimLost
from taskengine.identity import AccessToken
from taskengine.lifecycle import Event, Phase, sources, target
from taskengine.losses import Loss, describe_loss, failure, failure_message
from taskengine.records import Claim, Doorbell, Question
from taskengine.store import callers, channels, turns
from taskengine.store import losses as lost
from taskengine.store.batches import Batches
from taskengine.store.claims import Claims
from taskengine.store.database import Database, Row
from taskengine.store.endings import ending, touched
from taskengine.store.fence import fence, holding, holding_each, ran_ms
from taskengine.store.journal import Journal
from taskengine.store.limits import Limits
from taskengine.store.payload import load
from taskengine.store.statements import given_rows, prepared, unindexed
from taskengine.store.tables import logs, tasks
from taskengine.store.waits import Waits

__all__ = ["Attempts"]


def _state(event: Event) -> dict[str, Any]:
    status, phase = target(event)
    return {"status": status, "phase": phase}


def _current(statement: Update) -> Update:
    """Only while the claim of `fence` holds."""
    return statement.where(holding())


def _told(statement: Update, loss: Loss | None = None) -> Executable:
    """The change, told to whoever watches the task; with `loss`, the attempt is recorded as lost beside it."""
    changed = statement.returning(tasks.c.id).cte("changed")
    told = channels.telling(changed, changed.c.id)
    return told if loss is None else told.add_cte(lost.noting(changed, loss).cte("noted"))


_LOGGING = select(tasks.c.id, tasks.c.attempt).where(holding()).with_for_update(read=True).cte("logging")
_LINES = given_rows({"level": Text, "logger": Text, "data": Text}, "lines", "l_")
_LOGGED = (
    insert(logs)
    .from_select(
        ["task_id", "attempt", "level", "logger", "data"],
        select(_LOGGING.c.id, _LOGGING.c.attempt, *_LINES.c).select_from(_LOGGING.join(_LINES, true())),
    )
    .returning(logs.c.id)
    .cte("logged")
)
_some_lines = select(logs.c.id).where(logs.c.task_id == bindparam("task", type_=Text))
_COUNT = prepared(select(func.count()).select_from(_some_lines.limit(bindparam("most", type_=Integer)).subquery()))
_LOG = prepared(channels.telling(_LOGGING, _LOGGING.c.id).add_cte(_LOGGED))


def _completing(held: ColumnElement[bool], outcome: Mapping[str, ColumnElement[Any]]) -> Executable:
    completed = (
        update(tasks)
        .where(held, unindexed(tasks.c.phase).in_(sources(Event.COMPLETE)))
        .values(
            **ending(Event.COMPLETE),
            ran_ms=ran_ms(),
            result=outcome["content"],
            is_error=outcome["failed"],
            traceback=outcome["trace"],
            status_message=outcome["message"],
        )
    )
    return _told(completed)


_ENDS_OF: dict[str, Any] = {
    "task": Text,
    "current": Integer,
    "holder": Text,
    "content": Text,
    "failed": Boolean,
    "trace": Text,
    "message": Text,
}
_ENDS = given_rows(_ENDS_OF, "ends")
_COMPLETE = prepared(
    _completing(holding(), {name: bindparam(name, type_=kind) for name, kind in _ENDS_OF.items()}),
    # For several, Postgres looks at the many indexes of the table once.
    together=_completing(holding_each(_ENDS), dict(_ENDS.c.items())),
)
_PROGRESS = prepared(
    _told(
        _current(update(tasks))
        .where(tasks.c.phase == Phase.RUNNING)
        .values(
            progress=bindparam("progress"),
            progress_total=bindparam("total"),
            progress_message=bindparam("text"),
            status_message=bindparam("message"),
            **touched(),
        )
    )
)


class Attempts:
    def __init__(self, database: Database, journal: Journal, waits: Waits, limits: Limits) -> None:
        self._database = database
        self._sealing = database.sealing
        self._journal = journal
        self._waits = waits
        self._claims = Claims(database, limits)
        # An end is stored also for an attempt that was stopped meanwhile: the work is done.
        self._completing = Batches(database, _COMPLETE, {"task": "id"}, large=["content"], unasked=True)
        self._reporting = Batches(database, _PROGRESS, {"task": "id"})
        self.loading: set[tuple[str, int]] = set()
        """Claims of this process whose journal is still being read: held, and not yet run. For the heartbeat."""

    async def claim(self, doorbell: Doorbell, worker_id: str) -> Claim | None:
        """Make `worker_id` the holder of the attempt the doorbell names. Workers `claim_next`; this is for tests, which
        say by it whose attempt begins.

        None when the attempt is not due: claimed already, ended, waiting, or gone. That is the normal fate of a
        doorbell that was repeated or late. Nor is it due while its queue is paused or a limit holds it back.
        """
        return await self._claim(await self._claims.named(doorbell, worker_id), worker_id)

    async def claim_next(
        self, queues: Sequence[str], worker_id: str, tools: Sequence[str] | None = None
    ) -> Claim | None:
        """Make `worker_id` the holder of the task whose turn it is in these queues; None when none is due.

        With `tools`, only calls of those: a worker whose code lacks a tool must not take its calls again and again.
        """
        return await self._claim(await self._claims.next(queues, worker_id, tools), worker_id)

    async def _claim(self, row: Row | None, worker_id: str) -> Claim | None:
        if row is None:
            return None
        # Read afterwards: an answer that is stored never changes.
        self.loading.add((row.id, row.attempt))
        try:
            answers = await self._waits.answers(row.id) if row.attempt > 1 else {}
            entries = await self._journal.load(row.id) if row.journaled else {}
        finally:
            self.loading.discard((row.id, row.attempt))
        return Claim(
            task_id=row.id,
            attempt=row.attempt,
            worker_id=worker_id,
            tool=row.tool,
            owner=row.owner,
            queue=row.queue,
            arguments=load(self._sealing.open(row.id, "arguments", row.arguments)),
            capabilities=load(self._sealing.open(row.id, "capabilities", row.capabilities)),
            first=load(self._sealing.open(row.id, "first", row.first)),
            answers=answers,
            ran_ms=row.ran_ms,
            journal=entries,
            now=row.claimed_at,
            parent=row.parent,
            failures=row.failures,
            limits=tuple(row.limit_keys or ()),
            caller=callers.opened(self._sealing, row.id, row.caller),
            token=callers.opened_token(self._sealing, row.id, row.token),
            trace=row.traceparent,
        )

    async def progress(
        self, claim: Claim, progress: float | None, total: float | None, message: str | None, status_message: str
    ) -> None:
        """Record the latest progress. Raises ClaimLost."""
        report = {
            "progress": progress,
            "total": total,
            "text": self._sealing.seal(claim.task_id, "progress_message", message),
            "message": self._sealing.seal(claim.task_id, "status_message", status_message),
        }
        if await self._reporting.run(fence(claim) | report) is None:
            raise ClaimLost(claim.task_id, claim.attempt)

    async def keep_token(self, claim: Claim, token: AccessToken) -> None:
        """What a token was renewed to takes its place. Raises ClaimLost."""
        sealed = callers.sealed_token(self._sealing, claim.task_id, token)
        await self._change(claim, update(tasks).where(tasks.c.phase == Phase.RUNNING).values(token=sealed))

    async def log(self, claim: Claim, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append log lines (`level`, `logger`, `data` as JSON text), in order. Raises ClaimLost."""
        seal = partial(self._sealing.seal, claim.task_id)
        columns = {
            "l_level": [line["level"] for line in lines],
            "l_logger": [seal("logger", line["logger"]) for line in lines],
            "l_data": [seal("logs", line["data"]) for line in lines],
        }
        if (await self._database.run(_LOG, fence(claim) | columns)).one_or_none() is None:
            raise ClaimLost(claim.task_id, claim.attempt)

    async def logged(self, claim: Claim, most: int) -> int:
        """How many log lines of the task are there, counted up to `most`."""
        return int((await self._database.run(_COUNT, {"task": claim.task_id, "most": most})).scalar_one())

    async def suspend(self, claim: Claim, questions: Sequence[Question], status_message: str) -> None:
        """End the attempt with these questions open: the task waits and holds no worker. Raises ClaimLost."""
        await self._waits.park(claim, questions=questions, message=status_message)

    async def complete(
        self, claim: Claim, result: str, *, is_error: bool, status_message: str, traceback: str | None = None
    ) -> None:
        """Settle the task as completed; `result` is the JSON text of a neutral result. Raises ClaimLost."""
        seal = partial(self._sealing.seal, claim.task_id)
        outcome = {
            "content": seal("result", result),
            "failed": is_error,
            "trace": seal("traceback", traceback),
            "message": seal("status_message", status_message),
        }
        if await self._completing.run(fence(claim) | outcome) is None:
            raise ClaimLost(claim.task_id, claim.attempt)

    async def fail(self, claim: Claim, error: str, *, status_message: str, traceback: str | None = None) -> None:
        """Settle the task as failed; `error` is the JSON text of a JSON-RPC error object. Raises ClaimLost."""
        seal = partial(self._sealing.seal, claim.task_id)
        await self._change(
            claim,
            update(tasks)
            .where(tasks.c.phase.in_(sources(Event.FAIL)))
            .values(
                **ending(Event.FAIL),
                ran_ms=ran_ms(),
                error=seal("error", error),
                traceback=seal("traceback", traceback),
                status_message=seal("status_message", status_message),
            ),
        )

    async def release(self, claim: Claim) -> Doorbell:
        """Hand the task back unharmed: the next attempt is due. Raises ClaimLost."""
        return await self._back_to_queue(claim, Event.RELEASE, "Waiting for another worker", {})

    async def lose(self, claim: Claim, how: Loss, max_crashes: int) -> Doorbell | None:
        """The attempt's process died (`how` tells what is known of it): the next attempt is due.

        After `max_crashes` lost attempts the task fails instead, with the history of them, and None is returned.
        Raises ClaimLost.
        """
        last = tasks.c.crashes + 1 >= max_crashes
        loss = replace(how, attempt=claim.attempt, worker=claim.worker_id)
        message = f"Attempt {claim.attempt} was lost: {describe_loss(loss)}"
        try:
            return await self._back_to_queue(
                claim, Event.LOSE, message, {"crashes": tasks.c.crashes + 1}, ~last, loss=loss
            )
        except ClaimLost:
            earlier = lost.by_task(await self._database.run(lost.reading([claim.task_id])))
            history = [*earlier.get(claim.task_id, []), loss]
            await self._change(
                claim,
                update(tasks)
                .where(tasks.c.phase.in_(sources(Event.ABANDON)), last)
                .values(
                    **ending(Event.ABANDON),
                    ran_ms=ran_ms(),
                    crashes=tasks.c.crashes + 1,
                    error=failure(history),
                    status_message=failure_message(history),
                ),
                loss,
            )
            return None

    async def _back_to_queue(
        self,
        claim: Claim,
        event: Event,
        message: str,
        values: dict[str, Any],
        *conditions: ColumnElement[bool],
        loss: Loss | None = None,
    ) -> Doorbell:
        await self._change(
            claim,
            update(tasks)
            .where(tasks.c.phase.in_(sources(event)), *conditions)
            .values(
                **_state(event),
                worker_id=None,
                ran_ms=ran_ms(),
                turn=turns.again(),
                rung_at=func.now(),
                status_message=message,
                **touched(),
                **values,
            ),
            loss,
        )
        return Doorbell(claim.task_id, claim.attempt + 1, claim.queue)

    async def hand_back(self, task_id: str, attempt: int, worker_id: str) -> None:
        """Make a task due again that the worker holds and does not run; the relay rings. No effect if it is settled."""
        changed = (
            update(tasks)
            .where(holding())
            .where(tasks.c.phase.in_(sources(Event.RELEASE)))
            .values(
                **_state(Event.RELEASE),
                worker_id=None,
                ran_ms=ran_ms(),
                turn=turns.again(),
                status_message="Waiting for a worker",
                **touched(),
            )
            .returning(tasks.c.id)
            .cte("changed")
        )
        fenced = {"task": task_id, "current": attempt, "holder": worker_id}
        await self._database.run(channels.telling(changed, changed.c.id), fenced)

    async def _change(self, claim: Claim, statement: Update, loss: Loss | None = None) -> None:
        told = _told(_current(statement), loss)
        if (await self._database.run(told, fence(claim))).one_or_none() is None:
            raise ClaimLost(claim.task_id, claim.attempt)
