"""Tools of an engine with a journal: steps, long sleeps, child tasks."""

from __future__ import annotations

import secrets
from typing import Any

from taskengine import Context, TaskEngine

__all__ = ["declare"]


def declare(engine: TaskEngine, run_of: Any, done: Any) -> None:
    """Add them to `engine`; `run_of` and `done` are the run and the result that all tools of the load have."""

    @engine.tool(quick_wait="0s")
    async def steps(label: str, n: int, ctx: Context) -> done:
        """Draw a word in each of `n` steps; the words of committed steps never change."""
        run = run_of(ctx, label)
        words = []
        for number in range(n):

            async def draw(number: int = number) -> str:
                word = secrets.token_hex(4)
                run.note("step", f"{number} {word}")
                return word

            words.append(await ctx.step(f"draw-{number}", draw))
        return run.done(" ".join(words))

    @engine.tool(quick_wait="0s")
    async def slumber(label: str, seconds: float, ctx: Context) -> done:
        """Sleep without a slot."""
        run = run_of(ctx, label)
        await ctx.sleep(f"{seconds}s")
        return run.done("slept")

    @engine.tool(quick_wait="0s")
    async def parent(label: str, children: int, ctx: Context) -> done:
        """Add up what child tasks give."""
        run = run_of(ctx, label)
        calls = [ctx.call_tool("instant", {"label": f"{label}/{number}", "x": number}) for number in range(children)]
        results = await ctx.gather(*calls)
        total = sum(int(result.structured["value"]) for result in results)
        return run.done(total)

    @engine.tool(quick_wait="0s")
    async def recall(label: str, ctx: Context) -> done:
        """Draw an id and the time, sleep without a slot, and give them back."""
        run = run_of(ctx, label)
        drawn = f"{await ctx.uuid()} {(await ctx.now()).isoformat()}"
        run.note("drawn", drawn)
        await ctx.sleep("6s")
        return run.done(drawn)
