"""What the fuzzed front end serves: a tool of each kind, with parameters of each type."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from taskengine import Context, Form, TaskEngine

engine = TaskEngine("fuzzed", version="1", instructions="For tests.")


class Name(BaseModel):
    name: str


@engine.tool(task="forbidden")
async def echo(text: str = "", number: int = 0, more: dict[str, Any] | None = None) -> str:
    """Say it again."""
    return f"{text}{number}{'' if more is None else len(more)}"


@engine.tool(task="forbidden")
async def ask(ctx: Context) -> str:
    """Ask for a name, in rounds of the call itself."""
    answer = await ctx.elicit("Name?", Name, key="name")
    return f"Hello, {answer.data.name}" if answer.data else answer.action


@engine.tool(task="forbidden")
async def region(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Carries a header."""
    return region


@engine.tool(quick_wait="0")
async def job(n: int = 1, label: str = "") -> str:
    """A durable job."""
    return f"{n}{label}"


@engine.tool(task="required", ask_first={"who": Form("Who?", Name)}, quick_wait="0")
async def asked(ctx: Context) -> str:
    """Asks before there is a task."""
    return f"for {ctx.first['who'].data.name}"
