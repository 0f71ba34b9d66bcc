"""The peer: FastMCP's tasks extension on Redis, as its documentation sets it up. Runs in an environment of its own."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.utilities.tasks import TaskConfig
from fastmcp_tasks import TasksExtension

# As in TASKENGINE_AUTH_TOKENS: token and owner. None: anybody may call.
_owners = dict(line.split(":") for line in os.environ.get("BENCH_TOKENS", "").split())
_tokens = {token: {"client_id": owner, "sub": owner, "scopes": []} for token, owner in _owners.items()}

mcp = FastMCP("bench", auth=StaticTokenVerifier(_tokens) if _tokens else None)
mcp.add_extension(TasksExtension(url=os.environ["BENCH_REDIS"], concurrency=500))


@mcp.tool(task=TaskConfig(mode="required"))
async def nothing() -> str:
    """Do nothing."""
    return "done"


@mcp.tool(task=TaskConfig(mode="required"))
async def sleep(seconds: float) -> str:
    """Sleep."""
    await asyncio.sleep(seconds)
    return "slept"


def _mark(folder: str, what: str) -> None:
    Path(folder, f"{os.getpid()}.{what}").touch()


@mcp.tool(task=TaskConfig(mode="required"))
async def hold(seconds: float, folder: str) -> str:
    """Sleep, and tell which process did; it leaves a mark when it begins and when it ends (`benchmarks.latecomer`)."""
    _mark(folder, "begun")
    await asyncio.sleep(seconds)
    _mark(folder, "ended")
    return f"result of process {os.getpid()}"


app = mcp.http_app(path="/mcp", json_response=True, stateless_http=True)
