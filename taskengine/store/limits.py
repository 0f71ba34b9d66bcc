"""How many tasks of a kind run at once: counted at the claim, from the tasks that run.

A task with limits has keys (`limit_keys`), each with the number that may run under it. Its claim takes a lock of each
of its keys, counts who holds them, and goes through when all have room; so two claims at once cannot both take the last
place. The count is of the rows themselves: nothing is written when an attempt ends, and nothing can be left behind.

What finds no room is marked with the key (`blocked_by`), together with what stands behind it under the same key, and is
not due any more: a backlog of one owner that may not run costs the others' claims nothing. Whoever ends an attempt with
keys makes as many of the blocked due again as there is room for, first come by turn (`turns.py`); the janitor does it
for those whose worker died. They are counted again at their claim.

An attempt that lingers keeps its place, since it may go on by itself; one that comes back later than that is counted
anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    FromClause,
    Integer,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)

from taskengine.records import Doorbell, Slot
from taskengine.store import channels
from taskengine.store.database import Database, Row
from taskengine.store.endings import touched
from taskengine.store.statements import Prepared, prepared
from taskengine.store.tables import tasks
from taskengine.store.turns import QUEUED, in_order

__all__ = ["BLOCKED_MESSAGE", "SLOT_TEXTS", "Limits", "room", "slot_columns", "slot_texts"]

BLOCK_BATCH = 500
KEYS_BATCH = 200
AT_ONCE = 2
"""Those that wait for the lock of a key wait here, and not each with a connection, which others have more use for."""
BLOCKED_MESSAGE = "Waiting: as many run as its limit allows"
_MOMENT: ColumnElement[Any] = literal_column("interval '1 second'")

SLOT_TEXTS: Mapping[str, Any] = {"limit_keys": Text, "limit_sizes": Text}
"""How the slots of a task come to a statement: as lists with a space between, since an array of several tasks' arrays
would be a matrix. `slot_columns` are the columns that it makes of them."""


def slot_texts(slots: Iterable[Slot]) -> dict[str, str | None]:
    return {
        "limit_keys": " ".join(slot.key for slot in slots) or None,
        "limit_sizes": " ".join(str(slot.size) for slot in slots) or None,
    }


def slot_columns(given: Mapping[str, ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
    return {
        "limit_keys": func.string_to_array(given["limit_keys"], " "),
        "limit_sizes": cast(func.string_to_array(given["limit_sizes"], " "), ARRAY(Integer)),
    }


_holder = tasks.alias("holder")
_blocked = tasks.alias("blocked")


def _running(
    tool: ColumnElement[str], key: ColumnElement[str], *outer: FromClause, but: ColumnElement[str] | None = None
) -> ColumnElement[int]:
    """How many hold the key, `but` that task; `outer` is where the arguments are columns of."""
    lingers = _holder.c.kept_until > func.clock_timestamp() - _MOMENT
    others = true() if but is None else _holder.c.id != but
    return (
        select(func.count())
        .where(_holder.c.tool == tool, _holder.c.limit_keys.is_not(None), key == any_(_holder.c.limit_keys))
        .where(or_(_holder.c.worker_id.is_not(None), _holder.c.kept_until.is_not(None)))
        .where(or_(_holder.c.worker_id.is_not(None), lingers), others)
        .correlate(*outer)
        .scalar_subquery()
    )


_SLOT = func.unnest(tasks.c.limit_keys, tasks.c.limit_sizes).table_valued("key", "size", name="slot").render_derived()


def room() -> ColumnElement[bool]:
    """None of the task's keys is held by as many as may hold it. True of what is stored, so only behind the locks."""
    full = _running(tasks.c.tool, _SLOT.c.key, tasks, _SLOT, but=tasks.c.id) >= _SLOT.c.size
    return ~exists(select(_SLOT.c.key).where(full).correlate(tasks))


_KEY = bindparam("key", type_=Text)
_KEYS = bindparam("keys", type_=ARRAY(Text))
_LOCKS = select(func.hashtextextended(func.unnest(_KEYS), 0).label("lock")).distinct().order_by("lock").subquery()
# In one order, as everybody who takes several.
_LOCK = prepared(select(func.pg_advisory_xact_lock(_LOCKS.c.lock)).select_from(_LOCKS))
_FULL = prepared(
    select(_SLOT.c.key)
    .select_from(tasks.join(_SLOT, true()))
    .where(
        tasks.c.id == bindparam("named"),
        _running(tasks.c.tool, _SLOT.c.key, tasks, _SLOT, but=tasks.c.id) >= _SLOT.c.size,
    )
    .limit(1)
)
_BLOCK = prepared(
    update(tasks)
    .where(
        tasks.c.id.in_(
            select(_blocked.c.id)
            .where(_blocked.c.queue == bindparam("route"), _blocked.c.tool == bindparam("of_tool"))
            .where(_blocked.c.phase == QUEUED, _blocked.c.blocked_by.is_(None))
            .where(any_(_blocked.c.limit_keys) == _KEY)
            .order_by(_blocked.c.priority.desc(), _blocked.c.turn, _blocked.c.created_at)
            .limit(BLOCK_BATCH)
            .with_for_update(skip_locked=True)
        )
    )
    .values(blocked_by=_KEY, status_message=BLOCKED_MESSAGE, **touched())
)

_IS_BLOCKED = and_(tasks.c.phase == QUEUED, tasks.c.blocked_by.is_not(None))
_size = tasks.c.limit_sizes[func.array_position(tasks.c.limit_keys, tasks.c.blocked_by)]
_FIRST_BLOCKED = (
    select(tasks.c.tool, _size.label("size"))
    .where(_IS_BLOCKED, tasks.c.blocked_by == _KEY)
    .order_by(*in_order())
    .limit(1)
    .cte("first_blocked")
)
_ROOM = select(
    func.greatest(0, _FIRST_BLOCKED.c.size - _running(_FIRST_BLOCKED.c.tool, _KEY, _FIRST_BLOCKED))
).scalar_subquery()
_FREED = (
    update(tasks)
    .where(
        tasks.c.id.in_(
            select(_blocked.c.id)
            .where(_blocked.c.blocked_by == _KEY, _blocked.c.phase == QUEUED)
            .where(_blocked.c.blocked_by.is_not(None))
            .order_by(_blocked.c.priority.desc(), _blocked.c.turn, _blocked.c.created_at)
            .limit(func.coalesce(_ROOM, 0, type_=Integer))
            .with_for_update(skip_locked=True)
        )
    )
    .values(blocked_by=None, rung_at=func.now(), status_message="Waiting for a worker", **touched())
    .returning(tasks.c.id, tasks.c.attempt, tasks.c.queue)
    .cte("freed")
)
_FREE = prepared(channels.telling(_FREED, _FREED.c.id, _FREED.c.attempt, _FREED.c.queue))
_KEYS_BLOCKED = (
    select(tasks.c.blocked_by.label("key"), func.min(tasks.c.tool).label("tool"), func.max(_size).label("size"))
    .where(_IS_BLOCKED)
    .group_by(tasks.c.blocked_by)
    .subquery()
)
_WITH_ROOM = prepared(
    select(_KEYS_BLOCKED.c.key)
    .where(_running(_KEYS_BLOCKED.c.tool, _KEYS_BLOCKED.c.key, _KEYS_BLOCKED) < _KEYS_BLOCKED.c.size)
    .limit(KEYS_BATCH)
)


class Limits:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._few = asyncio.Semaphore(AT_ONCE)

    async def claim(self, head: Prepared, claiming: Prepared, values: dict[str, Any]) -> Row | bool | None:
        """Claim what `head` selects (id, tool, queue, limit_keys) and locks, if it has limits and each has room.

        The claimed row; False when it found no room and was blocked, so that something else may be due; None when there
        is nothing, or nothing with limits, or room has come in the meantime.
        """
        async with self._few, self._database.transaction() as connection:
            first = (await connection.execute(head, values)).one_or_none()
            if first is None or first.limit_keys is None:
                return None
            await connection.execute(_LOCK, {"keys": first.limit_keys})
            row: Row | None = (await connection.execute(claiming, {**values, "limited": first.id})).one_or_none()
            if row is not None:
                return row
            key = (await connection.execute(_FULL, {"named": first.id})).scalar_one_or_none()
            if key is None:
                return None
            await connection.execute(_BLOCK, {"route": first.queue, "of_tool": first.tool, "key": key})
            return False

    async def free(self, keys: Sequence[str]) -> list[Doorbell]:
        """Make as many tasks due as have room under these keys now; their doorbells are for the caller to ring."""
        freed: list[Doorbell] = []
        for key in keys:
            async with self._few, self._database.transaction() as connection:
                await connection.execute(_LOCK, {"keys": [key]})
                rows = await connection.execute(_FREE, {"key": key})
                freed += [Doorbell(row.id, row.attempt + 1, row.queue) for row in rows]
        return freed

    async def free_all(self) -> list[Doorbell]:
        """The same for every key with room, for what a worker that died left blocked."""
        keys = [row.key for row in await self._database.run(_WITH_ROOM)]
        return await self.free(keys)
