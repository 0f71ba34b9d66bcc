"""A task's question at the terminal: a form field by field. Without a terminal it is answered with its defaults."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

from rich.prompt import Confirm, FloatPrompt, IntPrompt, Prompt

from taskengine.cli.screen import note, out
from taskengine.records import Question

__all__ = ["ask"]

T = TypeVar("T")


async def ask(question: Question) -> dict[str, Any]:
    """The raw answer to `question`; what is no form is declined."""
    out.print(f"\n[bold]The task asks:[/bold] {question.params.get('message', question.method)}")
    schema = question.params.get("requestedSchema")
    if question.method != "elicitation/create" or not isinstance(schema, Mapping):
        note("this terminal can only fill in forms: declined")
        return {"action": "decline"}
    fields: Mapping[str, Any] = schema.get("properties", {})
    if sys.stdin.isatty() and sys.stdout.isatty():
        content = await _beside(lambda: {name: _prompt(name, field) for name, field in fields.items()})
    else:
        content = {name: _default(field) for name, field in fields.items()}
        said = ", ".join(f"{name} = {value!r}" for name, value in content.items())
        note(f"no terminal, so the demo answers for itself: {said}")
    return {"action": "accept", "content": {name: value for name, value in content.items() if value is not None}}


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


def _prompt(name: str, field: Mapping[str, Any]) -> Any:
    label = field.get("title") or name
    default = field.get("default", ...)
    match field.get("type"):
        case "boolean":
            return Confirm.ask(label, default=default)
        case "integer":
            return IntPrompt.ask(label, default=default)
        case "number":
            return FloatPrompt.ask(label, default=default)
        case "array":
            return Prompt.ask(f"{label} (separated by commas)").split(",")
        case _:
            return Prompt.ask(label, choices=_choices(field), default=default)


def _default(field: Mapping[str, Any]) -> Any:
    """The field's default, else the least that fits its type."""
    if "default" in field:
        return field["default"]
    least = {"boolean": True, "integer": field.get("minimum", 0), "number": field.get("minimum", 0), "array": []}
    return least.get(str(field.get("type")), (_choices(field) or ["x" * field.get("minLength", 1)])[0])


def _choices(field: Mapping[str, Any]) -> list[str] | None:
    if "oneOf" in field:
        return [option["const"] for option in field["oneOf"]]
    return field.get("enum")
