"""The tools that tests of workers and of the whole system call. Each does one thing a task can do."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel

from taskengine import Context, Form, ProtocolError, SyncContext, TaskEngine, ToolError

engine = TaskEngine("tests", version="1", instructions="Tools for tests.")


class Name(BaseModel):
    name: str


class Sure(BaseModel):
    sure: bool


class Sum(BaseModel):
    total: int
    attempt: int


def _note(ledger: str, line: str) -> None:
    """Leave a trace outside the engine: who ran what, counted by the test."""
    if ledger:
        with Path(ledger).open("a") as file:
            file.write(f"{line} {os.getpid()}\n")


@engine.tool(quick_wait="0s")
async def add(a: int, b: int, ctx: Context) -> Sum:
    """Add two numbers."""
    await ctx.progress(1, 2, "adding")
    return Sum(total=a + b, attempt=ctx.attempt)


@engine.tool(quick_wait="0s")
def add_sync(a: int, b: int, ctx: SyncContext) -> Sum:
    """Add two numbers in a process."""
    ctx.progress(1, 2, "adding")
    return Sum(total=a + b, attempt=ctx.attempt)


@engine.tool(quick_wait="10s")
async def quick(text: str) -> str:
    """Return the text at once."""
    return text


@engine.tool(quick_wait="0s")
async def greet(ctx: Context) -> str:
    """Ask for a name and greet it."""
    answer = await ctx.elicit("Who are you?", Name, key="name")
    return f"Hello, {answer.data.name}! (attempt {ctx.attempt})" if answer.data else f"You said {answer.action}."


@engine.tool(quick_wait="0s")
def greet_sync(ctx: SyncContext) -> str:
    """Ask for a name and greet it, from a process."""
    answer = ctx.elicit("Who are you?", Name, key="name")
    return f"Hello, {answer.data.name}! (attempt {ctx.attempt})" if answer.data else f"You said {answer.action}."


@engine.tool(quick_wait="0s")
async def fickle(ctx: Context) -> str:
    """Ask something else in every attempt."""
    await ctx.elicit(f"Question of attempt {ctx.attempt}?", Name, key="name")
    return "unreachable"


@engine.tool(quick_wait="0s")
def fickle_sync(ctx: SyncContext) -> str:
    """Ask something else in every attempt, from a process."""
    ctx.elicit(f"Question of attempt {ctx.attempt}?", Name, key="name")
    return "unreachable"


@engine.tool(quick_wait="0s")
async def two_questions(ctx: Context) -> str:
    """Ask two things at once."""
    answers = await ctx.elicit_all({"name": Form("Who?", Name), "sure": Form("Sure?", Sure)})
    return f"{answers['name'].data} {answers['sure'].data}"


@engine.tool(task="required", ask_first={"name": Form("Who are you?", Name)})
async def greet_later(ctx: Context) -> str:
    """Ask for a name before there is a task."""
    return f"Hello, {ctx.first['name'].data.name}!"


@engine.tool(task="required", bridge=False)
async def tasks_only() -> str:
    """Serve clients that know tasks, and no others."""
    return "known"


@engine.tool(quick_wait="0s")
async def sleep(seconds: float, ledger: str = "") -> str:
    """Sleep on the event loop."""
    _note(ledger, "start")
    await asyncio.sleep(seconds)
    _note(ledger, "end")
    return "slept"


@engine.tool(quick_wait="0s")
def sleep_sync(seconds: float, ledger: str = "") -> str:
    """Sleep in a process, in one blocking call."""
    _note(ledger, "start")
    time.sleep(seconds)
    _note(ledger, "end")
    return "slept"


@engine.tool(quick_wait="0s")
async def walk(steps: int, ctx: Context, ledger: str = "") -> str:
    """Report progress every tenth of a second."""
    _note(ledger, "start")
    for step in range(steps):
        await ctx.progress(step, steps, "walking")
        await asyncio.sleep(0.1)
    _note(ledger, "end")
    return f"walked in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
async def outlast(ctx: Context, ledger: str) -> str:
    """Hang in the first attempt; be done at once in a later one."""
    _note(ledger, "start")
    await asyncio.sleep(600 if ctx.attempt == 1 else 0)
    return f"done in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def outlast_sync(ctx: SyncContext, ledger: str) -> str:
    """Hang in the first attempt, in a process; be done at once in a later one."""
    _note(ledger, "start")
    time.sleep(600 if ctx.attempt == 1 else 0)
    return f"done in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def stubborn(seconds: float, ledger: str = "") -> str:
    """Swallow everything that should stop it."""
    _note(ledger, "start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.2)
        except BaseException:
            _note(ledger, "swallowed")
    return "went on"


@engine.tool(quick_wait="0s", timeout="500ms")
async def too_long() -> str:
    """Run past its limit."""
    await asyncio.sleep(60)
    return "never"


@engine.tool(quick_wait="0s", timeout="500ms")
def too_long_sync() -> str:
    """Run past its limit in a process."""
    time.sleep(60)
    return "never"


@engine.tool(quick_wait="0s")
def die(how: str, ledger: str, attempts: int = 99) -> str:
    """End the process in the middle of the call, for the first `attempts` attempts."""
    _note(ledger, "start")
    if len(Path(ledger).read_text().splitlines()) > attempts:
        return "lived"
    match how:
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            ctypes.string_at(0)
    return "unreachable"


@engine.tool(quick_wait="0s")
async def tool_error() -> str:
    """Fail the way a tool should."""
    raise ToolError("there is no such report: choose another")


@engine.tool(quick_wait="0s")
async def protocol_error() -> str:
    """Fail with a JSON-RPC error."""
    raise ProtocolError(-31999, "out of paper", {"tray": 2})


@engine.tool(quick_wait="0s")
async def raises() -> str:
    """Fail with an exception of its own."""
    raise ValueError("unlucky")


@engine.tool(quick_wait="0s")
async def too_much(size: int) -> str:
    """Return more than fits."""
    return "x" * size


@engine.tool(quick_wait="0s", ttl="2s")
async def short_lived() -> str:
    """Be forgotten soon."""
    return "remember me"
