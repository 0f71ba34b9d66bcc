"""Tools for every presentation. Each stands twice: to be called, and, as `…_later`, to become a task at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from taskengine import Context, Form, ProtocolError, TaskEngine, ToolError

engine = TaskEngine("presentations", version="1")


class Doubled(BaseModel):
    doubled: int


class Name(BaseModel):
    name: str


class Age(BaseModel):
    age: int


def both(function: Any) -> Any:
    engine.tool(quick_wait="0s", inline_wait="20s")(function)
    engine.tool(name=f"{function.__name__}_later", quick_wait="0s", inline_wait="0s")(function)
    return function


@both
async def double(n: int) -> Doubled:
    """Double a number."""
    return Doubled(doubled=2 * n)


@both
async def refuse() -> str:
    """Fail the way a tool should."""
    raise ToolError("there is no such report")


@both
async def jam() -> str:
    """Fail with a JSON-RPC error."""
    raise ProtocolError(-31999, "out of paper", {"tray": 2})


@both
async def greet(ctx: Context) -> str:
    """Ask for a name."""
    answer = await ctx.elicit("Who are you?", Name, key="name")
    return f"Hello, {answer.data.name}!" if answer.data else f"You said {answer.action}."


@both
async def interview(ctx: Context) -> str:
    """Ask two things at once, and one more after that."""
    answers = await ctx.elicit_all({"name": Form("Who are you?", Name), "age": Form("How old are you?", Age)})
    more = await ctx.elicit("And your friend?", Name, key="friend")
    return f"{answers['name'].data.name} ({answers['age'].data.age}) and {more.data.name if more.data else None}"


@both
async def wait_for(gate: str, ctx: Context) -> str:
    """Note that it has begun beside the gate, and wait until the gate is there."""
    with Path(f"{gate}.begun").open("a") as begun:
        begun.write("x")
    try:
        while not Path(gate).exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        Path(f"{gate}.stopped").touch()
        raise
    return f"attempt {ctx.attempt}"


engine.tool(name="wait_for_here", quick_wait="0s", bridge=False)(wait_for)
"""Without tasks its call stays open to the end, and is over with its client."""


@engine.tool(quick_wait="0s", inline_wait="0s", ttl="1s")
async def brief() -> str:
    """Be forgotten soon."""
    return "remember me"


@engine.tool(quick_wait="0s", inline_wait="20s", dedupe=True)
async def shared(gate: str, ctx: Context) -> str:
    """Be joined by the same call while it runs."""
    return await wait_for(gate, ctx)
