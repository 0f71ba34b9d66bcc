"""The official Python client 1.30, unchanged: runs in an environment of its own and prints what it has seen as JSON.

python python_1.py (URL | COMMAND ARGUMENTS…)
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import warnings
from contextlib import asynccontextmanager
from typing import Any

import mcp.types as types  # noqa: PLR0402
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import McpError

warnings.filterwarnings("ignore", category=DeprecationWarning)  # its tasks are experimental
FOREVER_MS = 600_000


@asynccontextmanager
async def connected(where: list[str]) -> Any:
    if where[0].startswith("http"):
        async with streamable_http_client(where[0]) as (read, write, _):
            yield read, write
    else:
        # Left to itself it hands over next to nothing of the environment.
        server = StdioServerParameters(command=where[0], args=where[1:], env=dict(os.environ))
        async with stdio_client(server) as pair:
            yield pair


async def refused(work: Any) -> dict[str, Any]:
    try:
        await work
    except McpError as error:
        return {"code": error.error.code, "message": error.error.message}
    return {}


class Person:
    """Answers what it is asked, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def answer(self, _context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        self.asked.append(params.model_dump(by_alias=True, exclude_none=True))
        return types.ElicitResult(action="accept", content={"name": "Ann"})


def text(result: types.CallToolResult) -> str:
    return result.content[0].text


async def plain(session: ClientSession, person: Person) -> dict[str, Any]:
    heard: list[tuple[float, float | None, str | None]] = []

    async def progress(value: float, total: float | None, message: str | None) -> None:
        heard.append((value, total, message))

    added = await session.call_tool("add", {"a": 1, "b": 2})
    walked = await session.call_tool("walk", {"steps": 8}, progress_callback=progress)
    failed = await session.call_tool("tool_error")
    greeted = await session.call_tool("greet")
    return {
        "structured": added.structuredContent,
        "walked": text(walked),
        "progress": heard,
        "error": [failed.isError, text(failed)],
        "protocol_error": await refused(session.call_tool("protocol_error")),
        "greeted": text(greeted),
        "asked": person.asked,
    }


async def tasks(session: ClientSession, person: Person) -> dict[str, Any]:
    experimental = session.experimental
    created = (await experimental.call_tool_as_task("add", {"a": 2, "b": 3}, ttl=FOREVER_MS)).task
    statuses = [(await experimental.get_task(created.taskId)).status]
    statuses += [status.status async for status in experimental.poll_task(created.taskId)]
    added = await experimental.get_task_result(created.taskId, types.CallToolResult)
    listed = await experimental.list_tasks()

    asking = (await experimental.call_tool_as_task("greet", {}, ttl=FOREVER_MS)).task
    async for status in experimental.poll_task(asking.taskId):
        if status.status == "input_required":
            break
    person.asked.clear()
    greeted = await experimental.get_task_result(asking.taskId, types.CallToolResult)

    long = (await experimental.call_tool_as_task("sleep", {"seconds": 600}, ttl=FOREVER_MS)).task
    cancelled = await experimental.cancel_task(long.taskId)
    return {
        "created": created.model_dump(mode="json"),
        "statuses": statuses,
        "structured": added.structuredContent,
        "related": (added.meta or {}).get("io.modelcontextprotocol/related-task"),
        "listed": created.taskId in [task.taskId for task in listed.tasks],
        "greeted": text(greeted),
        "asked": person.asked,
        "asking": asking.taskId,
        "cancelled": [cancelled.status, (await experimental.get_task(long.taskId)).status],
        "cancelled_result": await refused(experimental.get_task_result(long.taskId, types.CallToolResult)),
        "cancelled_again": await refused(experimental.cancel_task(long.taskId)),
        "unknown": await refused(experimental.get_task("tsk_unknown")),
    }


async def main(where: list[str]) -> dict[str, Any]:
    person = Person()
    async with (
        connected(where) as (read, write),
        ClientSession(read, write, elicitation_callback=person.answer) as session,
    ):
        initialized = await session.initialize()
        listed = await session.list_tools()
        support = {tool.name: tool.execution and tool.execution.taskSupport for tool in listed.tools}
        return {
            "version": initialized.protocolVersion,
            "server": initialized.serverInfo.name,
            "tasks_capability": initialized.capabilities.tasks is not None,
            "support": support,
            "ping": (await session.send_ping()).model_dump(exclude_none=True),
            "plain": await plain(session, person),
            "tasks": await tasks(session, person),
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1:]))))
