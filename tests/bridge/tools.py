"""Tools for hosts that know no tasks."""

from __future__ import annotations

from pydantic import BaseModel

from taskengine import Context, Form, Roots, Sample, TaskEngine, Url

engine = TaskEngine("bridged", version="1")


class Name(BaseModel):
    name: str


class Sure(BaseModel):
    ok: bool


class Move(BaseModel):
    action: str


class Node(BaseModel):
    name: str
    children: list[Node] = []


@engine.tool
async def job(n: int = 1) -> str:
    """A durable job."""
    return f"did {n}"


@engine.tool(task="required")
async def report(n: int = 1) -> dict[str, int]:
    """A job that is always a task, with a schema of its result."""
    return {"pages": n}


@engine.tool(task="required", bridge=False)
async def strict() -> str:
    """A job for clients that know tasks, and no others."""
    return "done"


@engine.tool(bridge=False)
async def consent(ctx: Context) -> str:
    """A job whose question only a person may answer."""
    return (await ctx.elicit("Sure?", Sure, key="sure")).action


@engine.tool(dedupe=True)
async def shared(n: int = 1) -> str:
    """A job that the same call joins while it runs."""
    return f"shared {n}"


@engine.tool(inline_wait="10s")
async def patient() -> str:
    """A job that calls wait for."""
    return "worth it"


@engine.tool(inline_wait="1h")
async def lasting() -> str:
    """A job that calls wait for as long as their host allows."""
    return "worth it"


@engine.tool(inline_wait="0s")
async def impatient() -> str:
    """A job that no call waits for."""
    return "later"


@engine.tool
async def confirm(ctx: Context) -> str:
    """A job that asks."""
    answer = await ctx.elicit("Sure?", Sure, key="sure")
    return f"{answer.action} {answer.data.ok if answer.data else None}"


@engine.tool
async def interview(ctx: Context) -> str:
    """A job that asks for everything there is."""
    answers = await ctx.elicit_all(
        {
            "name": Form("Who?", Name),
            "move": Form("What next?", Move),
            "page": Url("Look", "https://example.org/"),
            "poem": Sample("A poem", 100),
            "folders": Roots(),
        }
    )
    name, move, page, poem, folders = answers.values()
    return f"{name.data.name}, {move.data.action}, {page.action}, {poem.text}, {len(folders)}"


@engine.tool
async def sampled(ctx: Context) -> str:
    """A job that needs the client's model."""
    return (await ctx.sample("Hi", max_tokens=10)).text


@engine.tool
async def tree() -> Node:
    """A job whose result refers to itself."""
    return Node(name="root")


@engine.tool
async def names() -> list[str]:
    """A job whose result is no object."""
    return ["a"]
