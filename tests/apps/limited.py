"""Tools with limits and priorities, for tests that start real processes."""

from __future__ import annotations

import asyncio

from taskengine import Context, TaskEngine, per, total

engine = TaskEngine("limited")


@engine.tool(task="required")
async def brief(n: int) -> int:
    """Take a moment."""
    await asyncio.sleep(0.01)
    return n


@engine.tool(task="required", limits=[per("arg:customer", 1), total(3)])
async def book(customer: str) -> str:
    """Take a moment for a customer, never two of one at once."""
    await asyncio.sleep(0.05)
    return customer


@engine.tool(task="required", limits=[total(1)])
def serial(n: int) -> int:
    """One at a time, in a process."""
    return n


@engine.tool(task="required")
async def curious(ctx: Context) -> str:
    """Ask without end."""
    n = 0
    while True:
        n += 1
        await ctx.elicit(f"Again ({n})?", {"type": "object", "properties": {}})


@engine.tool(task="required")
async def chatty(lines: int, ctx: Context) -> str:
    """Log so many lines."""
    for n in range(lines):
        await ctx.log("info", f"line {n}")
    return "done"
