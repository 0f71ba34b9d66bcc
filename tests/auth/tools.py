"""Tools that want to know who calls."""

from __future__ import annotations

from typing import Any

from taskengine import Context, SyncContext, TaskEngine
from taskengine.identity import Identity
from tests.legacy.tools import engine as common

engine = TaskEngine("guarded", version="1", title="Guarded tools", tools=common.tools.values())


def shown(caller: Identity | None) -> dict[str, Any]:
    return {} if caller is None else {**caller.dump(), "owner": caller.owner}


@engine.tool(task="forbidden")
async def who_direct(ctx: Context) -> dict[str, Any]:
    """Say who calls."""
    return shown(ctx.caller)


@engine.tool(task="forbidden")
def who_direct_sync(ctx: SyncContext) -> dict[str, Any]:
    """Say who calls, from a thread."""
    return shown(ctx.caller)


@engine.tool(task="required")
async def who(ctx: Context) -> dict[str, Any]:
    """Say who calls."""
    return shown(ctx.caller)


@engine.tool(task="required")
def who_sync(ctx: SyncContext) -> dict[str, Any]:
    """Say who calls, from a process."""
    return shown(ctx.caller)


@engine.tool(task="required")
async def who_below(ctx: Context) -> Any:
    """Ask a tool that it calls who calls."""
    return (await ctx.call_tool("who_sync")).structured


@engine.tool(task="forbidden", scopes=["reports:write"])
async def write_report() -> str:
    """Do what not everybody may."""
    return "written"


@engine.tool(task="required", scopes=["reports:write", "mail:send"])
async def send_report() -> str:
    """Do what fewer may."""
    return "sent"
