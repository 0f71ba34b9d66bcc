"""How many tasks may be open, and how many may wait: looked at by the statement that creates one.

Bounds of open tasks up to `FAR` hold exactly, however many front ends create at once. Far from its bound a create is
one statement: it counts and inserts, holding a shared lock that is the owner's. What it cannot see are creates that
have not committed, of which there are never more than connections, so it goes through only where there is room for all
of them besides. Closer to the bound the create takes the lock for itself, which waits for those others, counts again
and then inserts. So only the creates of an owner who is close to a bound wait for each other.

A count reads no more rows than the bound allows. Where a bound is large and what was counted lately is far below it,
nothing is counted at all (`FAR`): what all front ends create within `FRESH_S`, beyond that room, may pass such a bound.

The bounds of what waits in the queues are to keep a backlog from growing without end, and are not exact: creates at
the same instant may pass them together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Text,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from taskengine.errors import Busy, LimitReached
from taskengine.lifecycle import Phase
from taskengine.store.batches import Batches
from taskengine.store.database import Database, Row
from taskengine.store.statements import Prepared, prepared
from taskengine.store.tables import tasks
from taskengine.store.turns import QUEUED

__all__ = ["NO_BOUNDS", "Bounds", "Gate", "conditional"]

FAR = 2_000
"""So much room, by a count that is younger than `FRESH_S`, is not looked at again: the other front ends do not
create as fast as that."""
FRESH_S = 0.5
NEAR_S = 1.0
MOST_OWNERS = 10_000
RETRY_OPEN_S = 10.0
RETRY_BUSY_S = 5.0
_DONE: ColumnElement[str] = literal_column(f"'{Phase.DONE}'")
_TOTAL_LOCK: ColumnElement[int] = literal_column("hashtextextended('taskengine open tasks', 1)")


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

_counted = tasks.alias("counted")
_OPEN = _counted.c.phase != _DONE
_WAITS = _counted.c.phase == QUEUED
_OWNERS = _counted.c.owner == bindparam("owner", type_=Text)
_WHICH: Mapping[str, ColumnElement[bool]] = {
    "owner_open": and_(_OPEN, _OWNERS),
    "all_open": _OPEN,
    "all_queued": _WAITS,
    "route_queued": and_(_WAITS, _counted.c.queue == bindparam("queue", type_=Text)),
}


def _bound(name: str) -> ColumnElement[int | None]:
    return bindparam(f"b_{name}", type_=BigInteger)


def _count(name: str) -> ColumnElement[int]:
    """Up to the bound; 0 where there is none."""
    found = select(literal(1).label("one")).where(_WHICH[name]).limit(_bound(name)).subquery()
    return case(
        (_bound(name).is_not(None), select(func.count()).select_from(found).scalar_subquery()), else_=literal(0)
    ).label(name)


_OWNER_LOCK = func.hashtextextended(bindparam("owner", type_=Text), 1)
_LOCKS = (
    case((_bound("owner_open").is_not(None), func.pg_advisory_xact_lock_shared(_OWNER_LOCK))).label("of_owner"),
    case((_bound("all_open").is_not(None), func.pg_advisory_xact_lock_shared(_TOTAL_LOCK))).label("of_all"),
)
_TALLY = select(*(_count(name) for name in _WHICH), *_LOCKS).cte("tally")
_OTHERS: ColumnElement[int] = literal_column("current_setting('max_connections')::bigint")
_COUNT = prepared(select(*(_count(name) for name in _WHICH), _OTHERS.label("others")))
_UNSEEN = case((bindparam("alone", type_=Boolean), literal(0)), else_=_OTHERS)
_WITHIN = and_(
    *(or_(_bound(name).is_(None), _TALLY.c[name] + _UNSEEN < _bound(name)) for name in ("owner_open", "all_open")),
    *(or_(_bound(name).is_(None), _TALLY.c[name] < _bound(name)) for name in ("all_queued", "route_queued")),
)
_LOCK_OWNER = select(func.pg_advisory_xact_lock(_OWNER_LOCK))
_LOCK_ALL = select(func.pg_advisory_xact_lock(_TOTAL_LOCK))


def conditional(new: Mapping[str, Any]) -> Insert:
    """The INSERT of a task with these values, that inserts only within the bounds."""
    values = [
        value if isinstance(value, ColumnElement) else literal(value, tasks.c[name].type) for name, value in new.items()
    ]
    return insert(tasks).from_select(list(new), select(*values).select_from(_TALLY).where(_WITHIN))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was counted, when, and how many this process had let by uncounted until then, of whatever owner."""

    at: float
    counted: Row
    let_by: int


class Gate:
    """Creates tasks for one process, with as little counting as the bounds need."""

    def __init__(self, database: Database, plain: Batches, within: Prepared) -> None:
        """`plain` inserts and `within` does so within the bounds; both return the row that was inserted."""
        self._database = database
        self._plain = plain
        self._within = within
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._let_by = 0
        self._near: dict[str, float] = {}
        """Owners that were close to a bound, and until when to take them for it."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def create(self, values: dict[str, Any], bounds: Bounds) -> tuple[Row | None, LimitReached | None]:
        """The row; or None, with the reason when it is a bound, else because another task stands in the way."""
        if bounds == NO_BOUNDS or self._is_far(values, bounds):
            return await self._plain.run(values), None
        given = values | {f"b_{name}": value for name, value in asdict(bounds).items()}
        if time.monotonic() < self._near.get(values["owner"], 0.0):
            return await self._alone(given, bounds)
        row = (await self._database.run(self._within, {**given, "alone": False})).one_or_none()
        if row is not None and not self._worth_counting(bounds):
            return row, None
        counted: Any = (await self._database.run(_COUNT, given)).one()
        self._note(values, counted)
        if row is not None:
            return row, None
        refusal = _refusal(counted, bounds)
        if refusal is None and _is_near(counted, bounds):
            if len(self._near) >= MOST_OWNERS:
                self._near.clear()
            self._near[values["owner"]] = time.monotonic() + NEAR_S
            row, refusal = await self._alone(given, bounds)
        return row, refusal

    async def _alone(self, given: dict[str, Any], bounds: Bounds) -> tuple[Row | None, LimitReached | None]:
        """The same while no other create counts under these bounds.

        Within this process they wait here and not each with a connection, which others have more use for.
        """
        turn = self._turns.setdefault("" if bounds.owner_open is None else given["owner"], asyncio.Lock())
        async with turn, self._database.transaction() as connection:
            if bounds.owner_open is not None:
                await connection.execute(_LOCK_OWNER, given)
            if bounds.all_open is not None:
                await connection.execute(_LOCK_ALL, given)
            row = (await connection.execute(self._within, {**given, "alone": True})).one_or_none()
            if row is not None:
                return row, None
            counted: Any = (await connection.execute(_COUNT, given)).one()
            return None, _refusal(counted, bounds)

    @staticmethod
    def _worth_counting(bounds: Bounds) -> bool:
        """Only a bound that leaves so much room can be far away."""
        return all(bound is None or bound > FAR for bound in asdict(bounds).values())

    def _is_far(self, values: Mapping[str, Any], bounds: Bounds) -> bool:
        if not self._worth_counting(bounds):
            return False
        seen = self._seen.get((values["owner"], values["queue"]))
        if seen is None or time.monotonic() - seen.at > FRESH_S:
            return False
        since = self._let_by - seen.let_by
        for name, bound in asdict(bounds).items():
            if bound is not None and getattr(seen.counted, name) + since + FAR >= bound:
                return False
        self._let_by += 1
        return True

    def _note(self, values: Mapping[str, Any], counted: Row) -> None:
        if len(self._seen) >= MOST_OWNERS:
            self._seen.clear()
        self._seen[values["owner"], values["queue"]] = _Seen(time.monotonic(), counted, self._let_by)


def _is_near(counted: Row, bounds: Bounds) -> bool:
    """It was not inserted because of what cannot be seen; else another task stands in its way."""
    exact = [(counted.owner_open, bounds.owner_open), (counted.all_open, bounds.all_open)]
    return any(bound is not None and found + counted.others >= bound for found, bound in exact)


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
