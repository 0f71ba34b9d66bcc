"""What goes over standard input and output: framing, both revisions, cancellation, subscriptions, the end."""

from __future__ import annotations

import asyncio
import json
import signal
import time

from taskengine.settings import Settings
from taskengine.store import Store
from tests.stdio.conftest import Start
from tests.stdio.host import Host

SESSION = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "host", "version": "1"}}


def _call(tool: str, **arguments: object) -> dict[str, object]:
    return {"name": tool, "arguments": arguments}


def test_a_request_needs_its_envelope_and_no_headers(host: Host) -> None:
    assert "2026-07-28" in host.ask("server/discover", {})["supportedVersions"]
    assert {"add", "quick"} <= {tool["name"] for tool in host.ask("tools/list", {})["tools"]}
    assert host.ask("tools/call", _call("quick", text="hi\nthere"))["content"][0]["text"] == "hi\nthere"


def test_a_task_is_created_polled_answered_and_ends(host: Host) -> None:
    created = host.ask("tools/call", _call("greet"))
    assert created["resultType"] == "task"
    task_id = {"taskId": created["taskId"]}
    while (task := host.ask("tasks/get", task_id))["status"] == "working":
        time.sleep(0.05)
    assert list(task["inputRequests"]) == ["name"]
    answers = {"name": {"action": "accept", "content": {"name": "Ada"}}}
    host.ask("tasks/update", {**task_id, "inputResponses": answers})
    while (task := host.ask("tasks/get", task_id))["status"] in {"working", "input_required"}:
        time.sleep(0.05)
    assert task["result"]["content"][0]["text"] == "Hello, Ada! (attempt 2)"


def test_before_a_session_only_ping_needs_no_envelope(host: Host) -> None:
    host.send({"id": "p", "method": "ping"})
    assert host.answer_to("p")["result"] == {}
    host.send({"id": "l", "method": "tools/list"})
    assert host.answer_to("l")["error"]["code"] == -32602


def test_what_is_no_message_is_refused_and_the_rest_goes_on(host: Host) -> None:
    host.send_line(b"{nonsense")
    assert host.receive()["error"]["code"] == -32700
    host.send_line(b'{"jsonrpc":"2.0","id":5}')
    refused = host.receive()
    assert (refused["id"], refused["error"]["code"]) == (5, -32600)
    host.send_line(b"")
    host.send_line(b'{"jsonrpc":"2.0","id":6,"method":"' + b"x" * (5 << 20) + b'"}')
    assert "less" in host.receive()["error"]["message"]
    assert host.ask("tools/list", {})["tools"]


def test_both_revisions_share_the_process_and_the_principal(host: Host) -> None:
    created = host.ask("tools/call", _call("add", a=1, b=2))
    host.send({"id": "i", "method": "initialize", "params": SESSION})
    assert host.answer_to("i")["result"]["protocolVersion"] == "2025-11-25"
    host.send({"method": "notifications/initialized"})
    host.send({"id": "r", "method": "tasks/result", "params": {"taskId": created["taskId"]}})
    assert host.answer_to("r")["result"]["structuredContent"]["total"] == 3
    call = {**_call("add", a=2, b=2), "task": {"ttl": 60_000}}
    host.send({"id": "c", "method": "tools/call", "params": call})
    task_id = host.answer_to("c")["result"]["task"]["taskId"]
    while (task := host.ask("tasks/get", {"taskId": task_id}))["status"] == "working":
        time.sleep(0.05)
    assert task["result"]["structuredContent"]["total"] == 4


def test_a_session_asks_its_host_on_the_output_and_hears_the_answer_on_the_input(host: Host) -> None:
    params = {**SESSION, "capabilities": {"elicitation": {}}}
    host.send({"id": "i", "method": "initialize", "params": params})
    host.answer_to("i")
    host.send({"method": "notifications/initialized"})
    host.send({"id": "c", "method": "tools/call", "params": {**_call("greet"), "task": {}}})
    task_id = host.answer_to("c")["result"]["task"]["taskId"]
    host.send({"id": "r", "method": "tasks/result", "params": {"taskId": task_id}})
    while (asked := host.receive()).get("method") != "elicitation/create":
        pass
    host.send({"id": asked["id"], "result": {"action": "accept", "content": {"name": "Bob"}}})
    assert host.answer_to("r")["result"]["content"][0]["text"] == "Hello, Bob! (attempt 2)"


def test_nothing_more_is_said_for_a_cancelled_request(host: Host) -> None:
    request_id = host.modern("tools/call", _call("walk", steps=100), tasks=False, progressToken="t")
    assert host.receive()["method"] == "notifications/progress"
    host.send({"method": "notifications/cancelled", "params": {"requestId": request_id}})
    host.ask("server/discover", {})
    host.kept.clear()
    assert host.quiet(1.0)


def test_a_subscription_ends_with_its_result_and_a_notification(host: Host) -> None:
    created = host.ask("tools/call", _call("sleep", seconds=0.5))
    listening = host.modern("subscriptions/listen", {"notifications": {"taskIds": [created["taskId"]]}})
    first = host.receive()
    assert first["method"] == "notifications/subscriptions/acknowledged"  # M-STDIO-10
    host.answer_to(listening)
    assert host.kept[-1]["params"]["status"] == "completed"
    last = host.receive()
    assert (last["method"], last["params"]) == ("notifications/cancelled", {"requestId": listening})  # M-STDIO-11


def test_a_subscription_ends_when_its_host_cancels_it(host: Host) -> None:
    listening = host.modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    assert host.receive()["method"] == "notifications/subscriptions/acknowledged"
    host.send({"method": "notifications/cancelled", "params": {"requestId": listening}})
    assert host.quiet(0.5)


def test_the_process_ends_promptly_with_its_input(host: Host) -> None:
    host.ask("server/discover", {})
    host.modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    host.receive()
    began = time.monotonic()
    assert host.close() == 0
    assert time.monotonic() - began < 3


def test_a_subscription_gets_its_last_result_when_the_process_is_told_to_stop(host: Host) -> None:
    listening = host.modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    host.receive()
    host.process.send_signal(signal.SIGTERM)
    assert host.answer_to(listening)["result"]["resultType"] == "complete"
    assert host.process.wait(10) == 0


def test_a_synchronous_call_outlives_the_host_that_is_gone(host: Host, settings: Settings) -> None:
    host.modern("tools/call", _call("sleep", seconds=2), tasks=False)
    host.ask("server/discover", {})
    time.sleep(0.5)
    host.close()

    async def tasks() -> list[str]:
        store = await Store.open(settings)
        try:
            return [row["status"] for row in await store.inspection.list()]
        finally:
            await store.close()

    deadline = time.monotonic() + 15
    while asyncio.run(tasks()) != ["completed"]:
        assert time.monotonic() < deadline, asyncio.run(tasks())
        time.sleep(0.2)


def test_the_next_process_of_the_account_finds_the_task_and_http_does_not(
    start_host: Start, worker: None, settings: Settings
) -> None:
    first = start_host()
    task_id = first.ask("tools/call", _call("add", a=1, b=1))["taskId"]
    first.kill()
    second = start_host()
    while (task := second.ask("tasks/get", {"taskId": task_id}))["status"] == "working":
        time.sleep(0.05)
    assert task["result"]["structuredContent"]["total"] == 2

    async def owner() -> str:
        store = await Store.open(settings)
        try:
            return await store.inspection.owner(task_id)
        finally:
            await store.close()

    assert asyncio.run(owner()).startswith("stdio:")  # X-STDIO-14


def test_what_a_tool_prints_does_not_reach_the_output(start_host: Start, tmp_path: object, settings: Settings) -> None:
    host = start_host()
    assert json.dumps(host.ask("tools/list", {}))
    assert host.ask("tools/call", _call("quick", text="x"), tasks=True)["resultType"] in {"task", "complete"}
