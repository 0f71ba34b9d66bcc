"""How a stdio process ends: with its input, by a signal, without its reader, and never with its tasks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from taskengine.store import Store
from tests.processes import Processes, environment
from tests.stdio.conftest import APP, NOISY, Start
from tests.stdio.host import WAIT_S, Host


def _wait_for(ledger: Path, text: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not ledger.exists() or text not in ledger.read_text():
        assert time.monotonic() < deadline, ledger.read_text() if ledger.exists() else "no ledger"
        time.sleep(0.02)


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_it_ends_with_its_input_whatever_is_open(start_host: Start, ledger: Path, revision: str) -> None:
    """X-STDIO-04, with a subscription, a session's stream and a call that blocks a thread for ten minutes."""
    host = start_host(NOISY)
    call = {"name": "hang", "arguments": {"ledger": str(ledger)}}
    if revision == "2025-11-25":
        host.initialize()
        host.begin("tools/call", call)
    else:
        host.modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        host.modern("tools/call", call, tasks=False)
    _wait_for(ledger, "hangs")
    assert host.close() == 0


def test_it_ends_although_nobody_reads_the_output(deployment: Processes, tmp_path: Path) -> None:
    """X-STDIO-04: the pipe is full, and the host waits for the end of the process before it reads."""
    read, write = os.pipe()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskengine", "stdio", APP],
            stdin=subprocess.PIPE,
            stdout=write,
            stderr=log,
            env=environment(deployment.settings),
        )
    os.close(write)
    assert process.stdin is not None
    for number in range(3_000):  # an answer each, of some hundred bytes
        process.stdin.write(b'{"jsonrpc":"2.0","id":%d,"method":"tools/list"}\n' % number)
        if number == 1_000:
            process.stdin.flush()
    try:
        process.stdin.close()
    except BrokenPipeError:
        pytest.fail("it ended before its input")
    assert process.wait(WAIT_S) == 0
    os.close(read)


def test_what_waits_for_nobody_is_answered_before_the_end(deployment: Processes) -> None:
    """As a person tries it, with a pipe."""
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    messages: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": envelope}},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {"_meta": envelope}},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "taskengine", "stdio", APP],
        input="".join(json.dumps(message) + "\n" for message in messages).encode(),
        stdout=subprocess.PIPE,
        env=environment(deployment.settings),
        timeout=60,
        check=True,
    )
    answers = {message["id"]: message for message in map(json.loads, done.stdout.splitlines())}
    assert "2026-07-28" in answers[1]["result"]["supportedVersions"]
    assert answers[2]["result"]["tools"]


def test_a_subscription_gets_its_last_result_when_the_process_is_told_to_stop(host: Host) -> None:
    """M-STDIO-11: the server ends the subscription, and says so in both ways."""
    listening = host.modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    host.receive()
    host.process.send_signal(signal.SIGTERM)
    assert host.answer_to(listening)["result"]["resultType"] == "complete"
    last = host.receive()
    assert (last["method"], last["params"]) == ("notifications/cancelled", {"requestId": listening})
    assert host.process.wait(WAIT_S) == 0


@pytest.mark.parametrize("how", ["end of input", "SIGKILL"])
def test_a_synchronous_call_outlives_the_host_that_is_gone(host: Host, deployment: Processes, how: str) -> None:
    host.modern("tools/call", {"name": "sleep", "arguments": {"seconds": 2}}, tasks=False)

    async def statuses() -> list[str]:
        store = await Store.open(deployment.settings)
        try:
            return [str(row["status"]) for row in await store.inspection.list(tool="sleep")]
        finally:
            await store.close()

    deadline = time.monotonic() + WAIT_S
    while "working" not in asyncio.run(statuses()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if how == "SIGKILL":
        os.killpg(host.process.pid, signal.SIGKILL)
    else:
        assert host.close() == 0
    while set(asyncio.run(statuses())) != {"completed"}:
        assert time.monotonic() < deadline, asyncio.run(statuses())
        time.sleep(0.1)
