"""Tools that ask for everything a form can ask for."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from taskengine import Context, TaskEngine

engine = TaskEngine("asking", version="1")


class Order(BaseModel):
    name: Annotated[str, Field(title="Your name", description="As it is [written]", min_length=2)]
    pages: Annotated[int, Field(ge=1, le=9)]
    weight: float
    urgent: bool
    style: Literal["short", "full"]
    parts: list[Literal["a", "b", "c"]]
    note: str | None = None
    copies: int = 2


@engine.tool(quick_wait="0s")
async def order(ctx: Context) -> str:
    """Ask for everything."""
    answer = await ctx.elicit("Your [bold]order[/]?", Order, key="order")
    return answer.data.model_dump_json() if answer.data else f"You said {answer.action}."


@engine.tool(quick_wait="0s")
async def visit(ctx: Context) -> str:
    """Ask for a visit."""
    return (await ctx.elicit_url("Please pay", "https://pay.example.org/1")).action


@engine.tool(quick_wait="0s")
async def work(ctx: Context, steps: int = 20, say: str = "at [work]") -> str:
    """Report progress; without steps, say it at once."""
    for step in range(steps):
        await ctx.progress(step, steps, say)
        await asyncio.sleep(0.1)
    return "worked" if steps else say
