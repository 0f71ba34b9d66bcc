"""A task seen to its end at a terminal: progress, questions, and the one way in which all commands tell the outcome.

Results go to standard output, everything else to standard error, so that a pipe gets the result alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from taskengine.cli.form import Unanswered, answer_at_prompt, can_ask
from taskengine.cli.place import Where
from taskengine.cli.screen import complain, err, harmless, harmless_json, out
from taskengine.client import OnQuestion, Outcome, Progress, Remote, RemoteError, ServerUnreachable
from taskengine.errors import EngineError, StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.records import Question

__all__ = [
    "CANCELLED",
    "DETACHED",
    "DONE",
    "FAILED",
    "WAITING",
    "Json",
    "Watching",
    "code_of",
    "print_json",
    "report",
    "report_error",
    "seen_to_its_end",
    "tell_detached",
]

DONE, FAILED, CANCELLED, WAITING = 0, 1, 3, 4
DETACHED = 130

Json = typer.Option("--json", help="Print one JSON object, for programs.")

_QUIET_S = 2.0
"""Without a terminal, the least time between two lines of progress."""


class Watching:
    """What a person sees of a call while it is at work; as a context manager, it cleans up its line."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: Bars | None = None
        self._last = 0.0
        self._text = ""

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def on_question(self) -> OnQuestion | None:
        """None where nobody could be asked."""
        return None if self._quiet or not can_ask() else self._ask

    def show(self, told: Progress) -> None:
        text = told.message or ""
        if self._quiet or (text == self._text and told.progress is None):
            return
        self._text = text
        if not sys.stderr.isatty():
            if time.monotonic() - self._last >= _QUIET_S:
                self._last = time.monotonic()
                err.print(f"  {text}", markup=False)
            return
        if self._bars is None:
            words = TextColumn("{task.description}", markup=False)
            columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), words)
            self._bars = Bars(*columns, console=err, transient=True)
            self._bars.add_task("", total=None)
            self._bars.start()
        done, total = _fraction(told)
        self._bars.update(
            self._bars.task_ids[0],
            description=harmless(text.rpartition(" · ")[2]),
            completed=done,
            total=total,
            refresh=True,
        )

    def stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    async def _ask(self, question: Question) -> Mapping[str, Any]:
        self.stop()
        return await answer_at_prompt(question)


def report(outcome: Outcome, where: Where, *, as_json: bool, task_id: str | None = None) -> int:
    """Tell the outcome; the exit code that says the same."""
    task_id = outcome.task_id or task_id
    if as_json:
        said: dict[str, Any] = {"taskId": task_id, "status": outcome.status.value}
        if outcome.questions:
            said["inputRequests"] = {
                question.key: {"method": question.method, "params": dict(question.params)}
                for question in outcome.questions
            }
        elif outcome.status is Status.COMPLETED:
            said["result"] = {name: value for name, value in outcome.result.items() if name != "resultType"}
        print_json(said)
    elif outcome.status is Status.INPUT_REQUIRED:
        _tell_questions(outcome, where, task_id)
    elif outcome.status is Status.CANCELLED:
        complain("the task was cancelled")
    elif outcome.is_error:
        complain(outcome.text or "the tool failed without saying why")
    else:
        _print_result(outcome)
    return code_of(outcome)


def report_error(error: EngineError | ValueError, *, as_json: bool) -> int:
    """Tell the JSON-RPC error that a request was answered with, or that a task failed with: only then there is a
    status. Or that there was no answer."""
    if not as_json:
        complain(str(error))
        return FAILED
    body: dict[str, Any] = {"message": str(error)}
    said: dict[str, Any] = {}
    if isinstance(error, RemoteError):
        body = {"code": error.code, "message": error.message}
        if error.data is not None:
            body["data"] = error.data
        if error.task_id is not None:
            said = {"taskId": error.task_id, "status": Status.FAILED.value}
    print_json({**said, "error": body})
    return FAILED


def seen_to_its_end(run: Awaitable[int], where: Where, task_id: Callable[[], str | None], *, as_json: bool) -> int:
    """The exit code of `run`, however it ends. Whoever leaves is told how to come back."""
    try:
        return asyncio.run(_result_of(run))
    except KeyboardInterrupt:
        tell_detached(where, task_id())
        return DETACHED
    except Unanswered:
        _tell_unanswered(where, task_id())
        return WAITING
    except (RemoteError, ServerUnreachable, StoreUnavailable) as error:
        code = report_error(error, as_json=as_json)
        known = task_id()
        if known is not None and not isinstance(error, RemoteError):
            err.print(f"The task goes on: {where.command('watch', known)}", markup=False)
        return code


async def _result_of(run: Awaitable[int]) -> int:
    return await run


def code_of(outcome: Outcome | Remote) -> int:
    """0 done, 1 failed (a tool's own error included), 3 cancelled, 4 waiting for input."""
    result = outcome.result or {}
    match outcome.status:
        case Status.CANCELLED:
            return CANCELLED
        case Status.INPUT_REQUIRED:
            return WAITING
        case Status.FAILED:
            return FAILED
        case _:
            return FAILED if result.get("isError") else DONE


def print_json(value: Any) -> None:
    """On standard output, indented for a terminal and on one line for a pipe."""
    at_terminal = sys.stdout.isatty()
    text = json.dumps(value, indent=2 if at_terminal else None, ensure_ascii=False, default=str)
    sys.stdout.write((harmless_json(text) if at_terminal else text) + "\n")
    sys.stdout.flush()


def tell_detached(where: Where, task_id: str | None) -> None:
    if task_id is None:
        err.print("\nStopped before there was an answer; whether the call took effect is not known.", markup=False)
        return
    err.print("\nDetached; the task goes on.", markup=False)
    err.print(f"  follow  {where.command('watch', task_id)}", markup=False)
    err.print(f"  stop    {where.command('cancel', task_id)}", markup=False)


def _tell_unanswered(where: Where, task_id: str | None) -> None:
    if task_id is None:
        err.print("Left unanswered; the call was given up.", markup=False)
    else:
        err.print(f"Left unanswered; answer it later: {where.command('answer', task_id)}", markup=False)


def _tell_questions(outcome: Outcome, where: Where, task_id: str | None) -> None:
    err.print("The tool waits for answers:", markup=False)
    for question in outcome.questions:
        err.print(f"  {question.key}: {question.params.get('message', question.method)}", markup=False)
        for name, field in ((question.params.get("requestedSchema") or {}).get("properties") or {}).items():
            err.print(f"    {name} ({field.get('type', 'any')}) {field.get('description', '')}".rstrip(), markup=False)
    if task_id is not None:
        err.print(f"Answer with: {where.command('answer', task_id)} name=value", markup=False)
    else:
        err.print("Call it again at a terminal: it waits for the answer before it goes on.", markup=False)


def _print_result(outcome: Outcome) -> None:
    others = [block for block in outcome.blocks if block.get("type") != "text"]
    if outcome.structured is not None:
        print_json(outcome.structured)
    elif outcome.text:
        out.print(outcome.text, markup=False)
    for block in others:
        data = block.get("data")
        size = f" {len(data) * 3 // 4} bytes" if isinstance(data, str) else ""
        named = f" {block['uri']}" if "uri" in block else ""
        err.print(f"[{block.get('type')}{named} {block.get('mimeType', '')}{size}: see --json]", markup=False)


def _fraction(told: Progress) -> tuple[float, float | None]:
    """How far it is; a task of 2026-07-28 says so only in words."""
    if told.progress is not None:
        return told.progress, told.total
    found = re.search(r"(\d+(?:\.\d+)?) ?%", told.message or "")
    return (float(found[1]), 100) if found else (0, None)
