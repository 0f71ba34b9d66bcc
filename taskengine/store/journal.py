"""The journal: what a task's function has done, written by the attempt that holds the task and read by the next.

An entry that is done never changes. Each write is one statement, conditioned on the attempt, and holds the task's row
while it commits: an attempt that is taken away meanwhile has either written before the next one reads, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Integer,
    Text,
    bindparam,
    case,
    exists,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from taskengine.errors import ClaimLost
from taskengine.lifecycle import Phase, Status
from taskengine.records import ChildState, Claim, Doorbell, Entry, NewTask
from taskengine.store import callers, retention, turns
from taskengine.store.audit import noting
from taskengine.store.blinding import Blinding
from taskengine.store.creation import ACCEPTED
from taskengine.store.database import Database, Row
from taskengine.store.fence import fence, holding
from taskengine.store.limits import SLOT_TEXTS, slot_columns, slot_texts
from taskengine.store.payload import dump, load, questions_of
from taskengine.store.sealing import Sealing
from taskengine.store.statements import given_rows, prepared
from taskengine.store.tables import inputs, journal, tasks

__all__ = ["Journal", "columns_of", "writing"]

_COLUMNS: dict[str, Any] = {
    "path": Text,
    "kind": Text,
    "name": Text,
    "done": Boolean,
    "value": Text,
    "error": Text,
    "tries": Integer,
    "due": DateTime(timezone=True),
    "child_id": Text,
    "version": Text,
}
_ENTRIES = given_rows(_COLUMNS, "entries", "j_")
_CHILD_COLUMNS: dict[str, Any] = {
    "id": Text,
    "tool": Text,
    "queue": Text,
    "arguments": Text,
    "capabilities": Text,
    "caller": Text,
    "token": Text,
    "sensitive": Text,
    "ttl_ms": BigInteger,
    "poll_interval_ms": Integer,
    "priority": Integer,
}
_CHILDREN = given_rows({**_CHILD_COLUMNS, **SLOT_TEXTS}, "children", "c_")
_CHILD_SLOTS = slot_columns(dict(_CHILDREN.c.items()))


def writing(holder: CTE) -> Insert:
    """The INSERT of the entries in `columns_of`, for the task and attempt in `holder`."""
    written = insert(journal).from_select(
        ["task_id", "attempt", *_COLUMNS],
        select(holder.c.id, holder.c.attempt, *(_ENTRIES.c[name] for name in _COLUMNS)).select_from(
            holder.join(_ENTRIES, true())
        ),
    )
    changing = ("attempt", "done", "value", "error", "tries", "due", "version")
    return written.on_conflict_do_update(
        index_elements=["task_id", "path"],
        set_={name: written.excluded[name] for name in changing},
        where=~journal.c.done,
    )


def columns_of(sealing: Sealing, task_id: str, entries: Sequence[Entry]) -> dict[str, Any]:
    columns = {f"j_{name}": [getattr(entry, name) for entry in entries] for name in _COLUMNS}
    for name in ("value", "error"):
        columns[f"j_{name}"] = [
            sealing.seal(task_id, f"journal {name} {entry.path}", getattr(entry, name)) for entry in entries
        ]
    return columns


# What every step meets is built once.
_HELD = (
    select(tasks.c.id, tasks.c.attempt, tasks.c.owner, tasks.c.traceparent)
    .where(holding())
    .with_for_update(read=True)
    .cte("held")
)
_WRITTEN = writing(_HELD).returning(journal.c.path).cte("written")
_RECORD = prepared(select(_HELD.c.id).add_cte(_WRITTEN))
_MADE = (
    insert(tasks)
    .from_select(
        [
            *_CHILD_COLUMNS,
            "owner",
            "traceparent",
            "parent",
            "status",
            "phase",
            "status_message",
            "base_ttl_ms",
            "expires_at",
            "rung_at",
            *_CHILD_SLOTS,
            "turn",
        ],
        select(
            *(_CHILDREN.c[name] for name in _CHILD_COLUMNS),
            _HELD.c.owner,
            _HELD.c.traceparent,
            _HELD.c.id,
            literal(Status.WORKING.value),
            literal(Phase.QUEUED.value),
            literal(ACCEPTED),
            _CHILDREN.c.ttl_ms,
            retention.from_creation(func.now(), _CHILDREN.c.ttl_ms),
            func.now(),
            *_CHILD_SLOTS.values(),
            turns.of_entry(
                _HELD.c.owner,
                _CHILDREN.c.queue,
                _CHILDREN.c.priority,
                _CHILD_SLOTS["limit_keys"],
                _HELD,
                _CHILDREN,
                first=True,
                nth=func.row_number().over(partition_by=[_CHILDREN.c.queue, _CHILDREN.c.priority]) - 1,
                many=func.cardinality(bindparam("c_id", type_=ARRAY(Text))),
            ),
        ).select_from(_HELD.join(_CHILDREN, true())),
    )
    .on_conflict_do_nothing()  # repeated after a commit whose answer was lost
    .returning(tasks.c.id, tasks.c.owner, tasks.c.tool)
    .cte("made")
)
_CALLS = select(_HELD.c.id).add_cte(_MADE).add_cte(_WRITTEN)
_NOTED = noting(_MADE, "create", actor=_MADE.c.owner, owner=_MADE.c.owner, tool=_MADE.c.tool)
_RECORD_CALLS = {False: prepared(_CALLS), True: prepared(_CALLS.add_cte(_NOTED))}
"""By whether it is audited."""

_child = tasks.alias("child")
_mirror = inputs.alias("mirror")
_asked_for_child = exists().where(
    _mirror.c.task_id == journal.c.task_id,
    _mirror.c.response.is_(None),
    func.starts_with(_mirror.c.key, journal.c.child_id + ":"),
)
_child_asks: ColumnElement[Any] = (
    select(func.json_agg(func.json_build_array(inputs.c.key, inputs.c.method, inputs.c.params)))
    .where(inputs.c.task_id == _child.c.id, inputs.c.response.is_(None))
    .scalar_subquery()
)
_LOAD = prepared(
    select(
        *(journal.c[name] for name in _COLUMNS),
        _child.c.id.label("child"),
        _child.c.tool.label("child_tool"),
        _child.c.status.label("child_status"),
        _child.c.is_error.label("child_is_error"),
        _child.c.result.label("child_result"),
        _child.c.error.label("child_error"),
        _child.c.status_message.label("child_message"),
        case((_child.c.phase == Phase.WAITING, _child_asks)).label("child_asks"),
        case((_child.c.phase == Phase.DONE, _asked_for_child), else_=False).label("child_asked"),
    )
    .select_from(journal.outerjoin(_child, _child.c.id == journal.c.child_id))
    .where(journal.c.task_id == bindparam("task"))
)


class Journal:
    def __init__(self, database: Database, blinding: Blinding) -> None:
        self._database = database
        self._sealing = database.sealing
        self._blinding = blinding
        self._calls = _RECORD_CALLS[database.audits]

    async def load(self, task_id: str) -> dict[str, Entry]:
        """Every entry by its path; those of calls with the task they made, as it stands."""
        return {
            row.path: _entry(row, task_id, self._sealing) for row in await self._database.run(_LOAD, {"task": task_id})
        }

    async def record(self, claim: Claim, entries: Sequence[Entry], children: Sequence[NewTask] = ()) -> list[Doorbell]:
        """Write entries, and with them the tasks that calls among them make; their doorbells are for the caller.

        An entry that is there and done stays as it is, so that a write whose outcome was not learned may be repeated.
        Raises ClaimLost.
        """
        values = fence(claim) | columns_of(self._sealing, claim.task_id, entries)
        if children:
            made: list[dict[str, Any]] = [
                {
                    "id": child.id,
                    "tool": child.tool,
                    "queue": child.queue,
                    "arguments": self._sealing.seal(child.id, "arguments", dump(child.arguments)),
                    "capabilities": self._sealing.seal(child.id, "capabilities", dump(claim.capabilities)),
                    "caller": callers.sealed(self._sealing, child.id, child.caller),
                    "token": callers.sealed_token(self._sealing, child.id, child.token),
                    "sensitive": dump(child.sensitive) if child.sensitive else None,
                    "ttl_ms": child.ttl_ms,
                    "poll_interval_ms": child.poll_interval_ms,
                    "priority": child.priority,
                    **slot_texts(child.slots),
                }
                for child in [await self._blinding.of(child) for child in children]
            ]
            values |= {f"c_{name}": [each[name] for each in made] for name in made[0]}
        held = await self._database.run(self._calls if children else _RECORD, values)
        if held.one_or_none() is None:
            raise ClaimLost(claim.task_id, claim.attempt)
        return [Doorbell(child.id, 1, child.queue) for child in children]


def _entry(row: Row, task_id: str, sealing: Sealing) -> Entry:
    child = None
    if row.child is not None:
        child = ChildState(
            id=row.child,
            tool=row.child_tool,
            status=Status(row.child_status),
            is_error=row.child_is_error,
            result=sealing.open(row.child, "result", row.child_result),
            error=sealing.open(row.child, "error", row.child_error),
            message=sealing.open(row.child, "status_message", row.child_message),
            questions=questions_of(sealing, row.child, load(row.child_asks or "[]")),
            asked=row.child_asked,
        )
    opened = {name: getattr(row, name) for name in _COLUMNS}
    for name in ("value", "error"):
        opened[name] = sealing.open(task_id, f"journal {name} {row.path}", opened[name])
    return Entry(**opened, child=child)
