"""What the journal says of the tasks of a run: the stored values against the results, and when sleepers woke. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from taskengine.port import IN_PLACE
from tests.chaos.ledger import Ledger

__all__ = ["SELECT_JOURNAL", "Record", "Told", "Wake", "of_task", "repeated", "wakes"]

SELECT_JOURNAL = """
    SELECT task_id, path, kind, name, attempt, done, value, child_id, extract(epoch FROM due)::float AS due_s,
        extract(epoch FROM at)::float AS at_s FROM journal"""
SOONER_S = 0.05


@dataclass(frozen=True, slots=True)
class Record:
    """An entry of the journal as the database has it; times are Unix times by Postgres' clock."""

    task_id: str
    path: str
    kind: str
    name: str
    attempt: int
    done: bool
    value: str | None
    child_id: str | None
    due_s: float | None
    at_s: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Record:
        """From a row of `SELECT_JOURNAL`."""
        return cls(**dict(row))


@dataclass(frozen=True, slots=True)
class Told:
    """A completed task, as far as its journal is compared with it: `value` is what it returned, `arguments` what it was
    called with, `children` the values of all tasks that ended well, by their id."""

    tool: str
    value: str
    arguments: Mapping[str, Any]
    children: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wake:
    """A sleeper was due, and its function ran again so many seconds later."""

    due_s: float
    late_s: float


def repeated(records: Iterable[Record]) -> list[str]:
    """Places that are in the journal more than once."""
    seen = Counter((record.task_id, record.path) for record in records)
    return [f"{task_id}: {times} entries for its place {path}" for (task_id, path), times in seen.items() if times > 1]


def of_task(told: Told, records: Iterable[Record]) -> str | None:
    """What in the journal of this task does not go with its result."""
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: [int(part) for part in record.path.split(".")]):
        by_kind[record.kind].append(record)
    kinds = {kind: len(found) for kind, found in by_kind.items()}
    wanted = _wanted(told)
    if wanted is not None and kinds != wanted:
        return f"its journal has {kinds}, not {wanted}"
    match told.tool:
        case "steps":
            stored = " ".join(orjson.loads(record.value or '""') for record in by_kind["step"] if record.done)
            return None if stored == told.value else f"its steps are stored as {stored!r}, its result is {told.value!r}"
        case "recall":
            drawn = [orjson.loads(by_kind[kind][0].value or '""') for kind in ("uuid", "now")]
            return None if " ".join(drawn) == told.value else f"it drew {drawn}, its result is {told.value!r}"
        case "parent":
            given = [told.children.get(record.child_id or "") for record in by_kind["call"]]
            total = sum(int(value) for value in given if value is not None)
            right = None not in given and str(total) == told.value
            return None if right else f"its children gave {given}, its result is {told.value}"
    return None


def _wanted(told: Told) -> dict[str, int] | None:
    """How many entries of each kind; None where the tool's own way decides."""
    match told.tool:
        case "steps":
            return {"step": told.arguments["n"]}
        case "recall":
            return {"uuid": 1, "now": 1, "sleep": 1}
        case "parent":
            return {"call": told.arguments["children"]}
        case "slumber":
            return {"sleep": 1}
        case "instant" | "crunch" | "block" | "doze":
            return {}
    return None


def wakes(records: Iterable[Record], ledger: Ledger) -> list[Wake]:
    """Of each sleep that ended its attempt: the first run of the function after it was due."""
    found = []
    for record in records:
        if record.kind != "sleep" or record.due_s is None or record.due_s - record.at_s < IN_PLACE.total_seconds():
            continue
        later = [entry.at_s for entry in ledger.starts(record.task_id) if entry.at_s > record.due_s - SOONER_S]
        if later:
            found.append(Wake(record.due_s, min(later) - record.due_s))
    return found
