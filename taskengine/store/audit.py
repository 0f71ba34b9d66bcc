"""Who did what to which task: entries are added, found and, when they are old, swept; never changed.

What changes a task (create, answer, cancel) is recorded by the statement or in the transaction that changes it, so one
is never there without the other. What only reads, and what is refused, comes from the front ends in batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Executable,
    Float,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    union_all,
)

from taskengine.store.database import Database
from taskengine.store.statements import given_rows, prepared
from taskengine.store.tables import audit

__all__ = [
    "ACTIONS",
    "ENGINE",
    "ENTRY",
    "OPERATOR",
    "Audit",
    "Deed",
    "entry",
    "noting",
]

ACTIONS = ("create", "read", "list", "answer", "cancel", "retry", "refuse")
OPERATOR = "operator"
"""Who acts by a command at the database itself."""
ENGINE = "engine"
"""Who acts when nobody has asked for it."""
_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")


@dataclass(frozen=True, slots=True)
class Deed:
    """What somebody did; `age_s` seconds ago, and so many `times` within that moment."""

    actor: str
    action: str
    task_id: str | None = None
    tool: str | None = None
    detail: str | None = None
    times: int = 1
    age_s: float = 0.0


_COLUMNS: dict[str, Any] = {
    "actor": Text,
    "action": Text,
    "task_id": Text,
    "tool": Text,
    "detail": Text,
    "times": Integer,
    "age_s": Float,
}
_DEEDS = given_rows(_COLUMNS, "deeds")
_ADD = prepared(
    insert(audit).from_select(
        ["actor", "action", "task_id", "tool", "detail", "times", "at"],
        select(
            *(_DEEDS.c[name] for name in ("actor", "action", "task_id", "tool", "detail")),
            cast(_DEEDS.c.times, Integer),
            func.now() - cast(_DEEDS.c.age_s, Float) * _SECOND,
        ),
    )
)


def noting(
    done: CTE,
    action: str,
    *,
    actor: ColumnElement[Any],
    owner: ColumnElement[Any],
    tool: ColumnElement[Any],
    detail: str | None = None,
) -> CTE:
    """The entry of each row of `done` (`id`), as part of the statement that does it."""
    why = null() if detail is None else literal(detail)
    row = select(actor, literal(action, Text), done.c.id, owner, tool, cast(why, Text))
    columns = ["actor", "action", "task_id", "owner", "tool", "detail"]
    return insert(audit).from_select(columns, row).cte(f"noted_{action}")


class Audit:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, deeds: Sequence[Deed]) -> None:
        """Store them all, or none. Raises StoreUnavailable; whether they are there is not known then."""
        if deeds:
            await self._database.run(_ADD, {name: [getattr(deed, name) for deed in deeds] for name in _COLUMNS})

    async def by_operator(self, deed: Deed) -> None:
        """What a command at the database itself does, where the audit log is on."""
        if self._database.audits:
            await self.add([deed])

    async def find(
        self,
        *,
        actor: str | None = None,
        task_id: str | None = None,
        action: str | None = None,
        since: timedelta | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[Mapping[str, Any]]:
        """The newest entries first, with their `id`; those before the entry `before`. `actor` may also be the owner of
        the task that somebody else acted on."""
        statement: Select[Any] = select(audit)
        if task_id is not None:
            statement = statement.where(audit.c.task_id == task_id)
        if action is not None:
            statement = statement.where(audit.c.action == action)
        if since is not None:
            statement = statement.where(audit.c.at > func.now() - since)
        if before is not None:
            statement = statement.where(audit.c.id < cast(literal(before), BigInteger))
        newest = audit.c.id.desc()
        if actor is not None:
            # Each by its own index; with "or" the whole log would be read for somebody who did little.
            whose = (audit.c.actor == actor, and_(audit.c.owner == actor, audit.c.owner != audit.c.actor))
            parts = [select(statement.where(each).order_by(newest).limit(limit).subquery()) for each in whose]
            found = union_all(*parts).subquery()
            rows = await self._database.run(select(found).order_by(found.c.id.desc()).limit(limit))
        else:
            rows = await self._database.run(statement.order_by(newest).limit(limit))
        return [dict(row) for row in rows]

    async def sweep(self, older_than_s: float, limit: int = 5000) -> int:
        """Of the first `limit` entries delete those older than that; how many. The transaction says that it sweeps.

        The first are the oldest, but for what was stored some time after it was done: that waits for a later sweep.
        """
        first = select(audit.c.id).order_by(audit.c.id).limit(limit).cte("first")
        old = (
            select(audit.c.id)
            .where(audit.c.id.in_(select(first.c.id)), audit.c.at < func.statement_timestamp() - older_than_s * _SECOND)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        async with self._database.transaction() as connection:
            await connection.execute(_sweeping())
            swept = await connection.execute(delete(audit).where(audit.c.id.in_(old)).returning(audit.c.id))
        return len(swept)


_NOTED = ("actor", "action", "task_id", "owner", "detail")
ENTRY = prepared(insert(audit).values({name: bindparam(name, type_=audit.c[name].type) for name in _NOTED}))
"""What is done in a transaction that goes on, with an `entry`."""


def entry(actor: str, action: str, task_id: str, owner: str, detail: str | None = None) -> dict[str, Any]:
    return dict(zip(_NOTED, (actor, action, task_id, owner, detail), strict=True))


def _sweeping() -> Executable:
    return select(func.set_config("taskengine.audit_sweep", "on", True))
