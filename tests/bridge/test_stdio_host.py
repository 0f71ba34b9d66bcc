"""A host that starts a program and kills it: its task goes on, and the next program has its result."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from taskengine.settings import Settings
from taskengine.wire import modern
from tests.processes import ROOT, Processes, environment

APP = "tests/apps/app.py:engine"


class Program:
    """`taskengine stdio`, as a host runs it."""

    def __init__(self, process: asyncio.subprocess.Process, revision: str) -> None:
        self._process = process
        self._revision = revision
        self._ids = 0

    @classmethod
    async def start(cls, settings: Settings, revision: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "taskengine", "stdio", APP),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment(settings),
            cwd=ROOT,
        )
        program = cls(process, revision)
        if revision != modern.VERSION:
            info = {"name": "bench", "version": "1"}
            params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": info}
            reply = await program.request("initialize", params)
            assert reply["result"]["protocolVersion"] == revision
            await program.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return program

    async def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._ids += 1
        if self._revision == modern.VERSION:
            params = {**params, "_meta": {modern.VERSION_KEY: modern.VERSION, modern.CAPABILITIES_KEY: {}}}
        await self.send({"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params})
        assert self._process.stdout is not None
        async with asyncio.timeout(40):
            while True:
                message: dict[str, Any] = json.loads(await self._process.stdout.readline())
                if message.get("id") == self._ids and "method" not in message:
                    return message

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        reply = await self.request("tools/call", {"name": tool, "arguments": arguments})
        assert "result" in reply, reply
        return dict(reply["result"])

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@pytest.mark.parametrize("revision", [modern.VERSION, "2025-11-25", "2025-06-18"])
async def test_a_host_that_kills_its_program_gets_the_result_from_the_next(
    processes: Processes, settings: Settings, revision: str
) -> None:
    processes.worker(APP)
    first = await Program.start(settings, revision)
    named = await first.call("walk", steps=20)
    task_id = named["structuredContent"]["task_id"]
    calling = asyncio.create_task(first.call("task_wait", task_id=task_id))
    await asyncio.sleep(0.1)
    await first.kill()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    second = await Program.start(settings, revision)
    try:
        (task,) = (await second.call("task_list"))["structuredContent"]["tasks"]
        assert task["task_id"] == task_id
        result = await second.call("task_wait", task_id=task_id)
        while result.get("structuredContent", {}).get("next") == "task_wait":
            result = await second.call("task_wait", task_id=task_id)
    finally:
        await second.kill()
    assert result["content"][0]["text"] == "walked in attempt 1"
