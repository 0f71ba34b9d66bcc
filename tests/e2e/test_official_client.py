"""The official client, unchanged, against real processes."""

from __future__ import annotations

from typing import Any

import mcp_types
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from tests.e2e.official import TasksExtension

MODERN = "2026-07-28"


async def _name(_context: Any, params: Any) -> mcp_types.ElicitResult:
    assert params.message == "Who are you?"
    return mcp_types.ElicitResult(action="accept", content={"name": "Ann"})


def text(result: mcp_types.CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, mcp_types.TextContent)
    return block.text


async def test_it_finds_the_server_and_lists_its_tools(url: str) -> None:
    async with Client(url) as client:
        assert client.protocol_version == MODERN
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools["add"].output_schema is not None
    assert tools["add"].input_schema["required"] == ["a", "b"]


async def test_a_task_is_polled_to_its_result(url: str) -> None:
    tasks = TasksExtension()
    async with Client(url, extensions=[tasks]) as client:
        result = await client.call_tool("add", {"a": 1, "b": 2})
    assert result.structured_content == {"total": 3, "attempt": 1}
    assert len(tasks.tasks) == 1


async def test_a_quick_call_needs_no_poll(url: str) -> None:
    tasks = TasksExtension()
    async with Client(url, extensions=[tasks]) as client:
        assert text(await client.call_tool("quick", {"text": "at once"})) == "at once"
    assert tasks.tasks == []


async def test_questions_of_a_task_are_answered_through_updates(url: str) -> None:
    tasks = TasksExtension({"name": {"name": "Ann"}, "sure": {"sure": True}})
    async with Client(url, extensions=[tasks], elicitation_callback=_name) as client:
        assert text(await client.call_tool("greet_sync")) == "Hello, Ann! (attempt 2)"
        assert text(await client.call_tool("two_questions")) == "name='Ann' sure=True"
    assert "input_required" in tasks.statuses


async def test_a_question_before_the_task_is_asked_by_a_round_trip(url: str) -> None:
    tasks = TasksExtension()
    async with Client(url, extensions=[tasks], elicitation_callback=_name) as client:
        assert text(await client.call_tool("greet_later")) == "Hello, Ann!"
    assert len(tasks.tasks) == 1


async def test_a_client_without_tasks_gets_the_plain_result(url: str) -> None:
    seen: list[float] = []

    async def progress(value: float, _total: float | None, _message: str | None) -> None:
        seen.append(value)

    async with Client(url) as client:
        result = await client.call_tool("walk", {"steps": 10}, progress_callback=progress)
    assert text(result) == "walked in attempt 1"
    assert seen == sorted(set(seen))
    assert seen


async def test_a_client_without_tasks_answers_questions_of_the_running_task(url: str) -> None:
    async with Client(url, elicitation_callback=_name) as client:
        assert text(await client.call_tool("greet")) == "Hello, Ann! (attempt 2)"


async def test_a_tool_that_is_always_a_task_serves_a_client_without(url: str) -> None:
    async with Client(url, elicitation_callback=_name) as client:
        assert text(await client.call_tool("greet_later")) == "Hello, Ann!"


async def test_a_tool_that_needs_tasks_refuses_a_client_without(url: str) -> None:
    async with Client(url, elicitation_callback=_name) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("tasks_only")
    assert refused.value.error.code == mcp_types.MISSING_REQUIRED_CLIENT_CAPABILITY


@pytest.mark.parametrize("extensions", [[], [TasksExtension()]], ids=["inline", "task"])
async def test_failures_arrive_as_what_they_are(url: str, extensions: list[TasksExtension]) -> None:
    async with Client(url, extensions=extensions) as client:
        failed = await client.call_tool("tool_error")
        assert (failed.is_error, text(failed)) == (True, "there is no such report: choose another")
        raised = await client.call_tool("raises")
        assert (raised.is_error, text(raised)) == (True, "ValueError: unlucky")
        wrong = await client.call_tool("add", {"a": "one", "b": 2})
        assert wrong.is_error
        assert "a" in text(wrong)
        with pytest.raises(MCPError) as error:
            await client.call_tool("protocol_error")
        assert (error.value.error.code, error.value.error.message) == (-31999, "out of paper")
        with pytest.raises(MCPError) as unknown:
            await client.call_tool("no_such_tool")
        assert unknown.value.error.code == mcp_types.INVALID_PARAMS
