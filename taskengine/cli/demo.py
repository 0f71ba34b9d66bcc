"""`taskengine demo`: one real job through the real front end and real workers, seen by a real client."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from taskengine.cli.ask import ask
from taskengine.cli.screen import complain, good, note, out
from taskengine.cli.stack import ChildFailed, Stack
from taskengine.client import Client, Outcome, Remote
from taskengine.client import Progress as Told
from taskengine.durations import describe
from taskengine.lifecycle import Status
from taskengine.records import Question
from taskengine.settings import load_settings

__all__ = ["demo"]

TARGET = "workers.demo:engine"
WORKERS = 2
_QUIET_S = 2.0
"""Without a terminal, the least time between two lines of progress."""


class DemoResult(BaseModel):
    """How the demo ended; `--json` prints it."""

    task_id: str | None
    status: Status
    seconds: float
    result: Any


def demo(
    path: Annotated[str | None, typer.Option(help="Folder to audit; default: Python's standard library.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for database and logs; default: a new one.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the structured result here.")] = None,
) -> None:
    """Audit a tree of Python source as a durable task, and watch it. Needs nothing but the `dev` extra."""
    settings = load_settings(host="127.0.0.1", port=0)
    arguments = {} if path is None else {"path": str(Path(path).resolve())}
    with _folder(data) as folder, Stack(TARGET, folder, settings, workers=WORKERS, tell=_tell) as stack:
        try:
            stack.start_children()
        except ChildFailed as failure:
            complain(str(failure))
            raise typer.Exit(1) from None
        good(f"PostgreSQL, Valkey, a front end and {WORKERS} workers run; the client talks to {stack.url}")
        started = time.monotonic()
        outcome = asyncio.run(_watch(stack, arguments))
        seconds = time.monotonic() - started
        if output is not None:
            result = DemoResult(
                task_id=outcome.task_id, status=outcome.status, seconds=seconds, result=outcome.structured
            )
            output.write_text(result.model_dump_json(indent=2))
    out.print(f"\n{outcome.text}\n", markup=False)
    took = describe(timedelta(seconds=round(seconds, 1)))
    out.print(f"{outcome.task_id or 'no task'} {outcome.status} in {took}")
    if outcome.status is not Status.COMPLETED or outcome.is_error:
        raise typer.Exit(1)


async def _watch(stack: Stack, arguments: dict[str, Any]) -> Outcome:
    """The call's outcome; meanwhile the stack is tended and its progress shown."""
    tending = asyncio.create_task(_tend(stack))
    bar = _Bar()
    try:
        async with Client(stack.url, name="taskengine-demo") as client:
            return await client.call(
                "audit_source", arguments, on_progress=bar.show, on_question=bar.ask, on_task=_announce
            )
    finally:
        bar.stop()
        tending.cancel()


async def _tend(stack: Stack) -> None:
    while True:
        await asyncio.sleep(0.2)
        stack.tend()


class _Bar:
    """The task's progress: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._last = 0.0
        self._text = ""

    def show(self, told: Told) -> None:
        text = told.message or ""
        if text == self._text:
            return
        self._text = text
        if not out.is_terminal:
            if time.monotonic() - self._last >= _QUIET_S:
                self._last = time.monotonic()
                out.print(f"  {text}", markup=False)
            return
        if self._bar is None:
            columns = (
                SpinnerColumn(),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._bar = Progress(*columns, console=out, transient=True)
            self._bar.add_task("", total=None)
            self._bar.start()
        done, total = _fraction(told)
        self._bar.update(
            self._bar.task_ids[0], description=text.rpartition(" · ")[2], completed=done, total=total, refresh=True
        )

    async def ask(self, question: Question) -> dict[str, Any]:
        self.stop()
        return await ask(question)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _fraction(told: Told) -> tuple[float, float | None]:
    """How far it is; a task of this wire says so only in words."""
    if told.progress is not None:
        return told.progress, told.total
    found = re.search(r"(\d+(?:\.\d+)?) ?%", told.message or "")
    return (float(found[1]), 100) if found else (0, None)


def _announce(task: Remote) -> None:
    good(f"the call became task {task.id}")


def _tell(who: str, what: str) -> None:
    for line in what.splitlines():
        note(f"{who}: {line}")


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    if data is not None:
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="taskengine-demo-") as folder:
        yield Path(folder)
