"""The tools that the tests of the handshake's revisions call: those of the front end's tests, and some more."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from mcp_types import ResourceLink
from pydantic import BaseModel, Field

from taskengine import Context, ProtocolError, Roots, Sample, SyncContext, TaskEngine
from tests.server.tools import Name
from tests.server.tools import engine as common

engine = TaskEngine("fixtures", version="1", instructions="For tests.", tools=common.tools.values())


class Point(BaseModel):
    x: int
    y: int


@engine.tool(task="forbidden")
async def point() -> Point:
    """Return an object."""
    return Point(x=1, y=2)


@engine.tool(task="forbidden")
async def link() -> ResourceLink:
    """Return a link."""
    return ResourceLink(type="resource_link", name="page", uri="https://example.org/page")


@engine.tool(task="forbidden")
def ask_sync(ctx: SyncContext) -> str:
    """Ask in a thread."""
    answer = ctx.elicit("Name?", Name, key="name")
    return f"{answer.action} {answer.data.name if answer.data else None}"


@engine.tool(task="required", bridge=False)
async def unbridged(level: Annotated[Literal["low", "high"], Field(description="How")] = "low") -> str:
    """A job that is always a task, with no way around it."""
    return level


@engine.tool(task="required")
async def bridged() -> str:
    """A job that is always a task, also for clients that know none."""
    return "made"


@engine.tool(bridge=False)
async def plain_job(ctx: Context) -> str:
    """A job that stays on its stream to the end."""
    await ctx.progress(1, 2)
    return "done"


@engine.tool(task="forbidden")
async def slow(ctx: Context, steps: int = 3) -> str:
    """Take a while, in steps."""
    for step in range(steps):
        await ctx.progress(step, steps)
        await asyncio.sleep(0.3)
    return "slept"


@engine.tool(task="forbidden")
async def flood(ctx: Context, size: int = 1000) -> str:
    """Say more than a client reads that reads nothing."""
    for _ in range(100_000):
        await ctx.log("info", "x" * size)
        await asyncio.sleep(0)
    return "drained"


@engine.tool(task="forbidden")
async def ask_much_older(ctx: Context) -> str:
    """Ask two things at once that the oldest revision has."""
    answers = await ctx.elicit_all({"greeting": Sample("Hi", 100), "roots": Roots()})
    return f"{answers['greeting'].text} {len(answers['roots'])}"


@engine.tool(task="forbidden")
async def need_page() -> str:
    """Cannot go on before somebody has visited two pages."""
    pages = [{"message": "Sign in", "url": "https://a.example/"}, {"message": "Pay", "url": "https://b.example/"}]
    raise ProtocolError(-32042, "Two pages first", {"elicitations": pages})


@engine.tool(task="forbidden")
async def levels(ctx: Context, rounds: int = 100) -> str:
    """Log at every level, again and again."""
    for _ in range(rounds):
        for level in ("debug", "info", "error"):
            await ctx.log(level, level)
        await asyncio.sleep(0.05)
    return "logged"


@engine.tool(task="forbidden")
async def refuse_later(ctx: Context) -> str:
    """Fail after a while."""
    await ctx.progress(1)
    await asyncio.sleep(0.5)
    raise ProtocolError(1234, "Not today", {"why": "Sunday"})


@engine.tool(inline_wait="0s")
async def at_once() -> str:
    """Become a task at once."""
    return "done"


@engine.tool(inline_wait="300ms")
async def short_wait() -> str:
    """A job whose call is not kept open for long."""
    return "done at last"


@engine.tool()
async def sample(ctx: Context) -> str:
    """A durable job that asks the client's model."""
    return (await ctx.sample("Hi", max_tokens=10)).text
