"""A question at the prompt, by its schema: a field at a time, each asked again until it fits."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

from rich.prompt import Prompt

from taskengine.cli.screen import err
from taskengine.errors import BadAnswer
from taskengine.questions import check_answer
from taskengine.records import Question

__all__ = ["CAPABILITIES", "answer_at_prompt", "can_ask", "content_of"]

CAPABILITIES: Mapping[str, Any] = {"elicitation": {"form": {}, "url": {}}}
"""What a person at a terminal can be asked."""

T = TypeVar("T")


def can_ask() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty() and err.is_terminal


async def answer_at_prompt(question: Question) -> dict[str, Any]:
    """The raw answer to `question`."""
    err.print(f"\n[bold]The tool asks:[/bold] {question.params.get('message', question.method)}", markup=True)
    return await _beside(lambda: _answer(question))


def content_of(question: Question, values: Mapping[str, Any]) -> dict[str, Any]:
    """Accepting the form with these values; text is read as what its field is. Raises BadAnswer."""
    fields = _fields(question)
    content = {
        name: _read(fields.get(name, {}), value) if isinstance(value, str) else value for name, value in values.items()
    }
    answer = {"action": "accept", "content": content}
    check_answer(question, answer)
    return answer


def _answer(question: Question) -> dict[str, Any]:
    if question.method != "elicitation/create":
        err.print("A terminal can only fill in forms and open addresses: declined.")
        return {"action": "decline"}
    if "url" in question.params:
        err.print(f"Open this address: {question.params['url']}", markup=False)
    action = Prompt.ask("Your answer", choices=["accept", "decline", "cancel"], default="accept", console=err)
    if action != "accept":
        return {"action": action}
    if "requestedSchema" not in question.params:
        return {"action": "accept"}
    while True:
        fields = _fields(question)
        required = question.params["requestedSchema"].get("required", ())
        asked = {name: _ask(name, field, name in required) for name, field in fields.items()}
        answer = {"action": "accept", "content": {name: value for name, value in asked.items() if value is not None}}
        try:
            check_answer(question, answer)
        except BadAnswer as error:
            err.print(f"{error}", markup=False)
        else:
            return answer


def _ask(name: str, field: Mapping[str, Any], required: bool) -> Any:
    label = field.get("title") or name
    if field.get("description"):
        label += f" ({field['description']})"
    choices = _choices(field.get("items", field))
    if choices:
        label += f" [{'/'.join(choices)}]" + (", separated by commas" if field.get("type") == "array" else "")
    elif field.get("type") == "boolean":
        label += " [y/n]"
    default = field.get("default")
    shown = ",".join(default) if isinstance(default, list) else None if default is None else str(default)
    if not required and shown is None:
        label += " (may be empty)"
    while True:
        text = Prompt.ask(label, default=shown if shown is not None else "", show_default=bool(shown), console=err)
        if not text and not required:
            return None
        try:
            return _read(field, text)
        except ValueError as error:
            err.print(str(error), markup=False)


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
            return [_one_of(part.strip(), _choices(field.get("items", {}))) for part in text.split(",") if part.strip()]
        case _:
            return _one_of(text, _choices(field))


def _number(text: str, kind: Callable[[str], float], described: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {described}") from None


def _one_of(text: str, choices: list[str] | None) -> str:
    if choices is not None and text not in choices:
        raise ValueError(f"{text!r} is none of {', '.join(choices)}")
    return text


def _choices(field: Mapping[str, Any]) -> list[str] | None:
    for titled in ("oneOf", "anyOf"):
        if titled in field:
            return [str(option["const"]) for option in field[titled] if "const" in option]
    found = field.get("enum")
    return None if found is None else [str(choice) for choice in found]


def _fields(question: Question) -> Mapping[str, Mapping[str, Any]]:
    schema = question.params.get("requestedSchema") or {}
    fields: Mapping[str, Mapping[str, Any]] = schema.get("properties") or {}
    return fields


async def _beside(work: Callable[[], T]) -> T:
    """What `work` returns, from a thread that nobody waits for: Ctrl-C must not wait for somebody's Enter."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("T", result))

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = (work(), None)
        except BaseException as error:
            outcome = (None, error)
        with suppress(RuntimeError):  # the loop is closed by now
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="prompt", daemon=True).start()
    return await future
