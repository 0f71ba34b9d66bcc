"""From a statement of SQLAlchemy's to SQL text and arguments in order, which is what asyncpg runs.

SQLAlchemy writes every statement and runs none: its way through an execution costs several times what the driver needs
for a read by primary key. A statement that is met all the time is `prepared` once, at import; of any other the text is
kept by its shape, so that only its values are new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BindParameter,
    Column,
    ColumnElement,
    Executable,
    Subquery,
    bindparam,
    column,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.sql.visitors import iterate

from taskengine.lifecycle import Phase, Status

__all__ = ["Prepared", "compiled", "given_row", "given_rows", "prepared", "unindexed"]

_DIALECT = asyncpg.dialect()  # type: ignore[no-untyped-call]
_shapes: dict[Any, Any] = {}
"""As many as the code has places that build a statement."""


class Prepared:
    """The text of a statement, and what its arguments are called."""

    __slots__ = ("_fixed", "_names", "sql", "together")

    def __init__(self, statement: Executable, together: Executable | None = None) -> None:
        """`together` does the same for several: of each argument it takes an array (`given_rows`)."""
        self.together = None if together is None else Prepared(together)
        # A plan that Postgres keeps for all arguments uses a partial index only where its condition is literal.
        for part in _parts(statement, set()):
            if isinstance(part, BindParameter) and part.unique and isinstance(part.value, int | str | list):
                part.literal_execute = True
        text: Any = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
        given: dict[str, Any] = {name: None for name, bind in text.binds.items() if bind.required}
        expanded = text.construct_expanded_state(text.construct_params(given))
        self.sql = expanded.statement
        self._names = tuple(expanded.positiontup or ())
        self._fixed = {name: value for name, value in expanded.parameters.items() if name not in given}

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """In the order of the text: `values` by name, and what stands in the statement itself."""
        fixed = self._fixed
        return [values[name] if name in values else fixed[name] for name in self._names]

    def executions(self, groups: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[str, list[list[Any]]]:
        """A text and the arguments of its executions: one for each group where it does several together, else one for
        each of them."""
        if self.together is None or all(len(group) == 1 for group in groups):
            return self.sql, [self.arguments(values) for group in groups for values in group]
        return self.together.sql, [self.together.arguments(_arrays(group)) for group in groups]


def _arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any] | None]:
    """By column. What none of them has is no array: the driver takes its time for each element."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: None if column.count(None) == len(column) else column for name, column in columns.items()}


def _parts(whole: Any, seen: set[int]) -> Iterator[Any]:
    """Every part of a statement, with what is only named by its columns (a DELETE's CTE)."""
    seen.add(id(whole))
    for part in iterate(whole):
        yield part
        source = getattr(part, "table", None)
        if isinstance(source, CTE | Subquery) and id(source) not in seen:
            yield from _parts(source, seen)


def prepared(statement: Executable, together: Executable | None = None) -> Prepared:
    """For a statement that never changes; its values are named by `bindparam`. `together` as of `Prepared`."""
    return Prepared(statement, together)


def given_row(kinds: Mapping[str, Any], name: str) -> Subquery:
    """One row: `kinds` are its columns and their types, and the parameters are called like them."""
    return select(*(bindparam(each, type_=kind).label(each) for each, kind in kinds.items())).subquery(name)


def given_rows(kinds: Mapping[str, Any], name: str, prefix: str = "") -> TableValuedAlias:
    """The same for several, which come as one array for each column; the parameters are behind `prefix`."""
    arrays = (bindparam(f"{prefix}{each}", type_=ARRAY(kind)) for each, kind in kinds.items())
    columns = (column(each, kind) for each, kind in kinds.items())
    return func.unnest(*arrays).table_valued(*columns, name=name).render_derived()


def unindexed(searched: Column[str]) -> ColumnElement[str]:
    """The column in a form by which no index finds a row: it is found by what stands beside it.

    A session plans once, perhaps while the table is empty and one index is as good as another. Nothing follows from it
    for a partial index either (that the column is not null, as from anything strict). Not for what may be compared
    with an empty text.
    """
    nothing: ColumnElement[str] = literal_column("''")
    return func.coalesce(searched, nothing).concat(nothing)


def compiled(
    statement: Executable, values: Mapping[str, Any], columns: list[str] | None = None
) -> tuple[str, list[Any]]:
    """The same for one that was built just now. `columns` are those of an INSERT that names none.

    Statuses and phases stand in the text: the one plan of a session uses a partial index only where its condition does.
    """
    for part in _parts(statement, set()):
        if isinstance(part, BindParameter) and part.unique and isinstance(part.value, Status | Phase):
            part.literal_execute = True
    kept: Any = statement
    # The one name of SQLAlchemy's here that is not public: its own engines find the text of a statement this way.
    text, extracted, *_ = kept._compile_w_cache(  # noqa: SLF001
        _DIALECT, compiled_cache=_shapes, column_keys=columns or []
    )
    parameters = text.construct_params(dict(values), extracted_parameters=extracted)
    if text.post_compile_params or text.literal_execute_params:
        expanded = text.construct_expanded_state(parameters)
        return expanded.statement, list(expanded.positional_parameters)
    return text.string, [parameters[name] for name in text.positiontup or ()]
