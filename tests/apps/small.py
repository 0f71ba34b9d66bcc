"""A small engine for tests that start real processes."""

from __future__ import annotations

import asyncio
import os
import time

from taskengine import Context, TaskEngine

engine = TaskEngine("small")


@engine.tool(task="required")
async def nap(seconds: float, ctx: Context) -> str:
    """Sleep without holding anything."""
    for tenth in range(int(seconds * 10)):
        await ctx.progress(tenth, seconds * 10)
        await asyncio.sleep(0.1)
    return f"attempt {ctx.attempt}"


@engine.tool(task="required")
def burn(seconds: float) -> int:
    """Keep a process busy; returns its id."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


@engine.tool(task="forbidden")
async def echo(text: str) -> str:
    """Return the text."""
    return text
