"""The statement that stores a call as a task: for one, for several at once, and within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    bindparam,
    func,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from taskengine.lifecycle import LONGEST_POLL, Phase, Status
from taskengine.records import NewTask
from taskengine.store import callers, retention, turns
from taskengine.store.audit import noting
from taskengine.store.bounds import Room
from taskengine.store.limits import SLOT_TEXTS, slot_columns, slot_texts
from taskengine.store.payload import dump
from taskengine.store.sealing import Sealing
from taskengine.store.statements import Prepared, given_rows, prepared
from taskengine.store.tables import tasks

__all__ = ["ACCEPTED", "CREATE", "CREATE_WITHIN", "LARGE", "values_of"]

ACCEPTED = "Waiting for a worker"
LARGE = ("arguments", "first")
"""The parameters that may be large."""

_LONGEST_POLL_MS = LONGEST_POLL // timedelta(milliseconds=1)

_GIVEN: dict[str, Any] = {
    "id": Text,
    "owner": Text,
    "tool": Text,
    "queue": Text,
    "arguments": Text,
    "capabilities": Text,
    "first": Text,
    "nonce": Text,
    "dedupe": Text,
    "same": Text,
    "sensitive": Text,
    "traceparent": Text,
    "caller": Text,
    "token": Text,
    "session": Text,
    "progress_token": Text,
    "ttl_ms": BigInteger,
    "poll_interval_ms": Integer,
    "priority": Integer,
    **SLOT_TEXTS,
}
"""The parameters, and their types. All but the slots are columns of the table as well."""
_RETURNED = (tasks.c.id, tasks.c.owner, tasks.c.tool, tasks.c.created_at, func.clock_timestamp().label("now"))


def values_of(sealing: Sealing, new: NewTask) -> dict[str, Any]:
    """The parameters for this call."""
    token = new.progress_token
    return {
        "id": new.id,
        "owner": new.owner,
        "tool": new.tool,
        "queue": new.queue,
        "arguments": sealing.seal(new.id, "arguments", dump(new.arguments)),
        "capabilities": sealing.seal(new.id, "capabilities", dump(new.capabilities)),
        "first": sealing.seal(new.id, "first", dump(new.first)),
        "nonce": new.nonce,
        "dedupe": new.dedupe,
        "same": None if new.same is None else new.same.name,
        "sensitive": dump(new.sensitive) if new.sensitive else None,
        "traceparent": new.trace,
        "caller": callers.sealed(sealing, new.id, new.caller),
        "token": callers.sealed_token(sealing, new.id, new.token),
        "session": new.session,
        "progress_token": None if token is None else sealing.seal(new.id, "progress_token", dump(token)),
        "ttl_ms": new.ttl_ms,
        "poll_interval_ms": min(new.poll_interval_ms, _LONGEST_POLL_MS),
        "priority": new.priority,
        **slot_texts(new.slots),
    }


def _row(given: Mapping[str, ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
    """The columns of the task that these parameters make, each of its type, but for its turn."""
    return {
        **{name: given[name] for name in _GIVEN if name not in SLOT_TEXTS},
        **slot_columns(given),
        "status": literal(Status.WORKING, Text),
        "phase": literal(Phase.QUEUED, Text),
        "status_message": literal(ACCEPTED),
        "base_ttl_ms": given["ttl_ms"],
        "expires_at": retention.from_creation(func.now(), given["ttl_ms"]),
        "rung_at": func.now(),
    }


def _insert(
    row: Mapping[str, ColumnElement[Any]], source: FromClause | None = None, *conditions: ColumnElement[bool]
) -> Insert:
    selected = select(*row.values()).where(*conditions)
    return insert(tasks).from_select(list(row), selected if source is None else selected.select_from(source))


def _created(statement: Insert, *, audited: bool, within: Room | None = None) -> Select[Any]:
    """What it returns: id, `created_at` and `now` of what was stored, `within` bounds with what was counted.

    Where it is audited, the entry of each is stored with it, or neither is (X-SEC-12).
    """
    made = statement.on_conflict_do_nothing().returning(*_RETURNED).cte("made")
    told = select(made.c.id, made.c.created_at, made.c.now) if within is None else within.counted(made)
    if not audited:
        return told
    return told.add_cte(noting(made, "create", actor=made.c.owner, owner=made.c.owner, tool=made.c.tool))


def _with_turn(
    row: dict[str, ColumnElement[Any]], *source: FromClause, **several: ColumnElement[int]
) -> dict[str, ColumnElement[Any]]:
    """`source` is where its columns are of, `several` as of `turns.of_entry`."""
    owner, queue, priority, keys = (row[name] for name in ("owner", "queue", "priority", "limit_keys"))
    return row | {"turn": turns.of_entry(owner, queue, priority, keys, *source, first=True, **several)}


def _one(within: Room | None = None) -> Insert:
    row = _with_turn(_row({name: bindparam(name, type_=kind) for name, kind in _GIVEN.items()}))
    return _insert(row) if within is None else _insert(row, within.tally, within.enough)


def _several(within: Room | None = None) -> Insert:
    """Postgres looks at the many indexes of the table once for all."""
    calls = given_rows(_GIVEN, "calls")
    nth = func.row_number().over(partition_by=[calls.c.owner, calls.c.queue, calls.c.priority]) - 1
    many = func.cardinality(bindparam("id", type_=ARRAY(Text)))
    row = _with_turn(_row(dict(calls.c.items())), calls, nth=nth, many=many)
    if within is None:
        return _insert(row, calls)
    return _insert(row, calls.join(within.tally, within.tally.c.id == calls.c.id), within.enough)


def _create(*, audited: bool) -> Prepared:
    return prepared(_created(_one(), audited=audited), _created(_several(), audited=audited))


def _create_within(*, audited: bool) -> Prepared:
    one, several = Room(several=False), Room(several=True)
    return prepared(
        _created(_one(one), audited=audited, within=one), _created(_several(several), audited=audited, within=several)
    )


CREATE = {audited: _create(audited=audited) for audited in (False, True)}
"""By whether it is audited. Nothing is returned of what another task stands in the way of."""
CREATE_WITHIN = {audited: _create_within(audited=audited) for audited in (False, True)}
"""By the same."""
