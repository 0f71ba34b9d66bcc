"""Sealing again: whatever is stored under an old key, or not sealed, is sealed under the newest.

Batches walk through each table in the order of its primary key while the engine runs. A row is only changed if it is
still as it was read, so nothing that is written meanwhile is lost; and what is current is passed over by the database,
so a run that was broken off is simply started again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, and_, func, or_, select, tuple_, update

from taskengine.lifecycle import Status
from taskengine.store.database import Database
from taskengine.store.sealing import MARK
from taskengine.store.tables import inputs, journal, keys, letters, logs, tasks

__all__ = ["PLACES", "Place", "Rekey"]


@dataclass(frozen=True, slots=True)
class Place:
    """A table with sealed columns."""

    table: Table
    row: str
    """The column that names what its texts are sealed for."""
    fields: dict[str, Callable[[Any], str]]
    """By column: the field that a text of this row was sealed as."""

    @property
    def key(self) -> tuple[Column[Any], ...]:
        return tuple(self.table.primary_key.columns)


def _as(name: str) -> Callable[[Any], str]:
    return lambda _row: name


PLACES = (
    Place(
        tasks,
        "id",
        {
            name: _as(name)
            for name in (
                *("arguments", "first", "result", "error", "traceback", "status_message", "progress_message"),
                *("capabilities", "progress_token", "caller", "token"),
            )
        },
    ),
    Place(
        inputs,
        "task_id",
        {"params": lambda row: f"question {row.key}", "response": lambda row: f"answer {row.key}"},
    ),
    Place(
        journal,
        "task_id",
        {"value": lambda row: f"journal value {row.path}", "error": lambda row: f"journal error {row.path}"},
    ),
    Place(logs, "task_id", {"data": _as("logs"), "logger": _as("logger")}),
    Place(letters, "id", {"body": _as("body")}),
    Place(keys, "name", {"secret": _as("secret")}),
)


class Rekey:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def batch(
        self, place: Place, after: Sequence[Any] | None, limit: int = 200
    ) -> tuple[int, Sequence[Any] | None]:
        """Seal up to `limit` rows behind the key `after`; how many were changed, and the last key, None at the end.

        Raises Unreadable for a text whose key is not here, having changed rows before it only.
        """
        sealing = self._database.sealing
        columns = [place.table.c[name] for name in place.fields]
        state = [tasks.c.status] if place.table is tasks else []
        statement = (
            select(*dict.fromkeys([*place.key, place.table.c[place.row], *columns, *state]))
            .where(self._stale(place))
            .order_by(*place.key)
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(tuple_(*place.key) > tuple_(*after))
        changed = 0
        last: Sequence[Any] | None = None
        for row in await self._database.run(statement):
            last = [getattr(row, column.name) for column in place.key]
            name = getattr(row, place.row)
            old = {column: getattr(row, column) for column in place.fields}
            if place.table is tasks and row.status == Status.CANCELLED:
                del old["status_message"]
            stale = {column: text for column, text in old.items() if not sealing.is_current(text)}
            fresh: dict[str, Any] = {}
            for column, text in stale.items():
                field = place.fields[column](row)
                fresh[column] = sealing.seal(name, field, sealing.open(name, field, text))
            same = and_(
                *(column == value for column, value in zip(place.key, last, strict=True)),
                *(place.table.c[column] == text for column, text in stale.items()),
            )
            written = await self._database.run(update(place.table).where(same).values(**fresh).returning(*place.key))
            changed += len(written)
        return changed, last

    async def left(self) -> int:
        """How many rows are not sealed under the newest key."""
        total = 0
        for place in PLACES:
            counted = select(func.count()).select_from(place.table).where(self._stale(place, sealed=True))
            total += (await self._database.run(counted)).scalar_one()
        return total

    def _stale(self, place: Place, *, sealed: bool = False) -> ColumnElement[bool]:
        """Some text of the row is not stored as it would be now. With `sealed` a plain status message is no such text:
        most are the engine's own words, which are stored as they are."""
        newest = self._database.sealing.newest
        conditions: list[ColumnElement[bool]] = []
        for name in place.fields:
            column = place.table.c[name]
            stale = and_(column.is_not(None), ~column.startswith(f"{MARK}{newest}:", autoescape=True))
            if place.table is tasks and name == "status_message":
                # The engine wrote it, and may add to it in SQL (`stops.note`).
                stale = and_(tasks.c.status != Status.CANCELLED, stale)
                if sealed:
                    stale = and_(stale, column.startswith(MARK, autoescape=True))
            conditions.append(stale)
        return or_(*conditions)
