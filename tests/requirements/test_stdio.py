"""What is left to show of standard input and output (requirements 1.9)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from taskengine.settings import Settings
from taskengine.store import Store
from tests.processes import Processes, environment
from tests.stdio.conftest import APP
from tests.stdio.host import PREFIX, Host

META = {f"{PREFIX}protocolVersion": "2026-07-28", f"{PREFIX}clientCapabilities": {}}
SUBSCRIPTION = f"{PREFIX}subscriptionId"


@pytest.fixture
def host(settings: Settings, processes: Processes, tmp_path: Any) -> Any:
    processes.worker(APP)
    started = Host([APP], environment(settings), tmp_path / "stdio.log")
    yield started
    started.kill()


def call(tool: str, **arguments: object) -> dict[str, object]:
    return {"name": tool, "arguments": arguments}


def test_each_message_stands_for_itself_and_a_cancelled_call_is_stopped(host: Host, settings: Settings) -> None:
    """M-STDIO-07 to M-STDIO-09, M-STDIO-12, M-CANC-02, M-CANC-03, M-CANC-06, M-SUB-10, X-CANC-08, X-CANC-09."""
    host.ask("tools/call", call("greet"), tasks=False)  # declares that it can be asked
    host.send({"id": "bare", "method": "tools/call", "params": {**call("greet"), "_meta": META}})
    assert host.answer_to("bare")["error"]["code"] == -32021
    request_id = host.modern("tools/call", call("walk", steps=1000), tasks=False, progressToken="t")
    assert host.receive()["method"] == "notifications/progress"
    odd: list[Any] = ["nobody", None, [], request_id + 1]
    for each in odd:
        host.send({"method": "notifications/cancelled", "params": {"requestId": each}})
    assert host.receive()["method"] == "notifications/progress"
    host.send({"method": "notifications/cancelled", "params": {"requestId": request_id, "reason": "no patience"}})
    until(lambda: "cancelled" in statuses(settings))
    host.ask("server/discover", {})
    host.kept.clear()
    watched = host.ask("tools/call", call("sleep", seconds=30))["taskId"]
    listening = host.modern("subscriptions/listen", {"notifications": {"taskIds": [watched]}})
    until(lambda: any(tag(each) == listening for each in [host.receive()]))
    host.send({"method": "notifications/cancelled", "params": {"requestId": listening}})
    host.ask("server/discover", {})
    host.kept.clear()
    host.ask("tasks/cancel", {"taskId": watched})
    assert host.quiet(1.5), host.kept
    assert "no patience" in host.errors.read_text()


def tag(message: dict[str, Any]) -> Any:
    """The subscription that a message belongs to."""
    holder = message.get("params", message.get("result", {}))
    return holder.get("_meta", {}).get(SUBSCRIPTION)


def statuses(settings: Settings) -> list[str]:
    async def read() -> list[str]:
        store = await Store.open(settings)
        try:
            return [row["status"] for row in await store.inspection.list()]
        finally:
            await store.close()

    return asyncio.run(read())


def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
