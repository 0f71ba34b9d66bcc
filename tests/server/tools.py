"""The tools that the front end's tests call."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Annotated, Any

from pydantic import BaseModel, Field

from taskengine import Context, Form, ProtocolError, Roots, Sample, SyncContext, TaskEngine, ToolError, Url

engine = TaskEngine("fixtures", version="1", instructions="For tests.")

ended: list[str] = []
"""What became of calls that were given up."""


class Name(BaseModel):
    name: str


class Sure(BaseModel):
    ok: bool


class Color(BaseModel):
    color: str


@engine.tool(task="forbidden")
def greet(name: str = "you") -> str:
    """Say hello."""
    return f"Hello, {name}!"


@engine.tool(task="forbidden")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@engine.tool(task="forbidden")
async def fail(kind: str) -> str:
    """Fail in some way."""
    match kind:
        case "tool":
            raise ToolError("No such file")
        case "protocol":
            raise ProtocolError(1234, "Not today", {"why": "Sunday"})
        case "reserved":
            raise ProtocolError(-32042, "Old", None)
        case "nan":
            return float("nan")  # type: ignore[return-value]
        case _:
            raise ValueError("broken")


@engine.tool(task="forbidden", output_schema={"type": "number"})
async def not_a_number() -> Any:
    """Return what is not JSON."""
    return float("nan")


@engine.tool(task="forbidden")
async def large() -> str:
    """Return too much."""
    return "x" * (17 << 20)


@engine.tool(task="forbidden")
async def steps(ctx: Context, pause: float = 0.05) -> str:
    """Report progress and log."""
    for step in range(3):
        await ctx.progress(step * 50, 100, f"step {step}")
        await ctx.log("info", f"info {step}")
        await ctx.log("debug", f"debug {step}")
        await asyncio.sleep(pause)
    return "walked"


@engine.tool(task="forbidden")
def sync_steps(ctx: SyncContext) -> str:
    """The same in a thread."""
    for step in range(3):
        ctx.progress(step * 50, 100)
        ctx.log.warning({"step": step}, logger="mine")
        time.sleep(0.03)
    return threading.current_thread().name


@engine.tool(task="forbidden")
async def hang() -> str:
    """Wait for ever."""
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        ended.append("hang")
        raise
    return "never"


@engine.tool(task="forbidden", timeout="100ms")
async def slow_direct() -> str:
    """Take longer than allowed."""
    await asyncio.sleep(5)
    return "late"


@engine.tool(task="forbidden")
async def ask_name(ctx: Context) -> str:
    """Ask for a name."""
    answer = await ctx.elicit("What is your name?", Name, key="user_name")
    return f"Hello, {answer.data.name}!" if answer.data else f"They {answer.action}"


@engine.tool(task="forbidden")
def ask_twice(ctx: SyncContext) -> str:
    """Ask in two rounds."""
    name = ctx.elicit("Name?", Name, key="step1").data
    color = ctx.elicit("Color?", Color, key="step2").data
    assert name is not None
    assert color is not None
    return f"{name.name} likes {color.color} (run {ctx.attempt})"


@engine.tool(task="forbidden")
async def ask_fickle(ctx: Context) -> str:
    """Ask something else in each run."""
    return (await ctx.elicit(f"Delete {ctx.attempt} files?", Sure, key="sure")).action


@engine.tool(task="forbidden")
async def ask_much(ctx: Context) -> str:
    """Ask three things at once."""
    answers = await ctx.elicit_all({"user_name": Form("Name?", Name), "greeting": Sample("Hi", 100), "roots": Roots()})
    return f"{answers['user_name'].data.name}, {answers['greeting'].text}, {len(answers['roots'])}"


@engine.tool(task="forbidden")
async def ask_url(ctx: Context) -> str:
    """Ask for a visit."""
    return (await ctx.elicit_url("Pay", "https://pay.example.org/1")).action


@engine.tool(task="forbidden")
async def region(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
    count: Annotated[int, Field(json_schema_extra={"x-mcp-header": "Count"})] = 1,
) -> str:
    """Carries headers."""
    return f"{region} {count}"


@engine.tool(task="forbidden")
async def add_tool(ctx: Context) -> str:
    """Say that the tools changed."""
    await ctx.tools_changed()
    return "said"


@engine.tool(poll_interval="5s", ttl="2h")
async def job(n: int = 1, ctx: Context | None = None) -> str:
    """A durable job."""
    return f"did {n}"


@engine.tool(task="required", bridge=False, ttl="365d")
def report(n: int = 1) -> str:
    """A job that is always a task."""
    return f"reported {n}"


@engine.tool(quick_wait="0")
async def patient_job() -> str:
    """A durable job that is never waited for."""
    return "done"


@engine.tool(quick_wait="5s")
async def quick_job() -> str:
    """A durable job that is waited for long."""
    return "quick"


@engine.tool()
async def confirm(ctx: Context) -> str:
    """A durable job that asks."""
    answer = await ctx.elicit("Sure?", Sure)
    return f"{answer.action} {answer.data.ok if answer.data else None}"


@engine.tool(task="required", ask_first={"user_name": Form("Who?", Name), "page": Url("Look", "https://example.org/")})
async def asked_first(ctx: Context) -> str:
    """Asks before there is a task."""
    return f"for {ctx.first['user_name'].data.name}"


@engine.tool(ask_first={"user_name": Form("Who?", Name)})
async def asked_inline(ctx: Context) -> str:
    """Asks before there is a task, with or without the extension."""
    return f"for {ctx.first['user_name'].data.name}"
