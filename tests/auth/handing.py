"""An engine that is handed tokens over, and renews them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from taskengine import Context, SyncContext, TaskEngine
from taskengine.identity import AccessToken, Identity

engine = TaskEngine("handing", version="1")


@engine.renews_tokens
async def renew(token: AccessToken, caller: Identity) -> AccessToken:
    """As an exchange at the issuer would; here it only counts."""
    count = int(token.value.partition("~")[2] or 0) + 1
    return AccessToken(f"{caller.subject}~{count}", datetime.now(UTC) + timedelta(hours=count))


@engine.tool(task="required", token=True)
async def held(ctx: Context, pause: float = 0.0, valid_for: str = "1m") -> list[str]:
    """The ends of the tokens it gets, before and after a pause."""
    first = (await ctx.token(valid_for)).value
    await ctx.sleep(pause)
    return [first[-8:], (await ctx.token(valid_for)).value[-8:]]


@engine.tool(task="required", token=True)
def held_sync(ctx: SyncContext, valid_for: str = "1m") -> str:
    """The end of the token it gets, in a process."""
    return ctx.token(valid_for).value[-8:]


@engine.tool(task="required", token=True)
async def held_below(ctx: Context) -> str:
    """What a tool that it calls gets."""
    return (await ctx.call_tool("held_sync")).text


@engine.tool(task="required")
async def not_held(ctx: Context) -> str:
    """Want what was not asked for."""
    return (await ctx.token()).value


@engine.tool(task="required")
def not_held_sync(ctx: SyncContext) -> str:
    """The same in a process."""
    return ctx.token().value


@engine.tool(task="required", token=True)
async def waiting(ctx: Context) -> str:
    """Wait for long."""
    await ctx.sleep("1h")
    return (await ctx.token()).value
