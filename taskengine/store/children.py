"""Tasks that other tasks called: they end with the one that called them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Text, exists, func, literal, select, update

from taskengine.lifecycle import Event, Phase, sources
from taskengine.store import channels
from taskengine.store.audit import ENGINE, noting
from taskengine.store.database import Database, Transaction
from taskengine.store.endings import ending, withdraw
from taskengine.store.tables import tasks

__all__ = ["Children", "cancel_below", "parent_alive"]

BATCH = 500
WITH_CALLER = "with the task that called it"
_parent = tasks.alias("parent")


def parent_alive() -> ColumnElement[bool]:
    """The task that called this one still needs it."""
    return exists().where(_parent.c.id == tasks.c.parent, _parent.c.phase != Phase.DONE)


class Children:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def depth(self, task_id: str, most: int) -> int:
        """How many tasks stand above this one: what called it, what called that, and so on; counted up to `most`."""
        above = select(tasks.c.parent, literal(0).label("depth")).where(tasks.c.id == task_id)
        line = above.cte("line", recursive=True)
        line = line.union_all(
            select(_parent.c.parent, line.c.depth + 1).where(_parent.c.id == line.c.parent, line.c.depth < most)
        )
        return int((await self._database.run(select(func.max(line.c.depth)))).scalar_one() or 0)

    async def cancel_orphans(self, parent: str | None = None) -> int:
        """Cancel live tasks whose caller has ended, of one caller or up to `BATCH` of any; how many.

        What they called in their turn is found the next time.
        """
        ended = exists().where(_parent.c.id == tasks.c.parent, _parent.c.phase == Phase.DONE)
        which = tasks.c.parent == parent if parent is not None else tasks.c.parent.is_not(None)
        found = (
            select(tasks.c.id, tasks.c.worker_id)
            .where(which, tasks.c.phase != Phase.DONE, ended)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as connection:
            rows = await connection.execute(found)
            await _cancel(
                connection, {row.id: row.worker_id for row in rows}, ENGINE if self._database.audits else None
            )
            return len(rows)


async def cancel_below(connection: Transaction, task_id: str, *, actor: str | None) -> None:
    """Cancel every live task that this one called, and what those called. `actor` is who cancelled it, for the audit
    log; None where there is none."""
    below = (
        select(tasks.c.id).where(tasks.c.parent == task_id, tasks.c.phase != Phase.DONE).cte("below", recursive=True)
    )
    nested = tasks.alias("nested")
    below = below.union(select(nested.c.id).where(nested.c.parent == below.c.id, nested.c.phase != Phase.DONE))
    found = select(tasks.c.id, tasks.c.worker_id).where(tasks.c.id.in_(select(below.c.id)))
    # In one order, as everybody who locks several.
    found = found.order_by(tasks.c.id).with_for_update()
    rows = await connection.execute(found)
    await _cancel(connection, {row.id: row.worker_id for row in rows}, actor)


async def _cancel(connection: Transaction, held: dict[str, str | None], actor: str | None) -> None:
    """Cancel these tasks, whose rows are locked, and tell the workers that hold them."""
    if not held:
        return
    named = tasks.c.id.in_(list(held))
    cancelled = (
        update(tasks)
        .where(named, tasks.c.phase.in_(sources(Event.CANCEL)))
        .values(**ending(Event.CANCEL), status_message="Cancelled with the task that called it")
        .returning(tasks.c.id, tasks.c.owner, tasks.c.tool)
        .cte("cancelled")
    )
    told = channels.telling(cancelled, cancelled.c.id)
    if actor is not None:
        who, whose, what = literal(actor, Text), cancelled.c.owner, cancelled.c.tool
        told = told.add_cte(noting(cancelled, "cancel", actor=who, owner=whose, tool=what, detail=WITH_CALLER))
    await connection.execute(told)
    await connection.execute(withdraw(named))
    for worker_id in sorted({worker_id for worker_id in held.values() if worker_id is not None}):
        await connection.execute(select(func.pg_notify(channels.WORKERS, worker_id)))
