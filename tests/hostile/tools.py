"""What hostile clients call."""

from __future__ import annotations

import asyncio

from taskengine import TaskEngine

engine = TaskEngine("hostile", version="1")


@engine.tool(task="forbidden")
async def greet(name: str = "you") -> str:
    """Say hello."""
    return f"Hello, {name}!"


@engine.tool(task="forbidden")
async def flood(mebibytes: int = 4) -> str:
    """Answer with much."""
    return "x" * (mebibytes << 20)


@engine.tool(task="forbidden")
async def count(values: list[list[int]]) -> int:
    """How many there are."""
    return len(values)


@engine.tool()
async def job(n: int = 1) -> str:
    """A durable job."""
    await asyncio.sleep(0)
    return f"did {n}"
