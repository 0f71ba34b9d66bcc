"""The demo: `taskengine dev workers.demo`, or `make demo`.

`audit_source` is the long one: CPU work in a process, progress, and a question that ends its attempt. The others
show one thing each.
"""

from __future__ import annotations

import asyncio
import os
import sysconfig
from pathlib import Path
from typing import Annotated, Literal

from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, Field

from taskengine import Context, Form, SyncContext, TaskEngine, ToolError
from workers.audit import AuditReport, FileAudit, Package, audit_file, find_packages, render, summarise

__all__ = ["engine"]

engine = TaskEngine("demo", instructions="Tools that show what a durable task can do: long work, progress, questions.")

STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()


class Scope(BaseModel):
    """The question `audit_source` asks."""

    include_tests: bool = Field(True, title="Include the tests?", description="They are often half of the files.")


@engine.tool(
    title="Audit a source tree",
    ttl="1d",
    timeout="1h",
    poll_interval="1s",
    annotations={"readOnlyHint": True, "openWorldHint": False},
    output_schema=AuditReport.model_json_schema(mode="serialization"),
)
def audit_source(
    ctx: SyncContext,
    path: Annotated[
        str | None, Field(description="The folder to audit. Default: the standard library of the running Python.")
    ] = None,
    include_tests: Annotated[bool | None, Field(description="Read the tests as well? Default: ask.")] = None,
) -> CallToolResult:
    """Measure a tree of Python source: lines, functions, complexity, the longest and the most complex, by package."""
    root = _allowed(path)
    packages = find_packages(root)
    tests = sum(len(package.tests) for package in packages)
    total = tests + sum(len(package.files) for package in packages)
    if total == 0:
        raise ToolError(f"There is no Python file below {root}: name a folder that has some.")
    if include_tests is None:
        include_tests = _ask_about_tests(ctx, root, total, tests)
    audited: dict[str, list[FileAudit]] = {}
    done = 0
    goal = total if include_tests else total - tests
    for package in packages:
        audited[package.name] = found = []
        for file in _chosen(package, include_tests=include_tests):
            found.append(audit_file(file))
            done += 1
            ctx.progress(done, goal, f"{package.name}: {len(found)} of {len(package.files) + len(package.tests)} files")
    report = summarise(root, audited, tests_included=include_tests, tests_left_out=0 if include_tests else tests)
    return CallToolResult(
        content=[TextContent(type="text", text=render(report))], structured_content=report.model_dump(mode="json")
    )


@engine.tool(title="Count down", timeout="1h", annotations={"readOnlyHint": True})
async def countdown(
    ctx: Context,
    seconds: Annotated[int, Field(ge=1, le=3600, description="How long to wait.")] = 10,
) -> str:
    """Wait, and say every second how much is left. Hundreds of these run in one worker at once."""
    for gone in range(seconds):
        await ctx.progress(gone, seconds, f"{seconds - gone} s left")
        await asyncio.sleep(1)
    return f"{seconds} seconds have passed."


class Meal(BaseModel):
    """A lunch order."""

    dish: Literal["soup", "salad", "pasta"] = "soup"
    portions: int = Field(1, ge=1, le=20)


class Delivery(BaseModel):
    """Where lunch goes."""

    room: str = Field(min_length=1, max_length=40)


@engine.tool(title="Order lunch")
async def order_lunch(ctx: Context) -> str:
    """Ask two questions at once and wait, for days if need be, until both are answered."""
    answers = await ctx.elicit_all(
        {"meal": Form("What shall it be?", Meal), "delivery": Form("Where do you want it?", Delivery)}
    )
    meal, delivery = answers["meal"], answers["delivery"]
    if not (meal.accepted and delivery.accepted):
        return "No lunch was ordered."
    return f"{meal.data.portions} × {meal.data.dish} will come to {delivery.data.room}."


@engine.tool(task="forbidden", title="Count words", annotations={"readOnlyHint": True})
def count_words(text: Annotated[str, Field(description="Any text.")]) -> int:
    """Count the words of a text. Quick, so it runs in the front end and makes no task."""
    return len(text.split())


def _allowed(path: str | None) -> Path:
    """The folder meant, if this server may read it: below the standard library or below where the worker started."""
    if path is None:
        return STANDARD_LIBRARY
    roots = (STANDARD_LIBRARY, Path.cwd().resolve())
    if "\0" in path:
        raise ToolError("The path holds a character that no file name has.")
    wanted = Path(os.path.realpath(path))  # follows links, so that none leads outside
    if not any(wanted.is_relative_to(root) for root in roots):
        raise ToolError(f"{path} is outside of what this server may read: {' and '.join(map(str, roots))}.")
    if not wanted.is_dir():
        raise ToolError(f"{path} is not a folder: name one below {' or '.join(map(str, roots))}.")
    return wanted


def _ask_about_tests(ctx: SyncContext, root: Path, total: int, tests: int) -> bool:
    """The client's choice; without tests in the tree, or a client that can be asked, everything is read."""
    if tests == 0 or not ctx.supports("elicitation"):
        return True
    message = f"{root} has {total:,} Python files, {tests:,} of them tests. Shall the audit include the tests?"
    answer = ctx.elicit(message, Scope, key="include-tests")
    return answer.accepted and answer.data is not None and answer.data.include_tests


def _chosen(package: Package, *, include_tests: bool) -> tuple[Path, ...]:
    return package.files + package.tests if include_tests else package.files
