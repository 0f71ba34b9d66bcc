"""The tools of the tests of requirements: those of the front end's tests, and a few that behave badly."""

from __future__ import annotations

import asyncio

from mcp_types import Tool as OfferedTool

from taskengine import Context, ProtocolError, TaskEngine
from tests.legacy.tools import engine as common

engine = TaskEngine("fixtures", version="1", instructions="For tests.", tools=common.tools.values())

LOOK_UP = OfferedTool(name="look_up", input_schema={"type": "object"})
CONSENT = {"mode": "url", "message": "Allow it", "url": "https://example.org/allow", "elicitationId": "e-1"}


@engine.tool(task="forbidden")
async def stagger(ctx: Context) -> str:
    """Report progress that goes back and stands still."""
    for progress in (5, 3, 5, 5.5, 10):
        await ctx.progress(progress, 10)
        await asyncio.sleep(0.03)  # what comes faster is thinned out anyway
    return "there"


@engine.tool(task="forbidden")
async def overflow(ctx: Context) -> str:
    """Report and log without end."""
    for step in range(1, 1001):
        await ctx.progress(step, 1000)
        await ctx.log("info", step)
    return "dry"


@engine.tool(task="forbidden")
async def use_tools(ctx: Context) -> str:
    """Ask the client's model, which may use a tool."""
    return (await ctx.sample("Hi", max_tokens=10, tools=[LOOK_UP])).text


@engine.tool(task="forbidden")
async def needs_consent() -> str:
    """Cannot go on before somebody has been at an address."""
    raise ProtocolError(-32042, "Consent is needed", {"elicitations": [CONSENT]})
