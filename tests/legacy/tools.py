"""The tools that the tests of the handshake's revisions call: those of the front end's tests, and some more."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from mcp_types import ResourceLink
from pydantic import BaseModel, Field

from taskengine import Context, SyncContext, TaskEngine
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


@engine.tool(inline_wait="300ms")
async def short_wait() -> str:
    """A job whose call is not kept open for long."""
    return "done at last"


@engine.tool()
async def sample(ctx: Context) -> str:
    """A durable job that asks the client's model."""
    return (await ctx.sample("Hi", max_tokens=10)).text
