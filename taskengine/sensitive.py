"""What those who watch over the engine must not see: `sensitive=True` of a tool, `Sensitive()` of a parameter.

A sensitive parameter's value is hidden wherever an operator looks: in `show` and `ls`, in log lines, in tracebacks and
in what is said of arguments that do not fit. A sensitive tool hides all its payload. The caller, whose data it is, and
the tool itself see everything. Pure.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskengine.records import TaskRecord

__all__ = [
    "ALL",
    "HIDDEN",
    "Sensitive",
    "scrubber",
    "shown_line",
    "shown_record",
    "shown_text",
    "shown_traceback",
    "without_sensitive",
]

HIDDEN = "(hidden)"
ALL = "*"
"""In a task's list of sensitive parameters: all it has to do with."""
SHORTEST = 4
"""A text shorter than this is no secret, and hiding it in a traceback would hide half of the words."""
_PAYLOAD = ("arguments", "result", "error", "traceback", "status_message")


@dataclass(frozen=True, slots=True)
class Sensitive:
    """Marks a parameter of a tool: `password: Annotated[str, Sensitive()]`."""


def without_sensitive(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a task as an operator may see it. `row["sensitive"]` names what is hidden, and is left out."""
    shown = dict(row)
    names = shown.pop("sensitive", None) or ()
    if not names:
        return shown
    if ALL in names:
        for name in _PAYLOAD:
            if shown.get(name) is not None:
                shown[name] = HIDDEN
        for question in shown.get("questions", ()):
            question["params"] = {"message": HIDDEN}
            question["response"] = None if question["response"] is None else HIDDEN
        for entry in shown.get("journal", ()):
            entry["error"] = None if entry["error"] is None else HIDDEN
        return shown
    arguments = shown.get("arguments")
    if not isinstance(arguments, Mapping):
        return shown
    scrub = scrubber(arguments, names)
    for name in ("result", "error"):
        shown[name] = _scrubbed(shown.get(name), scrub)
    for question in shown.get("questions", ()):
        question.update({name: _scrubbed(question[name], scrub) for name in ("params", "response")})
    shown["arguments"] = {name: HIDDEN if name in names else value for name, value in arguments.items()}
    return {name: value if name == "arguments" else _texts_scrubbed(value, scrub) for name, value in shown.items()}


def shown_record(record: TaskRecord, arguments: Mapping[str, Any], names: Sequence[str]) -> TaskRecord:
    """The record with what an operator must not see hidden; still one that can be told by a wire."""
    if not names:
        return record
    scrub = scrubber(arguments, names)

    def hidden(value: Any) -> Any:
        return HIDDEN if ALL in names else _scrubbed(value, scrub)

    def text(value: str | None) -> str | None:
        return None if value is None else str(hidden(value))

    result, error = record.result, record.error
    if result is not None:
        whole = {"content": [{"type": "text", "text": HIDDEN}]}
        members = json.loads(result).items()
        result = json.dumps(whole if ALL in names else {name: hidden(value) for name, value in members})
    if error is not None:
        members = json.loads(error).items()
        error = json.dumps({name: value if name == "code" else hidden(value) for name, value in members})
    return replace(
        record,
        result=result,
        error=error,
        status_message=text(record.status_message),
        progress_message=text(record.progress_message),
        open_questions=tuple(
            replace(each, params={"message": HIDDEN} if ALL in names else hidden(each.params))
            for each in record.open_questions
        ),
    )


def shown_line(logger: str | None, data: Any, arguments: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`logger` and `data` of a log line, as an operator may read them. `data` is what was logged, and no JSON text."""
    if ALL in names:
        return {"logger": None if logger is None else HIDDEN, "data": HIDDEN}
    scrub = scrubber(arguments, names)
    return {"logger": _scrubbed(logger, scrub), "data": _scrubbed(data, scrub)}


def shown_text(text: str, arguments: Mapping[str, Any], names: Sequence[str]) -> str:
    """The text, which a tool wrote, as an operator may read it."""
    return HIDDEN if ALL in names else scrubber(arguments, names)(text) if names else text


def shown_traceback(error: BaseException, arguments: Mapping[str, Any], names: Sequence[str]) -> str:
    """Where it happened may be told of any tool; what an exception says may hold what the tool works with."""
    if ALL not in names:
        return shown_text("".join(traceback.format_exception(error)), arguments, names)
    return f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}: {HIDDEN}\n"


def scrubber(arguments: Mapping[str, Any], names: Sequence[str]) -> Callable[[str], str]:
    """A function that hides the values of these arguments in a text, also where Python or JSON quotes them."""
    values: set[str] = set()
    for name in arguments if ALL in names else names:
        values.update(each for each in _texts(arguments.get(name)) if len(each) >= SHORTEST)
    spelled = {form for value in values for form in _spelled(value)}
    longest_first = sorted(spelled, key=len, reverse=True)

    def scrub(text: str) -> str:
        for value in longest_first:
            text = text.replace(value, HIDDEN)
        return text

    return scrub


def _spelled(value: str) -> Iterator[str]:
    yield value
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case bool() | None:
            return
        case int() | float():
            yield str(value)
        case Mapping():
            for each in value.values():
                yield from _texts(each)
        case list() | tuple():
            for each in value:
                yield from _texts(each)


def _scrubbed(value: Any, scrub: Callable[[str], str]) -> Any:
    """JSON that a tool or a client wrote: texts, numbers and the names of members."""
    match value:
        case str():
            return scrub(value)
        case bool() | None:
            return value
        case int() | float():
            return value if scrub(str(value)) == str(value) else HIDDEN
        case Mapping():
            return {scrub(name): _scrubbed(each, scrub) for name, each in value.items()}
        case list() | tuple():
            return [_scrubbed(each, scrub) for each in value]
        case _:
            return value


def _texts_scrubbed(value: Any, scrub: Callable[[str], str]) -> Any:
    """A record of the engine's: its members have their names, and its numbers count what the engine did."""
    match value:
        case str():
            return scrub(value)
        case Mapping():
            return {name: _texts_scrubbed(each, scrub) for name, each in value.items()}
        case list():
            return [_texts_scrubbed(each, scrub) for each in value]
        case _:
            return value
