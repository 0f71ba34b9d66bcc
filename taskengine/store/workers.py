"""Worker processes: their lease, their presence lock, and what happens to the tasks of one that died.

Presence is a session advisory lock that falls within milliseconds of a kill; the lease is the backstop for a worker
that is frozen or cut off. The lock is looked at twice, a second apart, and not within one lease of a start of
Postgres, when nobody holds a lock yet (`shared/faults.md`, section 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    Double,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    column,
    delete,
    exists,
    extract,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)

from taskengine.lifecycle import Event, sources, target
from taskengine.losses import WITH_WORKER, failure, failure_message
from taskengine.points import point
from taskengine.records import Doorbell
from taskengine.store import channels, turns
from taskengine.store.database import Database
from taskengine.store.endings import ending, touched
from taskengine.store.losses import by_task, reading
from taskengine.store.payload import dump
from taskengine.store.statements import prepared
from taskengine.store.tables import losses, tasks, workers

__all__ = ["Reaped", "Workers", "may_be_dead", "orphaned", "suspecting"]

_held = exists(
    text(
        "1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND ((classid::bigint << 32) | objid::bigint) = workers.presence_key"
    )
)
_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")


@dataclass(frozen=True, slots=True)
class Reaped:
    """What became of dead workers' tasks."""

    workers: tuple[str, ...]
    """Those that are forgotten now."""
    doorbells: tuple[Doorbell, ...]
    """Attempts that are due instead of the lost ones."""
    failed: tuple[str, ...]
    """Tasks that lost too many attempts."""


_renewed = (
    update(workers)
    .where(workers.c.id == bindparam("worker"))
    .values(lease_until=func.clock_timestamp() + bindparam("lease_s", type_=Double) * _SECOND)
    .returning(workers.c.id)
    .cte("renewed")
)
_RENEW = prepared(
    select(tasks.c.id.label("task_id"), tasks.c.attempt).select_from(
        _renewed.outerjoin(tasks, tasks.c.worker_id == _renewed.c.id)
    )
)


_resigned = delete(workers).where(workers.c.id == bindparam("worker")).returning(workers.c.lease_until).cte("resigned")
_seen = func.least(func.clock_timestamp(), select(_resigned.c.lease_until).scalar_subquery())
_released = (
    update(tasks)
    .where(tasks.c.worker_id == bindparam("worker"), tasks.c.phase.in_(sources(Event.RELEASE)))
    .values(
        status=target(Event.RELEASE).status,
        phase=target(Event.RELEASE).phase,
        worker_id=None,
        ran_ms=tasks.c.ran_ms
        + cast(func.greatest(0, func.coalesce(extract("epoch", _seen - tasks.c.claimed_at), 0) * 1000), BigInteger),
        turn=turns.again(),
        status_message="Waiting for another worker",
        **touched(),
    )
    .returning(tasks.c.id)
    .cte("released")
)
_RESIGN = prepared(channels.telling(_released, _released.c.id).add_cte(_resigned))


def suspecting(lease_s: ColumnElement[float]) -> CTE:
    """Note since when each worker's presence lock is free; the suspicion of one that holds its lock again is
    forgotten."""
    settled = func.pg_postmaster_start_time() < func.clock_timestamp() - lease_s * _SECOND
    unsuspected = workers.c.suspected_at.is_(None)
    changed = (
        select(workers.c.id)
        .where(workers.c.presence_key.is_not(None))
        .where(or_(and_(unsuspected, ~_held, settled), and_(~unsuspected, _held)))
        .with_for_update(skip_locked=True)  # it must not wait for a `reap` while leases wait for it
        .cte("changed")
    )
    return (
        update(workers)
        .where(workers.c.id.in_(select(changed.c.id)))
        .values(suspected_at=text("CASE WHEN suspected_at IS NULL THEN clock_timestamp() END"))
        .returning(workers.c.id)
        .cte("suspected")
    )


def may_be_dead() -> ColumnElement[bool]:
    """There is a worker that `reap` would find dead, as far as its lease and the suspicion tell."""
    return exists().where(
        or_(workers.c.lease_until < func.clock_timestamp(), workers.c.suspected_at < func.clock_timestamp() - _SECOND)
    )


def orphaned(lease_s: ColumnElement[float]) -> ColumnElement[bool]:
    """Held by a worker that is not registered: one that was buried while it claimed."""
    return and_(
        tasks.c.worker_id.is_not(None),
        ~exists().where(workers.c.id == tasks.c.worker_id),
        tasks.c.claimed_at < func.clock_timestamp() - lease_s * _SECOND,
    )


class Workers:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(
        self, worker_id: str, *, host: str, pid: int, queues: Sequence[str], presence_key: int | None, lease_s: float
    ) -> None:
        """Make the worker known, with a lease from now. Its presence lock must be held already."""
        await self._database.run(
            insert(workers).values(
                id=worker_id,
                host=host,
                pid=pid,
                queues=dump(list(queues)),
                presence_key=presence_key,
                lease_until=_from_now(lease_s),
            )
        )

    async def renew(self, worker_id: str, lease_s: float) -> frozenset[tuple[str, int]] | None:
        """The lease runs from now; the (task, attempt) pairs that the worker holds by the store's word.

        Whatever else it runs was taken from it. None when it was declared dead: it holds nothing any more and must
        register anew.
        """
        rows = await self._database.run(_RENEW, {"worker": worker_id, "lease_s": lease_s})
        if not rows:
            return None
        return frozenset((row.task_id, row.attempt) for row in rows if row.task_id is not None)

    async def leave(self, worker_id: str) -> None:
        """Forget a worker that stops. Tasks it still holds are found by `reap` as those of nobody."""
        await self._database.run(delete(workers).where(workers.c.id == worker_id))

    async def resign(self, worker_id: str) -> int:
        """Forget a worker that has stopped all it ran, since it could not vouch for its lease; how many tasks it held.

        They are due again with nothing held against them, as after a drain; the relay rings. Their running time counts
        up to the end of the lease. A worker that has been declared dead already holds nothing any more.
        """
        return len(await self._database.run(_RESIGN, {"worker": worker_id}))

    async def alive(self) -> list[dict[str, Any]]:
        """Every worker whose lease runs: id, host, pid, queues (JSON text), started_at, seconds left."""
        rows = await self._database.run(
            select(
                workers.c.id,
                workers.c.host,
                workers.c.pid,
                workers.c.queues,
                workers.c.started_at,
                workers.c.lease_until,
            )
            .where(workers.c.lease_until > func.clock_timestamp())
            .order_by(workers.c.started_at)
        )
        return [dict(row) for row in rows]

    async def reap(self, lease_s: float, max_crashes: int) -> Reaped:
        """Declare dead workers dead and make their tasks due again; those that lost too many attempts fail.

        A task whose holder is not registered at all belongs to a worker that left or was declared dead while it
        claimed; it is taken back the same way, once the claim is older than a lease.

        A task whose row somebody has locked does not hold up the others: it is left with its dead worker, which a later
        round finds again and forgets with the last of its tasks.
        """
        now = func.clock_timestamp()
        settled = func.pg_postmaster_start_time() < now - lease_s * _SECOND
        dead = or_(
            (workers.c.lease_until < now) & settled,
            workers.c.suspected_at < now - _SECOND,
        )
        async with self._database.transaction() as connection:
            found = await connection.execute(
                select(workers.c.id, workers.c.lease_until).where(dead).with_for_update(skip_locked=True)
            )
            last_seen = {row.id: row.lease_until for row in found}
            dead_ids = tuple(last_seen)
            ran_ms = _ran_until(last_seen)
            gone = await connection.execute(
                select(tasks.c.id, tasks.c.attempt, tasks.c.worker_id, tasks.c.crashes)
                .where(
                    or_(tasks.c.worker_id.in_(dead_ids), orphaned(literal(lease_s, Double))),
                    tasks.c.worker_id.is_not(None),
                )
                .order_by(tasks.c.id)
                .with_for_update(skip_locked=True)
            )
            held = list(gone)
            if held:
                await connection.execute_many(
                    insert(losses),
                    [
                        {
                            "task_id": row.id,
                            "attempt": row.attempt,
                            "worker_id": row.worker_id,
                            "cause": WITH_WORKER.cause,
                        }
                        for row in held
                    ],
                )
            status, phase = target(Event.LOSE)
            again = (
                update(tasks)
                .where(_named([row.id for row in held if row.crashes + 1 < max_crashes]))
                .where(tasks.c.phase.in_(sources(Event.LOSE)))
                .values(
                    status=status,
                    phase=phase,
                    worker_id=None,
                    crashes=tasks.c.crashes + 1,
                    ran_ms=ran_ms,
                    turn=turns.again(),
                    rung_at=func.now(),
                    status_message=func.concat("Attempt ", tasks.c.attempt, " was lost with its worker"),
                    **touched(),
                )
                .returning(tasks.c.id, tasks.c.attempt, tasks.c.queue)
                .cte("again")
            )
            due = await connection.execute(channels.telling(again, again.c.id, again.c.attempt, again.c.queue))
            doorbells = tuple(Doorbell(row.id, row.attempt + 1, row.queue) for row in due)
            if dead_ids:
                point("bury.half")
            failed = [row.id for row in held if row.crashes + 1 >= max_crashes]
            histories = by_task(await connection.execute(reading(failed))) if failed else {}
            for task_id, history in histories.items():
                abandoned = (
                    update(tasks)
                    .where(tasks.c.id == task_id, tasks.c.phase.in_(sources(Event.ABANDON)))
                    .values(
                        **ending(Event.ABANDON),
                        ran_ms=ran_ms,
                        crashes=tasks.c.crashes + 1,
                        error=failure(history),
                        status_message=failure_message(history),
                    )
                    .returning(tasks.c.id)
                    .cte("abandoned")
                )
                await connection.execute(channels.telling(abandoned, abandoned.c.id))
            buried = await connection.execute(
                delete(workers)
                .where(workers.c.id == any_(literal(list(dead_ids), ARRAY(Text))))
                .where(~exists().where(tasks.c.worker_id == workers.c.id))
                .returning(workers.c.id)
            )
            return Reaped(tuple(row.id for row in buried), doorbells, tuple(failed))


def _named(task_ids: Sequence[str]) -> ColumnElement[bool]:
    return tasks.c.id == any_(literal(list(task_ids), ARRAY(Text)))


def _ran_until(last_seen: Mapping[str, datetime]) -> ColumnElement[int]:
    """The running time of a lost attempt counts, up to the end of its worker's lease: what came after is not known."""
    seen = (
        func.unnest(
            literal(list(last_seen), ARRAY(Text)), literal(list(last_seen.values()), ARRAY(DateTime(timezone=True)))
        )
        .table_valued(column("id", Text), column("until", DateTime(timezone=True)), name="seen")
        .render_derived()
    )
    end = func.least(func.clock_timestamp(), seen.c.until)
    ran = cast(func.greatest(0, extract("epoch", end - tasks.c.claimed_at) * 1000), BigInteger)
    return tasks.c.ran_ms + func.coalesce(
        select(ran).where(seen.c.id == tasks.c.worker_id).correlate(tasks).scalar_subquery(), 0
    )


def _from_now(seconds: float) -> Any:
    return func.clock_timestamp() + seconds * _SECOND
