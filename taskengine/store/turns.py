"""The order of the queues: fair among owners, whatever each of them has sent (start-time fair queuing).

A task that comes into a queue gets a turn: the one after the last of its owner there, and never one before the front of
the queue. So the first task of an owner who has nothing there stands at the front, however long the others' backlogs
are, and the owners take turns from then on. A task that comes back (its answer is there, its worker died) is counted
by itself: it does not go behind what its own owner has sent since, and many that come back at once do not overtake the
others.

A task that a limit of its tool holds back is not at the front of the queue, but of those that wait for the same limit.
Where nobody waits, the next of the sequence is the front: it is above every turn that was given before.

Turns are read without a lock. Of two calls of one owner at the same instant both may get the same turn, which is as
good; the older goes first.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    func,
    literal_column,
    select,
    true,
)

from taskengine.lifecycle import Phase
from taskengine.store.tables import tasks, turns

__all__ = ["again", "in_order", "of_entry"]

# As literals: Postgres must see at planning time that its partial indexes fit.
QUEUED: ColumnElement[str] = literal_column(f"'{Phase.QUEUED}'")
_ZERO: ColumnElement[int] = literal_column("0")

_there = tasks.alias("there")
_theirs = tasks.alias("theirs")
_own = tasks.alias("own")


def of_entry(
    owner: ColumnElement[str],
    queue: ColumnElement[str],
    priority: ColumnElement[int],
    keys: ColumnElement[Any],
    *outer: FromClause,
    first: bool,
    nth: ColumnElement[int] | None = None,
    many: ColumnElement[int] | None = None,
) -> ColumnElement[int]:
    """The turn of what comes into a queue now; `first` for a task that no worker has had. `keys` are its limits.

    `outer` is where the other arguments are columns of. A statement that brings several, which do not see each other,
    counts those of one owner, queue and priority (`nth`, from 0) and says how `many` they are at most.
    """
    front = (
        select(_there.c.turn)
        .where(_there.c.queue == queue, _there.c.priority == priority)
        .where(_there.c.phase == QUEUED, _there.c.blocked_by.is_(None))
        .order_by(_there.c.turn)
        .limit(1)
        .correlate(*outer)
        .scalar_subquery()
    )
    key = func.unnest(keys).table_valued("key", name="keys").render_derived()
    held_back = (
        select(_theirs.c.turn)
        .where(_theirs.c.blocked_by == key.c.key, _theirs.c.priority == priority, _theirs.c.phase == QUEUED)
        .order_by(_theirs.c.turn)
        .limit(1)
        .correlate(key, *outer)
        .lateral("held_back")
    )
    front_of_limit = (
        select(func.min(held_back.c.turn)).select_from(key.join(held_back, true())).correlate(*outer).scalar_subquery()
    )
    last = (
        select(func.max(_own.c.turn))
        .where(_own.c.owner == owner, _own.c.queue == queue, _own.c.priority == priority, _own.c.phase == QUEUED)
        .where(_own.c.attempt == _ZERO if first else _own.c.attempt > _ZERO)
        .correlate(*outer)
        .scalar_subquery()
    )
    # As a query of its own it is asked once in a statement: the rows of a batch come in any order.
    # For several it is the first of as many as there are: none of them gets a turn above the sequence.
    drawn = select(turns.next_value().label("turn"))
    if many is not None:
        drawn = drawn.select_from(func.generate_series(literal_column("1"), many).alias("numbers"))
    newest = select(func.min(drawn.subquery("drawn").c.turn)).scalar_subquery()
    # NULLs do not count in either function.
    turn = func.greatest(func.least(newest, front, front_of_limit), last + 1, type_=BigInteger)
    return turn if nth is None else turn + nth


def again(nth: ColumnElement[int] | None = None, many: ColumnElement[int] | None = None) -> ColumnElement[int]:
    """For an UPDATE that brings tasks back into their queue; `nth` and `many` as of `of_entry`."""
    owner, queue, priority, keys = tasks.c.owner, tasks.c.queue, tasks.c.priority, tasks.c.limit_keys
    return of_entry(owner, queue, priority, keys, tasks, first=False, nth=nth, many=many)


def in_order() -> tuple[ColumnElement[Any], ...]:
    """The ORDER BY of everybody who takes from a queue."""
    return tasks.c.priority.desc(), tasks.c.turn, tasks.c.created_at
