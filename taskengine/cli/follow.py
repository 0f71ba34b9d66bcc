"""A task seen to its end at a terminal: progress, questions, and the one way in which all commands tell the outcome.

Results go to standard output, everything else to standard error, so that a pipe gets the result alone.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from taskengine.cli.form import answer_at_prompt, can_ask
from taskengine.cli.screen import complain, err, out
from taskengine.client import OnQuestion, Outcome, Progress, Remote, RemoteError
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
        if not err.is_terminal:
            if time.monotonic() - self._last >= _QUIET_S:
                self._last = time.monotonic()
                err.print(f"  {text}", markup=False)
            return
        if self._bars is None:
            columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bars = Bars(*columns, console=err, transient=True)
            self._bars.add_task("", total=None)
            self._bars.start()
        done, total = _fraction(told)
        self._bars.update(
            self._bars.task_ids[0], description=text.rpartition(" · ")[2], completed=done, total=total, refresh=True
        )

    def stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    async def _ask(self, question: Question) -> Mapping[str, Any]:
        self.stop()
        return await answer_at_prompt(question)


def report(outcome: Outcome, *, as_json: bool, task_id: str | None = None) -> int:
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
        _tell_questions(outcome, task_id)
    elif outcome.status is Status.CANCELLED:
        complain("the task was cancelled")
    elif outcome.is_error:
        complain(outcome.text or "the tool failed without saying why")
    else:
        _print_result(outcome)
    return code_of(outcome)


def report_error(error: RemoteError, *, as_json: bool) -> int:
    """Tell the JSON-RPC error that a call or a task ended with."""
    if as_json:
        body = {"code": error.code, "message": error.message}
        if error.data is not None:
            body["data"] = error.data
        print_json({"taskId": error.task_id, "status": Status.FAILED.value, "error": body})
    else:
        complain(str(error))
    return FAILED


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
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def tell_detached(task_id: str | None) -> None:
    if task_id is None:
        err.print("\nStopped.")
        return
    err.print(
        f"\nDetached; the task goes on.\n  follow  taskengine watch {task_id}\n  stop    taskengine cancel {task_id}",
        markup=False,
    )


def _tell_questions(outcome: Outcome, task_id: str | None) -> None:
    err.print("The tool waits for answers:", markup=False)
    for question in outcome.questions:
        err.print(f"  {question.key}: {question.params.get('message', question.method)}", markup=False)
        for name, field in ((question.params.get("requestedSchema") or {}).get("properties") or {}).items():
            err.print(f"    {name} ({field.get('type', 'any')}) {field.get('description', '')}".rstrip(), markup=False)
    if task_id is not None:
        err.print(f"Answer with: taskengine answer {task_id} name=value", markup=False)
    else:
        err.print("Call it again at a terminal: it asks before it begins.", markup=False)


def _print_result(outcome: Outcome) -> None:
    others = [block for block in outcome.result.get("content", ()) if block.get("type") != "text"]
    if outcome.structured is not None:
        print_json(outcome.structured)
    elif outcome.text:
        out.print(outcome.text, markup=False)
    for block in others:
        size = len(block.get("data", "") or "") * 3 // 4
        err.print(f"[{block.get('type')} {block.get('mimeType', '')} {size} bytes: see --json]", markup=False)


def _fraction(told: Progress) -> tuple[float, float | None]:
    """How far it is; a task of 2026-07-28 says so only in words."""
    if told.progress is not None:
        return told.progress, told.total
    found = re.search(r"(\d+(?:\.\d+)?) ?%", told.message or "")
    return (float(found[1]), 100) if found else (0, None)
