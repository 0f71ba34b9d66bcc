"""What goes over standard input and output: framing, both revisions, cancellation, subscriptions, the end."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Processes
from tests.stdio.conftest import APP, NOISY, Start
from tests.stdio.host import PREFIX, TASKS, WAIT_S, Host

SESSION = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "host", "version": "1"}}


def _call(tool: str, **arguments: object) -> dict[str, object]:
    return {"name": tool, "arguments": arguments}


def test_a_request_needs_its_envelope_and_no_headers(host: Host) -> None:
    """M-STDIO-07."""
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
    """X-SEL-17: refused until `initialize` opens the session; a notification is never answered."""
    host.send({"id": "p", "method": "ping"})
    assert host.answer_to("p")["result"] == {}
    host.send({"id": "l", "method": "tools/list"})
    assert host.answer_to("l")["error"]["code"] == -32602
    host.send({"method": "notifications/initialized"})
    host.send({"id": "c", "method": "tools/call", "params": _call("quick", text="x")})
    assert host.answer_to("c")["error"]["code"] == -32602
    host.initialize()
    assert host.legacy("tools/list", {})["tools"]
    assert not host.kept


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
    """X-SEL-17, M-STDIO-12: each message says which it is; in between, the session goes on."""
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
    """L-STDIO-13: of a task, and of a call that stays open."""
    host.initialize(elicitation={})
    host.send({"id": "c", "method": "tools/call", "params": {**_call("greet"), "task": {}}})
    task_id = host.answer_to("c")["result"]["task"]["taskId"]
    host.send({"id": "r", "method": "tasks/result", "params": {"taskId": task_id}})
    while (asked := host.receive()).get("method") != "elicitation/create":
        pass
    host.send({"id": asked["id"], "result": {"action": "accept", "content": {"name": "Bob"}}})
    assert host.answer_to("r")["result"]["content"][0]["text"] == "Hello, Bob! (attempt 2)"
    calling = host.begin("tools/call", _call("greet"))
    while (asked := host.receive()).get("method") != "elicitation/create":
        pass
    host.send({"id": asked["id"], "result": {"action": "decline"}})
    assert host.answer_to(calling)["result"]["content"][0]["text"] == "You said decline."


def test_nothing_more_is_said_for_a_cancelled_request(host: Host) -> None:
    """M-STDIO-08: not even when the cancellation comes right behind the request."""
    request_id = host.modern("tools/call", _call("walk", steps=100), tasks=False, progressToken="t")
    assert host.receive()["method"] == "notifications/progress"
    host.send({"method": "notifications/cancelled", "params": {"requestId": request_id}})
    host.ask("server/discover", {})
    host.kept.clear()
    late = host.modern("tools/call", _call("quick", text="x"), tasks=False)
    host.send({"method": "notifications/cancelled", "params": {"requestId": late}})
    host.ask("tools/call", _call("quick", text="y"), tasks=False)
    assert host.quiet(1.0)
    assert not host.kept


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_the_work_on_a_cancelled_request_stops(start_host: Start, ledger: Path, revision: str) -> None:
    """M-STDIO-09, and so it is in a session."""
    host = start_host(NOISY)
    call = _call("linger", ledger=str(ledger))
    if revision == "2025-11-25":
        host.initialize()
        request_id = host.begin("tools/call", call)
    else:
        request_id = host.modern("tools/call", call, tasks=False)
    _wait_for(ledger, "began")
    host.send({"method": "notifications/cancelled", "params": {"requestId": request_id}})
    _wait_for(ledger, "stopped")
    assert host.ask("tools/list", {})["tools"]
    assert request_id not in [message.get("id") for message in host.kept]


def test_a_subscription_ends_with_its_result_and_a_notification(host: Host) -> None:
    """M-STDIO-10, M-STDIO-11."""
    created = host.ask("tools/call", _call("sleep", seconds=0.5))
    listening = host.modern("subscriptions/listen", {"notifications": {"taskIds": [created["taskId"]]}})
    first = host.receive()
    assert first["method"] == "notifications/subscriptions/acknowledged"  # M-STDIO-10
    host.answer_to(listening)
    assert host.kept[-1]["params"]["status"] == "completed"
    last = host.receive()
    assert (last["method"], last["params"]) == ("notifications/cancelled", {"requestId": listening})  # M-STDIO-11


def test_each_subscription_begins_with_its_own_acknowledgement(host: Host) -> None:
    """M-STDIO-10: messages of others may come in between."""
    created = host.ask("tools/call", _call("walk", steps=10))
    filters = {"notifications": {"taskIds": [created["taskId"]]}}
    listening = {host.modern("subscriptions/listen", filters) for _ in range(3)}
    first: dict[int, str] = {}
    ended: set[int] = set()
    while ended != listening:
        message = host.receive()
        subscription = message.get("params", {}).get("_meta", {}).get(f"{PREFIX}subscriptionId")
        if subscription is not None:
            first.setdefault(int(subscription), message["method"])
        if "result" in message:
            ended.add(message["id"])
    assert first == dict.fromkeys(listening, "notifications/subscriptions/acknowledged")


def test_a_subscription_ends_when_its_host_cancels_it(host: Host) -> None:
    listening = host.modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    assert host.receive()["method"] == "notifications/subscriptions/acknowledged"
    host.send({"method": "notifications/cancelled", "params": {"requestId": listening}})
    assert host.quiet(0.5)


def test_the_next_process_of_the_account_finds_the_task(start_host: Start) -> None:
    """M-STDIO-12: which process it is means nothing."""
    first = start_host()
    task_id = first.ask("tools/call", _call("add", a=1, b=1))["taskId"]
    first.kill()
    second = start_host()
    while (task := second.ask("tasks/get", {"taskId": task_id}))["status"] == "working":
        time.sleep(0.05)
    assert task["result"]["structuredContent"]["total"] == 2


def test_a_host_and_a_caller_over_http_never_see_each_others_tasks(host: Host, deployment: Processes) -> None:
    """X-STDIO-14, X-STDIO-05: the principal of a stdio process is fixed, and nothing is asked of its host."""
    _, url = deployment.serve(APP)
    remote = _post(url, "tools/call", _call("add", a=1, b=1))["result"]["taskId"]
    own = host.ask("tools/call", _call("add", a=1, b=1))["taskId"]
    host.initialize()
    for method in ("tasks/get", "tasks/cancel", "tasks/result"):
        answer = host.answer_to(host.begin(method, {"taskId": remote}))
        assert answer["error"]["code"] == -32602
    assert host.answer_to(host.modern("tasks/get", {"taskId": remote}))["error"]["code"] == -32602
    assert remote not in [task["taskId"] for task in host.legacy("tasks/list", {})["tasks"]]
    assert _post(url, "tasks/get", {"taskId": own})["error"]["code"] == -32602
    assert _post(url, "tasks/get", {"taskId": remote})["result"]["taskId"] == remote


def test_a_session_lasts_as_long_as_the_process(start_host: Start) -> None:
    """A host that started a program makes one handshake, however soon sessions end over HTTP."""
    host = start_host(TASKENGINE_SESSION_TTL="1s")
    host.initialize()
    assert host.legacy("tools/list", {})["tools"]
    time.sleep(2.5)
    assert host.legacy("tools/list", {})["tools"]
    assert host.legacy("tools/call", _call("quick", text="x"))["content"][0]["text"] == "x"


def test_a_stream_limit_leaves_no_request_without_its_answer(start_host: Start) -> None:
    """There is no stream to come back to: a limit for HTTP means nothing here."""
    host = start_host(TASKENGINE_STREAM_LIMIT="500ms")
    host.initialize()
    created = host.legacy("tools/call", {**_call("sleep", seconds=1.5), "task": {}})
    assert host.legacy("tasks/result", {"taskId": created["task"]["taskId"]})["content"][0]["text"] == "slept"


def test_the_list_of_tasks_is_offered_whatever_a_front_end_listens_on(start_host: Start) -> None:
    """Nobody but this account is asked over standard input."""
    host = start_host(TASKENGINE_HOST="0.0.0.0")
    assert "task_list" in {tool["name"] for tool in host.ask("tools/list", {})["tools"]}


def test_calls_that_block_do_not_hold_up_the_output(start_host: Start, tmp_path: Path) -> None:
    host = start_host(NOISY)
    for number in range(12):
        host.modern("tools/call", _call("hang", ledger=str(tmp_path / f"ledger{number}")), tasks=False)
    _wait_for(tmp_path / "ledger0", "hangs")
    assert host.ask("tools/call", _call("noisy"), tasks=False)["content"][0]["text"] == "said"


def test_a_target_that_cannot_be_loaded_is_named(start_host: Start, tmp_path: Path) -> None:
    host = start_host(str(tmp_path / "missing.py"))
    assert host.process.wait(WAIT_S) == 2
    assert "is not a file" in host.errors.read_text()
    assert not host.raw


def _wait_for(ledger: Path, text: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not ledger.exists() or text not in ledger.read_text():
        assert time.monotonic() < deadline, ledger.read_text() if ledger.exists() else "no ledger"
        time.sleep(0.02)


def _post(url: str, method: str, params: dict[str, object]) -> dict[str, Any]:
    """A request of 2026-07-28 over HTTP."""
    capabilities: dict[str, object] = {"extensions": {TASKS: {}}}
    envelope = {f"{PREFIX}protocolVersion": "2026-07-28", f"{PREFIX}clientCapabilities": capabilities}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": envelope}}
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": method,
        "mcp-name": str(params.get("name", params.get("taskId"))),
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as refused:
        with refused:
            answer = json.load(refused)
    return answer
