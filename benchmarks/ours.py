"""The engine that is measured: the same two tools as the peer's."""

from __future__ import annotations

import asyncio

from taskengine import TaskEngine

engine = TaskEngine("bench")


@engine.tool(task="required", poll_interval="1s")
async def nothing() -> str:
    """Do nothing."""
    return "done"


@engine.tool(task="optional", quick_wait="5s")
async def quick() -> str:
    """Do nothing, and be waited for."""
    return "done"


@engine.tool(task="required", poll_interval="1s")
async def sleep(seconds: float) -> str:
    """Sleep."""
    await asyncio.sleep(seconds)
    return "slept"
