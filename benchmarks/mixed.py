"""The measured engine with a sync tool beside, so that a worker has tool processes as well, and one that tells."""

from __future__ import annotations

import asyncio
import time

from benchmarks.ours import engine
from taskengine import Context

__all__ = ["engine"]


@engine.tool(task="required")
def count(up_to: int) -> int:
    """Count, in a process."""
    return sum(1 for _ in range(up_to))


@engine.tool(task="required")
async def steps(seconds: float, ctx: Context) -> str:
    """Say all the time how far it is."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        await ctx.progress(passed, seconds, f"{passed:.1f} s of {seconds:.1f} s")
        await asyncio.sleep(0.05)
    return "done"
