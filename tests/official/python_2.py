"""The official Python client 2.3, unchanged: prints what it has seen as JSON.

python python_2.py (legacy | auto) (URL | COMMAND ARGUMENTS…)
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import mcp_types
from mcp import StdioServerParameters, stdio_client
from mcp.client import Client
from mcp.shared.exceptions import MCPError


def text(result: mcp_types.CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, mcp_types.TextContent)
    return block.text


async def main(mode: Any, where: list[str]) -> dict[str, Any]:
    asked: list[str] = []
    heard: list[tuple[float, float | None, str | None]] = []

    async def answer(_context: Any, params: Any) -> mcp_types.ElicitResult:
        asked.append(params.message)
        return mcp_types.ElicitResult(action="accept", content={"name": "Ann"})

    async def progress(value: float, total: float | None, message: str | None) -> None:
        heard.append((value, total, message))

    server: Any = where[0]
    if not server.startswith("http"):
        server = stdio_client(StdioServerParameters(command=where[0], args=where[1:], env=dict(os.environ)))
    async with Client(server, mode=mode, elicitation_callback=answer) as client:
        tools = await client.list_tools()
        added = await client.call_tool("add", {"a": 1, "b": 2})
        walked = await client.call_tool("walk", {"steps": 8}, progress_callback=progress)
        failed = await client.call_tool("tool_error")
        greeted = await client.call_tool("greet")
        try:
            await client.call_tool("protocol_error")
        except MCPError as error:
            refused = {"code": error.error.code, "message": error.error.message}
        return {
            "version": client.protocol_version,
            "tools": [tool.name for tool in tools.tools],
            "structured": added.structured_content,
            "walked": text(walked),
            "progress": heard,
            "error": [failed.is_error, text(failed)],
            "protocol_error": refused,
            "greeted": text(greeted),
            "asked": asked,
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2:]))))
