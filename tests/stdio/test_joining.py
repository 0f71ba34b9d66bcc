"""What a stdio process stands on: a data folder's engine, which outlives it, and gives way to `dev`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mcp_types
import pytest
from mcp import StdioServerParameters, stdio_client
from mcp.client import Client

from taskengine import running
from taskengine.children import Child
from tests.processes import ROOT, free_port, wait_for_output
from tests.stdio.host import Host, clean_environment

Start = Callable[..., Host]


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    found = running.find(folder)
    if found is not None:
        os.kill(found.pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while running.is_alive(found.pid) and time.monotonic() < deadline:
            time.sleep(0.05)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An engine that prints whenever it can."""
    file = tmp_path / "app.py"
    source = (ROOT / "tests" / "apps" / "small.py").read_text()
    file.write_text(
        source.replace('    """Return the text."""', '    """Return the text."""\n    print("noise")')
        + "print('noise')\n"
    )
    return file


@pytest.fixture
def start(app: Path, data: Path, tmp_path: Path) -> Iterator[Start]:
    hosts: list[Host] = []
    env = clean_environment() | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}

    def start(*arguments: str) -> Host:
        hosts.append(Host([f"{app}:engine", "--data", str(data), *arguments], env, tmp_path / "stdio.log"))
        return hosts[-1]

    yield start
    for host in hosts:
        host.kill()


def test_a_killed_host_loses_nothing_and_dev_takes_over(start: Start, app: Path, data: Path, tmp_path: Path) -> None:
    host = start()
    assert host.ask("tools/call", {"name": "echo", "arguments": {"text": "x"}})["content"][0]["text"] == "x"
    task_id = host.ask("tools/call", {"name": "nap", "arguments": {"seconds": 1}})["taskId"]
    keeper = running.find(data)
    assert keeper is not None
    assert keeper.kept
    os.killpg(host.process.pid, signal.SIGKILL)  # as hosts do, with everything in its group

    second = start()
    while (task := second.ask("tasks/get", {"taskId": task_id}))["status"] == "working":
        time.sleep(0.1)
    assert task["result"]["content"][0]["text"] == "attempt 1"
    again = running.find(data)
    assert again is not None
    assert again.pid == keeper.pid

    dev = Child(
        "dev",
        [sys.executable, "-m", "taskengine", "dev", f"{app}:engine", "--data", str(data), "--port", str(free_port())],
        tmp_path / "dev.log",
        env=clean_environment() | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )
    dev.start()
    try:
        wait_for_output(dev, "Ctrl-C stops everything", 60)
        task_id = second.ask("tools/call", {"name": "nap", "arguments": {"seconds": 0.2}})["taskId"]
        while (task := second.ask("tasks/get", {"taskId": task_id}))["status"] == "working":
            time.sleep(0.1)
        assert task["status"] == "completed"
    finally:
        dev.send(signal.SIGINT)
        assert dev.wait(40) == 0, dev.output()


def test_another_engine_over_the_same_folder_is_refused(start: Start, data: Path, tmp_path: Path) -> None:
    host = start()
    host.ask("server/discover", {})
    other = tmp_path / "other.py"
    other.write_text("from taskengine import TaskEngine\nengine = TaskEngine('other')\n")
    env = clean_environment() | {"PYTHONPATH": str(ROOT)}
    refused = Host([f"{other}:engine", "--data", str(data)], env, tmp_path / "refused.log")
    assert refused.process.wait(20) == 2
    refused.kill()
    assert "give another --data" in refused.errors.read_text()


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_official_client_speaks_both_revisions(mode: str, app: Path, data: Path) -> None:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "taskengine", "stdio", f"{app}:engine", "--data", str(data)],
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
    )
    async with Client(stdio_client(server), mode=mode) as client:
        assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        block = (await client.call_tool("echo", {"text": "hi"})).content[0]
        assert isinstance(block, mcp_types.TextContent)
        assert block.text == "hi"


def test_the_keeper_ends_when_nobody_needs_it(app: Path, data: Path, tmp_path: Path) -> None:
    keeper = Child(
        "keep",
        [sys.executable, "-m", "taskengine", "keep", f"{app}:engine", "--data", str(data), "--idle", "500ms"],
        tmp_path / "keep.log",
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
    )
    keeper.start()
    assert keeper.wait(60) == 0, keeper.output()
    assert "nothing to do" in keeper.output()
