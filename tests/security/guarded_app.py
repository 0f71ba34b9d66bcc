"""Tools whose payload is nobody else's business, and tools that must not run twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from taskengine import Context, Sensitive, TaskEngine

engine = TaskEngine("guarded", version="1")


class Pin(BaseModel):
    pin: str


def _picky(text: str) -> str:
    if "bad" in text:
        raise ValueError(f"{text} is a bad password")
    return text


def _count(ledger: str) -> int:
    path = Path(ledger)
    with path.open("a") as lines:
        lines.write("ran\n")
    return len(path.read_text().splitlines())


@engine.tool(quick_wait="0s", inline_wait="20s")
async def pay(ledger: str, amount: int) -> int:
    """Do something that must not be done twice; tells how often it has been."""
    return _count(ledger)


@engine.tool(quick_wait="0s", inline_wait="20s", dedupe="10m")
async def report(ledger: str, month: str) -> int:
    """Do something whose result is good for a while."""
    return _count(ledger)


@engine.tool(quick_wait="0s", bridge=False)
async def wait_for(path: str) -> str:
    """Run until the file is there."""
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    return "there"


@engine.tool(task="forbidden")
async def now() -> str:
    """Make no task."""
    return "now"


@engine.tool(quick_wait="0s")
async def log_in(
    user: str, password: Annotated[str, Field(max_length=80), AfterValidator(_picky), Sensitive()], ctx: Context
) -> str:
    """Take a password, log it, and raise with it: the worst that a tool can do with one."""
    await ctx.log("info", f"logging in with {password}")
    await ctx.progress(1, 2, f"trying {password}")
    raise RuntimeError(f"{user}: {password!r} was not accepted")


@engine.tool(quick_wait="0s", sensitive=True)
def diagnose(ctx_patient: str, fail: bool) -> str:
    """Work with something of which nothing may be shown, in a process of its own."""
    if fail:
        raise RuntimeError(f"no diagnosis for {ctx_patient}")
    return f"{ctx_patient} is well"


@engine.tool(quick_wait="0s", sensitive=True)
async def ask_pin(ctx: Context) -> str:
    """Ask for something of which nothing may be shown."""
    answer = await ctx.elicit("Your PIN?", Pin, key="pin")
    return answer.data.pin if answer.data else "none"
