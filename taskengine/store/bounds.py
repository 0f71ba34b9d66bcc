"""How many tasks may be open, and how many may wait: looked at by the statement that creates one.

Bounds of open tasks up to `FAR` hold exactly, however many front ends create at once. A create takes the lock of its
owner and then, in the same round trip, counts and inserts. A lone one shares the lock: what it cannot see are the
creates of others that have not committed, of which there are never more than connections, so it goes through only where
there is room for all of them besides. Several of one owner in one batch, and one that is closer to the bound, take the
lock for themselves; that waits for those others, and what is unseen are those before it in its own batch. So creates
wait for each other only where an owner's come in crowds or close to a bound; and with them those of other owners in the
same batch. One that would fit but for what it does not see is looked at once more, where nothing is unseen: it came
close to the bound, or what stood before it in its batch joined another task.

The locks are taken by an execution of their own before the creates of a batch: what a statement sees is as old as its
beginning, and one that waited for the lock itself would not see what was created meanwhile.

A count reads no more rows than the bound allows. Where a bound is large and what was counted lately is far below it, it
is not counted (`FAR`): what all front ends create within twice `FRESH_S`, beyond that room, may pass such a bound.

The bounds of what waits in the queues are to keep a backlog from growing without end, and are not exact: creates at
the same instant may pass them together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
)

from taskengine.errors import Busy, LimitReached
from taskengine.store.batches import Batches
from taskengine.store.database import Database, Row
from taskengine.store.statements import Prepared, given_row, given_rows
from taskengine.store.tables import tasks
from taskengine.store.turns import QUEUED

__all__ = ["NO_BOUNDS", "Bounds", "Gate", "Room"]

FAR = 2_000
"""So much room, by a count that is younger than `FRESH_S`, is not looked at again: the other front ends do not
create as fast as that."""
FRESH_S = 0.5
NEAR_S = 1.0
MOST_OWNERS = 10_000
RETRY_OPEN_S = 10.0
RETRY_BUSY_S = 5.0
TOTAL = "taskengine open tasks"
"""The name of the lock of all owners together."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """None for no bound."""

    owner_open: int | None = None
    """Tasks of the owner that have not ended."""
    all_open: int | None = None
    """Those of all owners."""
    all_queued: int | None = None
    """Tasks that wait for a worker, in all queues."""
    route_queued: int | None = None
    """The same in the queue that the call goes into."""


NO_BOUNDS = Bounds()

_NAMES = tuple(field.name for field in fields(Bounds))
_LIMITS = {f"b_{name}": BigInteger for name in _NAMES}
_CREATE = {"id": Text, "owner": Text, "queue": Text, "alone": Boolean, **_LIMITS}
_LOCK = {"lock": Text, "whole": Boolean}
"""Of an execution that takes locks, and creates nothing: all else is NULL there, and these in the others."""
_OF = {"owner_open": "owner", "route_queued": "queue"}
"""Of which owner or queue a count is; without, of all."""
_EXACT = ("owner_open", "all_open")
"""Those of open tasks; the others are of what waits."""
_counted = tasks.alias("counted")


class Room:
    """Of the statement that creates, what looks whether there is room: for one, or for several at once.

    The INSERT takes its rows from `tally`, one for each create by its `id`, where there is `enough`.
    """

    def __init__(self, *, several: bool) -> None:
        given = given_rows if several else given_row
        self._creates = given(_CREATE, "creates")
        self._taken = _taken(given(_LOCK, "locks"))
        self.tally = select(
            self._creates.c.id,
            self._creates.c.owner,
            self._creates.c.alone,
            *(self._creates.c[name] for name in _LIMITS),
            *(self._count(name) for name in _NAMES),
            *(self._unseen(name) for name in _EXACT),
            select(self._taken.c.locks).scalar_subquery().label("locks"),
        ).cte("tally")
        self.enough = and_(self.tally.c.locks == literal_column("0"), *(self._fits(name) for name in _NAMES))

    def counted(self, made: CTE) -> Select[Any]:
        """Each id that was to be made, `made` (created_at, now) where it was, what was counted, and of what is exact
        how many it may be at most (`most_…`), with what could not be seen."""
        tally = self.tally
        source = self._taken.outerjoin(tally, true()).outerjoin(made, made.c.id == tally.c.id)
        return select(
            tally.c.id,
            made.c.created_at,
            made.c.now,
            *(self._with_made(name, made) if name in _EXACT else tally.c[name] for name in _NAMES),
            *((tally.c[name] + tally.c[f"unseen_{name}"]).label(f"most_{name}") for name in _EXACT),
        ).select_from(source)

    def _with_made(self, name: str, made: CTE) -> ColumnElement[int]:
        """The count, with what this statement made, where there is nothing else that it did not see."""
        tally = self.tally
        whose = tally.c[_OF[name]] if name in _OF else None
        beside = case((tally.c.alone, func.count(made.c.id).over(partition_by=whose)), else_=literal(0))
        return (tally.c[name] + beside).label(name)

    def _count(self, name: str) -> ColumnElement[int]:
        """Up to the bound; 0 where there is none."""
        bound = self._creates.c[f"b_{name}"]
        counts = _counted.c.ended_at.is_(None) if name in _EXACT else _counted.c.phase == QUEUED
        if name in _OF:
            counts = and_(counts, _counted.c[_OF[name]] == self._creates.c[_OF[name]])
        found = select(literal(1).label("one")).where(counts).limit(bound).correlate(self._creates).subquery()
        many = select(func.count()).select_from(found).scalar_subquery()
        return case((bound.is_not(None), many), else_=literal(0)).label(name)

    def _unseen(self, name: str) -> ColumnElement[int]:
        """As many as others may be creating meanwhile, and as stand before it in its batch."""
        connections: ColumnElement[int] = literal_column("current_setting('max_connections')::bigint")
        others = case((self._creates.c.alone, literal(0)), else_=connections)
        whose = self._creates.c[_OF[name]] if name in _OF else None
        return (others + func.row_number().over(partition_by=whose) - 1).label(f"unseen_{name}")

    def _fits(self, name: str) -> ColumnElement[bool]:
        bound, most = self.tally.c[f"b_{name}"], self.tally.c[name]
        return or_(bound.is_(None), (most + self.tally.c[f"unseen_{name}"] if name in _EXACT else most) < bound)


def _taken(locks: FromClause) -> CTE:
    """How many locks were taken."""
    key = func.hashtextextended(locks.c.lock, 1)
    take = case((locks.c.whole, func.pg_advisory_xact_lock(key)), else_=func.pg_advisory_xact_lock_shared(key))
    return select(func.count(take).label("locks")).where(locks.c.lock.is_not(None)).cte("taken")


@dataclass(slots=True)
class _Seen:
    """What was counted, when, and how many this process had let by uncounted until then, of whatever owner."""

    at: float
    counted: int
    let_by: int
    again: bool = False
    """Somebody counts again."""


class Gate:
    """Creates tasks for one process, with as little counting as the bounds need."""

    def __init__(self, database: Database, plain: Batches, within: Prepared, large: Sequence[str]) -> None:
        """`plain` inserts and returns the row that was inserted; `within` is made with `Room`, with these parameters
        that may be `large`."""
        self._database = database
        self._plain = plain
        self._within = within
        self._counting = Batches(database, within, {"id": "id"}, large=large, line="owner", arranged=_behind_locks)
        self._again = Batches(database, within, {"id": "id"}, most=1, large=large, arranged=_behind_locks)
        """One after the other, so that nobody stands before one, and each does not wait with a connection."""
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._let_by = 0
        self._near: dict[str, float] = {}
        """Owners that were close to a bound, and until when to take them for it; `TOTAL` for all of them."""

    async def create(self, values: dict[str, Any], bounds: Bounds) -> tuple[Row | None, LimitReached | None]:
        """The row; or None, with the reason when it is a bound, else because another task stands in the way."""
        close = self._close(values, bounds)
        if close == NO_BOUNDS:
            return await self._plain.run(values), None
        given = {**values, **{f"b_{name}": getattr(close, name) for name in _NAMES}, "lock": None, "whole": None}
        given["alone"] = self._is_near(values["owner"], close)
        if close.all_open is None or given["alone"]:
            row = await self._counting.run(given)
        else:  # a transaction that shares the lock of all is to have one create that the others do not see
            row = (await self._database.run_many(self._within, _behind_locks([given])))[-1]
        assert row is not None
        if row.created_at is None and _refusal(row, close) is None and self._came_near(values["owner"], row, close):
            row = await self._again.run({**given, "alone": True})
            assert row is not None
        self._note(values, row, close)
        return (row, None) if row.created_at is not None else (None, _refusal(row, close))

    def _close(self, values: Mapping[str, Any], bounds: Bounds) -> Bounds:
        """Those of the bounds that are not known to be far away."""
        if bounds == NO_BOUNDS:
            return bounds
        now = time.monotonic()
        far = [name for name in _NAMES if self._is_far(name, values, getattr(bounds, name), now)]
        if not far:
            return bounds
        self._let_by += 1
        return replace(bounds, **dict.fromkeys(far))

    def _is_far(self, name: str, values: Mapping[str, Any], bound: int | None, now: float) -> bool:
        if bound is None or bound <= FAR:
            return False
        seen = self._seen.get((name, _whose(name, values)))
        if seen is None or seen.at + 2 * FRESH_S < now:
            return False
        if seen.at + FRESH_S < now and not seen.again:  # one counts again, and the others do not wait for it
            seen.again = True
            return False
        return seen.counted + (self._let_by - seen.let_by) + FAR < bound

    def _note(self, values: Mapping[str, Any], counted: Row, close: Bounds) -> None:
        if len(self._seen) >= MOST_OWNERS:
            self._seen.clear()
        for name in _NAMES:
            if (getattr(close, name) or 0) > FAR:
                self._seen[name, _whose(name, values)] = _Seen(time.monotonic(), counted[name], self._let_by)

    def _is_near(self, owner: str, close: Bounds) -> bool:
        now = time.monotonic()
        near = close.owner_open is not None and now < self._near.get(owner, 0.0)
        return near or (close.all_open is not None and now < self._near.get(TOTAL, 0.0))

    def _came_near(self, owner: str, counted: Row, close: Bounds) -> bool:
        """It was not inserted because of what cannot be seen; else another task stands in its way."""
        if len(self._near) >= MOST_OWNERS:
            self._near.clear()
        until = time.monotonic() + NEAR_S
        exact = (
            (owner, counted.most_owner_open, close.owner_open),
            (TOTAL, counted.most_all_open, close.all_open),
        )
        near = [whose for whose, most, bound in exact if bound is not None and most >= bound]
        self._near.update(dict.fromkeys(near, until))
        return bool(near)


def _whose(name: str, values: Mapping[str, Any]) -> str:
    """What the count of this name is of."""
    return str(values[_OF[name]]) if name in _OF else ""


def _behind_locks(creates: list[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The same creates, behind an execution that takes their locks in one order."""
    owners = Counter(each["owner"] for each in creates if each["b_owner_open"] is not None)
    alone = {each["owner"] for each in creates if each["alone"]} | {owner for owner, many in owners.items() if many > 1}
    locks = [(owner, owner in alone) for owner in sorted(owners)]
    total = [each["alone"] for each in creates if each["b_all_open"] is not None]
    if total:
        locks.append((TOTAL, all(total)))  # of several all are `alone`: others do not come into a batch (`Gate.create`)
    if not locks:
        return [creates]
    nothing = dict.fromkeys(creates[0])
    taken: list[Mapping[str, Any]] = [{**nothing, "lock": name, "whole": whole} for name, whole in locks]
    return [taken, [{**each, "alone": each["owner"] in alone} for each in creates]]


def _refusal(counted: Row, bounds: Bounds) -> LimitReached | None:
    for name in ("all_queued", "route_queued"):
        bound = getattr(bounds, name)
        if bound is not None and getattr(counted, name) >= bound:
            return Busy("queued_tasks", "More calls wait here than the server takes", RETRY_BUSY_S)
    if bounds.all_open is not None and counted.all_open >= bounds.all_open:
        return Busy("open_tasks", "As many tasks are open here as the server takes", RETRY_OPEN_S)
    if bounds.owner_open is not None and counted.owner_open >= bounds.owner_open:
        return LimitReached(
            "open_tasks_per_owner",
            f"You have {bounds.owner_open} open tasks, which is the most: wait for one to end, or cancel one",
            RETRY_OPEN_S,
        )
    return None
