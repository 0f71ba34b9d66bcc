"""Which task a worker gets: the one a doorbell names, or those whose turn it is.

Those that ask for the next of the same queues at the same time, as after a message with many doorbells, are served by
one statement, and by one more for all who got nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Executable,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    exists,
    func,
    or_,
    select,
    true,
    update,
)

from taskengine.lifecycle import Event, sources, target
from taskengine.records import Doorbell
from taskengine.store.batches import Batches, given_up
from taskengine.store.database import Database, Row
from taskengine.store.endings import touched
from taskengine.store.limits import Limits, room
from taskengine.store.queues import paused
from taskengine.store.statements import Prepared, prepared
from taskengine.store.tables import journal, tasks, workers
from taskengine.store.turns import QUEUED, in_order

__all__ = ["Claims"]

BLOCKED_HEADS = 50
"""Looks of one claim: each that finds its task held back by a limit takes all behind it out of the way."""
MISSES = 3
"""So often a claim looks again when what it saw was not to be had: its doorbell is spent, and the relay is slow."""
OVERTAKEN_S = 0.1
"""A round that takes longer is not waited for by those that come now."""


_CLAIMED = target(Event.CLAIM)


def _free() -> ColumnElement[bool]:
    """The attempt that has just asked is not there any more: otherwise it may go on by itself."""
    return or_(tasks.c.kept_until.is_(None), tasks.c.kept_until < func.clock_timestamp())


def _claiming(which: ColumnElement[bool]) -> Executable:
    return (
        update(tasks)
        .where(which, tasks.c.phase.in_(sources(Event.CLAIM)), _free())
        # A worker that was declared dead and has not heard of it yet must take nothing new.
        .where(exists().where(workers.c.id == bindparam("holder")))
        .values(
            status=_CLAIMED[0],
            phase=_CLAIMED[1],
            wake_at=None,
            wake_open=None,
            kept_until=None,
            blocked_by=None,
            attempt=tasks.c.attempt + 1,
            worker_id=bindparam("holder"),
            claimed_at=func.clock_timestamp(),
            status_message="Running",
            **touched(),
        )
        .returning(
            tasks.c.id,
            tasks.c.attempt,
            tasks.c.tool,
            tasks.c.owner,
            tasks.c.queue,
            tasks.c.arguments,
            tasks.c.capabilities,
            tasks.c.first,
            tasks.c.ran_ms,
            tasks.c.parent,
            tasks.c.failures,
            tasks.c.limit_keys,
            tasks.c.caller,
            tasks.c.token,
            tasks.c.traceparent,
            tasks.c.claimed_at,
            exists().where(journal.c.task_id == tasks.c.id).label("journaled"),
        )
    )


# What every task meets is built once; SQLAlchemy would otherwise build it at each call.
_MANY = bindparam("many", type_=Integer)
_unlimited = tasks.c.limit_keys.is_(None)
_named = and_(
    tasks.c.id == bindparam("named"),
    tasks.c.attempt == bindparam("before"),
    tasks.c.blocked_by.is_(None),
    ~paused(tasks.c.queue),
)
_CLAIM_NAMED = prepared(_claiming(and_(_named, _unlimited)))
_CLAIM_LIMITED = prepared(_claiming(and_(tasks.c.id == bindparam("limited"), room())))
_HEAD = (tasks.c.id, tasks.c.tool, tasks.c.queue, tasks.c.limit_keys)
_NAMED_HEAD = select(*_HEAD).where(_named, tasks.c.phase == QUEUED, _free())
# Each queue is asked for its first on its own: in one question for several, Postgres would sort the whole backlog.
_QUEUES = func.unnest(bindparam("queues", type_=ARRAY(Text))).table_valued("route", name="queues").render_derived()
_FIRST = (
    select(tasks.c.id, tasks.c.priority)
    .where(tasks.c.queue == _QUEUES.c.route, tasks.c.phase == QUEUED, tasks.c.blocked_by.is_(None), _free())
    .where(or_(bindparam("tools", type_=ARRAY(Text)).is_(None), tasks.c.tool == any_(bindparam("tools"))))
    .order_by(*in_order())
    .limit(_MANY)
    .with_for_update(skip_locked=True)
    .lateral("first")
)
_NEXT = (
    select(_FIRST.c.id)
    .select_from(_QUEUES.join(_FIRST, true()))
    .where(~paused(_QUEUES.c.route))
    # Turns of two queues say nothing about each other: an even chance lets no backlog in one starve the other.
    .order_by(_FIRST.c.priority.desc(), func.random())
    .limit(_MANY)
    # With what it locks it is read once; as a subquery it might be read again, and lock more.
    .cte("next")
)
# As an array: whatever Postgres expects of it, the rows are then found by their primary key.
_ARE_NEXT = tasks.c.id == any_(func.array(select(_NEXT.c.id).scalar_subquery(), type_=ARRAY(Text)))
_CLAIM_NEXT = prepared(_claiming(and_(_ARE_NEXT, _unlimited)))
_NEXT_HEAD = select(*_HEAD).where(_ARE_NEXT)


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands first: to look at, and to lock."""

    look: Prepared
    locked: Prepared


def _head(statement: Select[Any]) -> _Head:
    return _Head(prepared(statement), prepared(statement.with_for_update(skip_locked=True, of=tasks)))


_BY_NAME, _BY_TURN = _head(_NAMED_HEAD), _head(_NEXT_HEAD)
_Asked = tuple[tuple[str, ...], tuple[str, ...] | None, str]
"""Queues, tools and worker."""
_Found = tuple[Row | None, Row | None]
"""The row that was claimed; or None, and what stands first then."""


class Claims:
    """Made and used on one event loop."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits
        self._named = Batches(database, _CLAIM_NAMED, {"named": "id"})
        self._waiting: dict[_Asked, list[asyncio.Future[_Found]]] = {}
        self._rounds: dict[_Asked, asyncio.Task[None]] = {}

    async def named(self, doorbell: Doorbell, worker_id: str) -> Row | None:
        """The row of the task that the doorbell names, held by the worker now; None when that attempt is not due.

        Workers ask for the `next`. This is for tests, which say by it whose attempt begins.
        """
        which = {"named": doorbell.task_id, "before": doorbell.attempt - 1, "holder": worker_id}

        async def find() -> _Found:
            row = await self._named.run(which)
            return row, None if row is not None else (await self._database.run(_BY_NAME.look, which)).one_or_none()

        return await self._claim(find, _BY_NAME, which)

    async def next(self, queues: Sequence[str], worker_id: str, tools: Sequence[str] | None) -> Row | None:
        """The same of the task whose turn it is in these queues, of these tools where they are given."""
        asked = (tuple(queues), None if tools is None else tuple(tools), worker_id)
        return await self._claim(lambda: self._in_turn(asked), _BY_TURN, {**_values(asked), "many": 1})

    async def _claim(self, find: Callable[[], Awaitable[_Found]], head: _Head, which: dict[str, Any]) -> Row | None:
        """Most tasks have no limits, and are what `find` claims; `head` is what it passes over."""
        missed = 0
        for _ in range(BLOCKED_HEADS):
            row, first = await find()
            if row is not None:
                return row
            if first is None:
                return None
            claimed: Row | bool | None = None
            if first.limit_keys is not None:
                claimed = await self._limits.claim(head.locked, _CLAIM_LIMITED, which)
            if claimed is None:  # something was due, and was another's by then, or came just now
                missed += 1
                if missed == MISSES:
                    return None
            elif not isinstance(claimed, bool):
                return claimed
        return None

    async def _in_turn(self, asked: _Asked) -> _Found:
        """Whoever is cancelled while its round is under way leaves a task held that nobody runs: the heartbeat hands
        it back."""
        answer: asyncio.Future[_Found] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(asked, []).append(answer)
        self._begin(asked)
        return await answer

    def _begin(self, asked: _Asked) -> None:
        if asked not in self._rounds and asked in self._waiting:
            serving = asyncio.get_running_loop().create_task(self._serve(asked))
            serving.add_done_callback(partial(self._ended, asked))
            self._rounds[asked] = serving

    def _overtake(self, asked: _Asked) -> None:
        self._rounds.pop(asked, None)
        self._begin(asked)

    def _ended(self, asked: _Asked, serving: asyncio.Task[None]) -> None:
        """One that was cancelled, perhaps before it began, leaves nobody waiting for it."""
        if self._rounds.get(asked) is serving:
            del self._rounds[asked]
            for answer in self._waiting.pop(asked, []):
                if not answer.done():
                    answer.set_exception(given_up())

    async def _serve(self, asked: _Asked) -> None:
        me = self._rounds[asked]
        while self._rounds.get(asked) is me and asked in self._waiting:
            # A claim for somebody who has gone would only keep the task from others.
            answers = [answer for answer in self._waiting.pop(asked) if not answer.done()]
            if answers:
                overtaking = asyncio.get_running_loop().call_later(OVERTAKEN_S, self._overtake, asked)
                try:
                    await self._round(asked, answers)
                except BaseException as error:
                    for answer in answers:
                        if not answer.done():
                            answer.set_exception(error if isinstance(error, Exception) else given_up())
                    if not isinstance(error, Exception):
                        raise
                finally:
                    overtaking.cancel()
        if self._rounds.get(asked) is me:
            del self._rounds[asked]

    async def _round(self, asked: _Asked, answers: list[asyncio.Future[_Found]]) -> None:
        rows = await self._database.run(_CLAIM_NEXT, {**_values(asked), "many": len(answers)})
        awake = [answer for answer in answers if not answer.done()]
        for answer, row in zip(awake, rows, strict=False):
            answer.set_result((row, None))
        if left := awake[len(rows) :]:
            first = await self._database.run(_BY_TURN.look, {**_values(asked), "many": len(left)})
            left = [answer for answer in left if not answer.done()]
            for answer, head in zip_longest(left, first[: len(left)]):
                answer.set_result((None, head))


def _values(asked: _Asked) -> dict[str, Any]:
    queues, tools, holder = asked
    return {"queues": list(queues), "tools": None if tools is None else list(tools), "holder": holder}
