"""The tools of `tests.chaos.crowd`: one waits for a person, one for an hour of the day."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from taskengine import Context, TaskEngine

engine = TaskEngine("crowd")


class Name(BaseModel):
    name: str


@engine.tool(task="required")
async def ask(number: int, ctx: Context) -> str:
    """Ask for a name."""
    answer = await ctx.elicit("Who is it?", Name)
    return f"{number} {answer.data.name if answer.data else answer.action}"


@engine.tool(task="required")
async def doze(number: int, until: datetime, ctx: Context) -> str:
    """Sleep until then."""
    await ctx.sleep_until(until)
    return f"{number} awake"
