"""The official client without tasks, against real processes: what it is told of a task leads to the result."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import mcp_types
import pytest
from mcp.client import Client

from tests.processes import Processes, deployed, free_port
from tests.services import Services

APP = "tests/apps/app.py:engine"
SECOND = timedelta(seconds=1)


def text(result: mcp_types.CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, mcp_types.TextContent)
    return block.text


async def to_the_end(client: Client, result: mcp_types.CallToolResult) -> tuple[mcp_types.CallToolResult, int]:
    """What a model does that follows what it is told; and how often it had to."""
    waits = 0
    while (state := result.structured_content) and state.get("next") == "task_wait":
        result = await client.call_tool("task_wait", {"task_id": state["task_id"]})
        waits += 1
    return result, waits


@pytest.fixture(scope="module")
def url(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A front end with a worker, of all tests that kill neither."""
    with deployed(services, tmp_path_factory.mktemp("processes"), APP, inline_wait=25 * SECOND) as processes:
        _, found = processes.serve(APP)
        yield found


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> Any:
    """The revision: 2026-07-28, or 2025-11-25 after a handshake."""
    return request.param


async def test_a_long_call_is_followed_to_its_result(url: str, mode: Any) -> None:
    async with Client(f"{url}?inline_wait=1s", mode=mode) as client:
        named = await client.call_tool("walk", {"steps": 30})
        begun = time.monotonic()
        result, waits = await to_the_end(client, named)
    assert text(result) == "walked in attempt 1"
    assert 1 <= waits <= 1 + time.monotonic() - begun, "each but the last wait takes its second"


async def test_what_names_a_task_passes_the_check_of_output_schemas(processes: Processes, mode: Any) -> None:
    _, url = processes.serve(APP, inline_wait=SECOND)
    async with Client(url, mode=mode) as client:
        await client.list_tools()
        named = await client.call_tool("add", {"a": 1, "b": 2})  # the client checks it against the listed schema
        assert named.structured_content is not None
        processes.worker(APP)
        result, _ = await to_the_end(client, named)
    assert result.structured_content == {"total": 3, "attempt": 1}


async def test_a_task_is_found_again_after_the_front_end_died_under_its_call(
    processes: Processes, tmp_path: Path, mode: Any
) -> None:
    port, ledger = free_port(), tmp_path / "ledger"
    front, url = processes.serve(APP, port=port, inline_wait=25 * SECOND)
    processes.worker(APP)

    async def call() -> None:
        async with Client(url, mode=mode) as client:
            await client.call_tool("walk", {"steps": 30, "ledger": str(ledger)})

    calling = asyncio.create_task(call())
    async with asyncio.timeout(30):
        while not ledger.exists():
            await asyncio.sleep(0.05)
    front.send(signal.SIGKILL)
    await asyncio.to_thread(front.wait, 10)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    processes.serve(APP, port=port, inline_wait=25 * SECOND)
    async with Client(url, mode=mode) as client:
        listed = await client.call_tool("task_list")
        assert listed.structured_content is not None
        (task,) = listed.structured_content["tasks"]
        assert task["tool"] == "walk"
        result = await client.call_tool("task_wait", {"task_id": task["task_id"]})
    assert text(result) == "walked in attempt 1"
    assert ledger.read_text().count("start") == 1


@pytest.mark.parametrize("tool", ["greet", "greet_later"])
async def test_a_client_that_cannot_ask_its_user_has_its_model_answer(url: str, mode: Any, tool: str) -> None:
    async with Client(url, mode=mode) as client:
        asked = await client.call_tool(tool)
        state = asked.structured_content
        assert state is not None
        assert state["next"] == "task_answer"
        assert "Who are you?" in text(asked)
        answers = {"name": {"name": "Ann"}}
        went_on = await client.call_tool("task_answer", {"task_id": state["task_id"], "answers": answers})
        result, _ = await to_the_end(client, went_on)
    assert text(result).startswith("Hello, Ann!")


async def test_a_client_that_gives_up_sooner_than_the_bound_loses_nothing(url: str, mode: Any) -> None:
    async with Client(url, mode=mode) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.call_tool("walk", {"steps": 30})
        listed = await client.call_tool("task_list")
        assert listed.structured_content is not None
        task = listed.structured_content["tasks"][0]  # the newest
        assert (task["tool"], task["status"]) == ("walk", "working")
        assert text(await client.call_tool("task_wait", {"task_id": task["task_id"]})) == "walked in attempt 1"
