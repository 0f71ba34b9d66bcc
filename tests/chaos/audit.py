"""What became of every call: the database, the ledger and the clients' records must tell one story.

Pure: rows, views and ledger in, sentences out. The invariants are those of `shared/faults.md`: I1 every accepted task
ends, I2 in one way and for every reader the same, I3 a committed step never runs again, I4 no write of an old attempt
is taken, I5 each answer counts once, I7 the clients' view never goes back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.chaos.client import View
from tests.chaos.expected import GIVEN_UP, Expected, expected
from tests.chaos.journals import Record, Told, Wake, of_task, repeated, wakes
from tests.chaos.ledger import Ledger

__all__ = ["SELECT", "Audit", "Row", "audit"]

SELECT = """
    SELECT id, tool, status, phase, attempt, crashes, worker_id, arguments, result, is_error, error FROM tasks"""
MAX_CRASHES = 3
TERMINAL = {"completed", "failed", "cancelled"}


@dataclass(frozen=True, slots=True)
class Row:
    """A task as the database has it."""

    id: str
    tool: str
    status: str
    phase: str
    attempt: int
    crashes: int
    worker_id: str | None
    arguments: dict[str, Any]
    result: dict[str, Any] | None
    is_error: bool | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Row:
        """From a row of `SELECT`."""
        values = dict(row)
        for name in ("arguments", "result", "error"):
            values[name] = None if values[name] is None else orjson.loads(values[name])
        return cls(**values)

    @property
    def label(self) -> str:
        return str(self.arguments["label"])

    @property
    def given(self) -> dict[str, Any]:
        """What the tool returned, when it returned something."""
        return dict((self.result or {}).get("structuredContent") or {})

    @property
    def text(self) -> str:
        return " ".join(str(part.get("text", "")) for part in (self.result or {}).get("content", ()))


@dataclass(slots=True)
class Audit:
    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    """Tasks that failed because three of their attempts died, rightly: by the ledger three did."""
    by_tool: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    wakes: list[Wake] = field(default_factory=list)
    """How late sleepers woke."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.wrong)


def audit(rows: Iterable[Row], views: Iterable[View], ledger: Ledger, records: Iterable[Record]) -> Audit:
    """The verdict on a run that is over; `records` is the journal."""
    found = Audit()
    by_id = {row.id: row for row in rows}
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in by_id.values():
        by_label[row.label].append(row)
        found.by_tool[row.tool] += 1
        found.attempts += row.attempt
    found.tasks = len(by_id)
    views = list(views)
    known = {view.label: view for view in views}
    unsure = {label for view in views for label in view.unsure}
    for label, same in by_label.items():
        if len(same) > 1:
            found.wrong.append(f"{label}: one call made {len(same)} tasks")
    for view in views:
        _compare(view, by_id, by_label, found)
    for row in by_id.values():
        view = known.get(row.label)
        if row.status not in TERMINAL:
            found.lost.append(f"{row.label} ({row.tool}): {row.status}, {row.phase}, attempt {row.attempt}")
            continue
        if row.worker_id is not None:
            found.wrong.append(f"{row.label}: ended and held by {row.worker_id}")
        should = expected(row.tool, row.arguments)
        problem = _ending(row, should, view, orphan=row.label.partition("/")[0] in unsure, ledger=ledger, found=found)
        if problem:
            found.wrong.append(f"{row.label} ({row.tool}): {problem}")
        found.wrong += [f"{row.label} ({row.tool}): {each}" for each in _runs(row, ledger)]
    _journals(by_id, list(records), ledger, found)
    return found


def _journals(by_id: dict[str, Row], records: list[Record], ledger: Ledger, found: Audit) -> None:
    """The journal against what became of its tasks."""
    found.wrong += repeated(records)
    well = {row.id: row for row in by_id.values() if row.status == "completed" and not row.is_error}
    values = {row.id: str(row.given.get("value")) for row in well.values()}
    by_task: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_task[record.task_id].append(record)
    for row in well.values():
        problem = of_task(Told(row.tool, values[row.id], row.arguments, values), by_task[row.id])
        if problem:
            found.wrong.append(f"{row.label} ({row.tool}): {problem}")
    found.wakes = wakes((record for task_id in well for record in by_task[task_id]), ledger)


def _compare(view: View, by_id: dict[str, Row], by_label: dict[str, list[Row]], found: Audit) -> None:
    """The client's record against the database."""
    found.wrong += [f"{view.label} ({view.tool}): {each}" for each in view.faults]
    if not view.statuses:
        if view.asked_at_s:
            found.lost.append(f"{view.label} ({view.tool}): no front end took it")
        return
    row = by_id.get(view.task_id or "")
    if view.plain:
        row = next(iter(by_label.get(view.label, ())), None)
    if row is None:
        found.lost.append(f"{view.label} ({view.tool}): accepted, and not in the database")
        return
    if row.label != view.label:
        found.wrong.append(f"{view.label}: its id is that of {row.label}")
    if not view.over:
        found.lost.append(f"{view.label} ({view.tool}): its client never saw the end; it is {row.status}")
        return
    if view.statuses[-1] != row.status:
        found.wrong.append(f"{view.label}: its client saw {view.statuses[-1]}, the database has {row.status}")
    elif row.status == "completed" and not row.is_error:
        shown = (view.outcome or {}).get("structuredContent")
        if shown != row.given:
            found.wrong.append(f"{view.label}: its client saw {shown}, the database has {row.given}")


def _ending(row: Row, should: Expected, view: View | None, *, orphan: bool, ledger: Ledger, found: Audit) -> str | None:
    """What is wrong with how the task ended."""
    if row.status == "failed" and should.value != GIVEN_UP and row.crashes >= MAX_CRASHES:
        unfinished = _unfinished(row, ledger)
        if unfinished >= MAX_CRASHES:
            found.given_up.append(f"{row.label} ({row.tool})")
            return None
        return f"given up, although only {unfinished} of its attempts died"
    if row.status == "cancelled" and should.status != "cancelled":
        # Nobody was told of a task whose call got no answer: the front end may take it back.
        allowed = should.may_be_cancelled or orphan
        return None if allowed else "cancelled, although nobody asked for it"
    if row.status != should.status:
        return f"{row.status}, not {should.status}: {row.error or row.text}"
    if row.status == "failed":
        message = str((row.error or {}).get("message"))
        return None if should.value in message else f"failed with {message!r}"
    if row.status == "cancelled":
        return None
    if bool(row.is_error) != should.is_error:
        return f"is_error is {row.is_error}: {row.text}"
    if should.is_error:
        return None if str(should.value) in row.text else f"failed with {row.text!r}"
    return _value(row, should, view, ledger)


def _value(row: Row, should: Expected, view: View | None, ledger: Ledger) -> str | None:
    given = row.given
    if given.get("label") != row.label:
        return f"the result is that of {given.get('label')}"
    if given.get("attempt") != row.attempt:
        return f"the result is of attempt {given.get('attempt')}, the task is at {row.attempt}"
    ended = [entry for entry in ledger.of[row.id] if entry.event == "end" and entry.note == given.get("run")]
    if len(ended) != 1:
        return f"the result is of a run that ended {len(ended)} times by the ledger"
    if should.value is not None:
        return None if given["value"] == should.value else f"the value is {given['value']}, not {should.value}"
    if row.tool == "steps":
        return _steps(row, ledger)
    if row.tool == "recall":
        drawn = {entry.note for entry in ledger.of[row.id] if entry.event == "drawn"}
        return None if drawn == {given["value"]} else f"its runs drew {sorted(drawn)}, the value is {given['value']}"
    words = str(given["value"]).split()
    sent = view.answers if view is not None else {}
    for key, word in zip(("first", "second"), words, strict=True):
        if word not in sent.get(key, ()):
            return f"the answer to {key} is {word}, sent were {sorted(sent.get(key, ()))}"
    return None


def _steps(row: Row, ledger: Ledger) -> str | None:
    """Each word is of a run of its own step, and no step ran again once a later one had begun."""
    words = row.given["value"].split()
    if len(words) != row.arguments["n"]:
        return f"{len(words)} steps, not {row.arguments['n']}"
    drawn: dict[int, list[str]] = defaultdict(list)
    furthest = -1
    for entry in ledger.of[row.id]:
        if entry.event != "step":
            continue
        number, word = entry.note.split()
        if int(number) < furthest:
            return f"step {number} ran again after step {furthest} had begun"
        furthest = int(number)
        drawn[furthest].append(word)
    for number, word in enumerate(words):
        if word not in drawn[number]:
            return f"the result of step {number} is {word}, drawn were {drawn[number]}"
        if drawn[number][-1] != word:
            return f"step {number} was recorded as {word} and drawn once more"
    return None


def _runs(row: Row, ledger: Ledger) -> list[str]:
    """What is wrong with how often the function was run."""
    starts = Counter(entry.attempt for entry in ledger.of[row.id] if entry.event == "start")
    problems = [f"attempt {attempt} was run {times} times" for attempt, times in starts.items() if times > 1]
    beyond = [attempt for attempt in starts if attempt > row.attempt]
    if beyond:
        problems.append(f"attempts {beyond} were run, the database knows {row.attempt}")
    return problems


def _unfinished(row: Row, ledger: Ledger) -> int:
    ended = {entry.attempt for entry in ledger.of[row.id] if entry.event == "end"}
    started = {entry.attempt for entry in ledger.of[row.id] if entry.event == "start"}
    # An attempt can die between its claim and the first line of its function.
    return row.attempt - len(started & ended)
