"""A question at the prompt, by its schema: a field at a time, each asked again until it fits."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from rich.text import Text

from taskengine.cli.screen import err
from taskengine.errors import BadAnswer, DeclarationError
from taskengine.questions import check_answer
from taskengine.records import Question

__all__ = ["CAPABILITIES", "Unanswered", "answer_at_prompt", "can_ask", "content_of"]

CAPABILITIES: Mapping[str, Any] = {"elicitation": {"form": {}, "url": {}}}
"""What a person at a terminal can be asked."""

ACTIONS = {"accept": "accept", "decline": "decline", "dismiss": "cancel", "a": "accept", "d": "decline", "": "accept"}


class Unanswered(Exception):
    """Nobody here answers: Ctrl-D at the prompt, or something a terminal cannot show."""


def can_ask() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def answer_at_prompt(question: Question) -> dict[str, Any]:
    """The raw answer to `question`. Raises Unanswered."""
    if question.method != "elicitation/create":
        err.print(f"The tool asks what a terminal cannot answer ({question.method}).", markup=False)
        raise Unanswered
    err.print(Text.assemble("\n", ("The tool asks:", "bold"), f" {question.params.get('message', '')}"))
    is_page = question.params.get("mode") == "url" or "url" in question.params
    if is_page:
        err.print(f"It wants you to open this address: {question.params.get('url')}", markup=False)
    while True:
        action = ACTIONS.get((await _line("accept, decline or dismiss", "accept")).lower())
        if action is not None:
            break
        err.print("  write accept, decline or dismiss")
    if action != "accept" or is_page:
        return {"action": action}
    required = (question.params.get("requestedSchema") or {}).get("required") or ()
    content: dict[str, Any] = {}
    for name, field in _fields(question).items():
        value = await _ask(name, field, name in required)
        if value is not None:
            content[name] = value
    return {"action": "accept", "content": content}


def content_of(question: Question, values: Mapping[str, Any]) -> dict[str, Any]:
    """Accepting the form with these values; text is read as what its field is. Raises BadAnswer, and ValueError with a
    sentence for whoever typed it."""
    if question.params.get("mode") == "url":
        return {"action": "accept"}
    fields = _fields(question)
    content = {
        name: _read(fields.get(name, {}), value) if isinstance(value, str) else value for name, value in values.items()
    }
    answer = {"action": "accept", "content": content}
    check_answer(question, answer)
    return answer


async def _ask(name: str, field: Mapping[str, Any], required: bool) -> Any:
    """A value that fits the field; None for one that is left out."""
    several = field.get("type") == "array"
    choices = _choices(_items(field) if several else field)
    described = f"  ({field['description']})" if field.get("description") else ""
    err.print(Text.assemble("\n", (str(field.get("title") or name), "bold"), described))
    for number, (value, title) in enumerate(choices or (), 1):
        err.print(f"  {number}  {value}{'' if title == value else f'  {title}'}", markup=False)
    default = field.get("default")
    while True:
        text = await _line(_hint(field, several, choices is not None, required), _shown(default))
        try:
            if not text and (default is not None or not required):
                return default
            value = _read_typed(name, field, text)
        except (ValueError, BadAnswer) as error:
            err.print(f"  {error.reason if isinstance(error, BadAnswer) else error}", markup=False)
        else:
            return value


def _hint(field: Mapping[str, Any], several: bool, chosen: bool, required: bool) -> str:
    hints = {"boolean": "yes or no", "integer": "a whole number", "number": "a number"}
    formats = {"date": "a date, 2026-07-28", "date-time": "a time, 2026-07-28T12:00:00Z", "email": "an address"}
    if several:
        hint = "some of these, with commas"
    elif chosen:
        hint = "one of these"
    else:
        hint = hints.get(str(field.get("type"))) or formats.get(str(field.get("format"))) or "text"
    return hint if required or "default" in field else f"{hint}, or nothing"


def _shown(default: Any) -> str | None:
    if default is None:
        return None
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ",".join(map(str, default)) if isinstance(default, list) else str(default)


def _read_typed(name: str, field: Mapping[str, Any], text: str) -> Any:
    """Raises BadAnswer and ValueError. A schema that cannot be used is for the server to hold against it."""
    if not text:
        raise ValueError("this is needed")
    value = _read(field, text)
    schema = {"type": "object", "properties": {name: field}}
    question = Question(name, "elicitation/create", {"requestedSchema": schema})
    with suppress(DeclarationError):
        check_answer(question, {"action": "accept", "content": {name: value}})
    return value


async def _line(hint: str, default: str | None) -> str:
    """What is typed, without the spaces around it. Raises Unanswered at the end of the input.

    The terminal is read by the loop, not by a thread that would wait for an Enter after Ctrl-C.
    """
    err.print(Text.assemble("  ", hint, ("" if default is None else f" [{default}]", "bold"), ": "), end="")
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    terminal = sys.stdin.fileno()
    loop.add_reader(terminal, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(terminal)
    typed = os.read(terminal, 1 << 16)
    if not typed:
        err.print()
        raise Unanswered
    return typed.decode(errors="replace").strip()


def _read(field: Mapping[str, Any], text: str) -> Any:
    """Raises ValueError with a sentence for whoever typed it."""
    match field.get("type"):
        case "boolean":
            if text.lower() in {"y", "yes", "true", "1"}:
                return True
            if text.lower() in {"n", "no", "false", "0"}:
                return False
            raise ValueError(f"{text!r} is neither yes nor no")
        case "integer":
            return _number(text, int, "a whole number")
        case "number":
            return _number(text, float, "a number")
        case "array":
            choices = _choices(_items(field))
            return [_one_of(part.strip(), choices) for part in text.split(",") if part.strip()]
        case _:
            return _one_of(text, _choices(field))


def _number(text: str, kind: Callable[[str], float], described: str) -> float:
    try:
        value = kind(text)
        if math.isfinite(value):
            return value
    except (ValueError, OverflowError):  # a whole number that is too large for anything
        pass
    raise ValueError(f"{text!r} is not {described}")


def _one_of(text: str, choices: list[tuple[str, str]] | None) -> str:
    """A choice by its value, its number or its title."""
    if choices is None:
        return text
    values = [value for value, _ in choices]
    if text in values:
        return text
    if text.isdecimal() and 0 < int(text) <= len(values):
        return values[int(text) - 1]
    for value, title in choices:
        if text.casefold() == title.casefold():
            return value
    raise ValueError(f"{text!r} is none of {', '.join(values)}")


def _choices(field: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Values and titles."""
    for titled in ("oneOf", "anyOf"):
        options = field.get(titled)
        if isinstance(options, list):
            known = [option for option in options if isinstance(option, Mapping) and "const" in option]
            return [(str(option["const"]), str(option.get("title", option["const"]))) for option in known]
    values = field.get("enum")
    if not isinstance(values, list):
        return None
    names = field.get("enumNames")
    titles = names if isinstance(names, list) and len(names) == len(values) else values
    return [(str(value), str(title)) for value, title in zip(values, titles, strict=True)]


def _items(field: Mapping[str, Any]) -> Mapping[str, Any]:
    items = field.get("items")
    return items if isinstance(items, Mapping) else {}


def _fields(question: Question) -> dict[str, Mapping[str, Any]]:
    schema = question.params.get("requestedSchema")
    fields = schema.get("properties") if isinstance(schema, Mapping) else None
    known = fields.items() if isinstance(fields, Mapping) else ()
    return {name: field if isinstance(field, Mapping) else {} for name, field in known}
