"""The engine that is measured: the same tools as the peer's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from taskengine import TaskEngine

engine = TaskEngine("bench")


@engine.tool(task="required", poll_interval="20ms")
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


def _mark(folder: str, what: str) -> None:
    Path(folder, f"{os.getpid()}.{what}").touch()


@engine.tool(task="required", poll_interval="1s")
async def hold(seconds: float, folder: str) -> str:
    """Sleep, and tell which process did; it leaves a mark when it begins and when it ends (`benchmarks.latecomer`)."""
    _mark(folder, "begun")
    await asyncio.sleep(seconds)
    _mark(folder, "ended")
    return f"result of process {os.getpid()}"
