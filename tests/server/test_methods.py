"""Discovery, listing and the order of checks over HTTP (requirements 1.1, 1.4 to 1.7, 1.14, 1.23)."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from taskengine.bridge import HANDLE_TOOLS
from taskengine.settings import Settings
from taskengine.wire import modern
from tests.server.peer import BOTH, EXTENSION, Hands, Peer, serving
from tests.server.tools import engine

SERVED = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"]
HANDSHAKE = {"accept": BOTH, "content-type": "application/json"}


async def test_discover_says_what_is_served_and_no_more(peer: Peer) -> None:
    reply = await peer.send("server/discover")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.result["supportedVersions"] == SERVED
    assert set(reply.result["capabilities"]) == {"tools", "logging", "extensions"}
    assert "mcp-session-id" not in reply.headers
    for method in ("prompts/list", "resources/list", "resources/templates/list", "completion/complete"):
        assert (await peer.send(method)).refused == (404, -32601)


async def test_tools_are_listed_on_one_page_in_order_of_declaration(peer: Peer) -> None:
    first, second = await peer.send("tools/list"), await peer.send("tools/list")
    assert [tool["name"] for tool in first.result["tools"]] == [*engine.tools, *HANDLE_TOOLS]
    assert first.result == second.result
    assert first.result["cacheScope"] == "public"
    assert (await peer.send("tools/list", {"cursor": "x"})).refused == (400, -32602)
    assert (await peer.send("tools/list", {"cursor": ""})).refused == (400, -32602)


@pytest.mark.parametrize(
    "method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/result",
               "tasks/list", "unknown/method"],
)  # fmt: skip
async def test_methods_that_are_not_of_this_wire_get_404(peer: Peer, method: str) -> None:
    reply = await peer.send(method, {"taskId": "tsk_1"}, capabilities=EXTENSION)
    assert reply.refused == (404, -32601)
    if method == "initialize":
        assert reply.error["data"]["supported"] == SERVED


@pytest.mark.parametrize("session", [None, "some-session"])
async def test_a_request_without_envelope_is_refused_under_the_rules_its_header_names(
    peer: Peer, session: str | None
) -> None:
    headers = HANDSHAKE | ({"mcp-session-id": session} if session else {})
    body = {"jsonrpc": "2.0", "id": 101, "method": "server/discover", "params": {}}
    for version in ("2026-07-28", "v999.0.0"):
        modern_headers = headers | {"mcp-protocol-version": version, "mcp-method": "server/discover"}
        reply = await peer.post(json.dumps(body), modern_headers)
        assert reply.refused == (400, -32602)
        assert reply.body["id"] == 101
    for extra in ({}, {"mcp-protocol-version": "2025-11-25"}):
        reply = await peer.post(json.dumps({**body, "method": "tools/list"}), headers | extra)
        assert reply.refused == (404 if session else 400, -32600)


async def test_the_comparison_with_the_header_comes_before_the_version_and_that_before_the_method(peer: Peer) -> None:
    unknown = {modern.VERSION_KEY: "v999.0.0"}
    assert (await peer.send("server/discover", meta=unknown)).refused == (400, -32020)
    reply = await peer.send("unknown/method", meta=unknown, headers={"mcp-protocol-version": "v999.0.0"})
    assert reply.refused == (400, -32022)
    assert reply.error["data"] == {"supported": SERVED, "requested": "v999.0.0"}
    old = {modern.VERSION_KEY: "2025-11-25"}
    reply = await peer.send("tools/list", meta=old, headers={"mcp-protocol-version": "2025-11-25"})
    assert reply.error["data"] == {"supported": ["2026-07-28"], "requested": "2025-11-25"}


@pytest.mark.parametrize("spoilt", [{"mcp-protocol-version": None}, {"mcp-protocol-version": "2025-11-25"},
                                    {"mcp-method": None}, {"mcp-method": "TOOLS/CALL"}, {"mcp-name": None},
                                    {"mcp-name": "other"}])  # fmt: skip
async def test_a_header_that_does_not_repeat_the_body_is_refused_before_anything_is_written(
    peer: Peer, hands: Hands, spoilt: dict[str, Any]
) -> None:
    assert (await peer.call("job", tasks=True, headers=spoilt)).refused == (400, -32020)
    assert await hands.rows() == []


async def test_header_names_ignore_case_and_names_may_be_encoded(peer: Peer) -> None:
    headers = {"mcp-method": None, "MCP-METHOD": "tools/call", "mcp-name": None, "MCP-Name": "=?base64?Z3JlZXQ=?="}
    assert (await peer.call("greet", headers=headers)).text == "Hello, you!"


async def test_blanks_around_header_values_are_dropped(peer: Peer) -> None:
    body = json.dumps(peer.message("tools/list", {}, {}, {}))
    lines = ["POST /mcp HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", "Content-Type: application/json",
             "MCP-Protocol-Version: \t2026-07-28 ", "Mcp-Method:  \ttools/list\t ", "Connection: close"]  # fmt: skip
    address = urlsplit(peer.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_parameter_headers_are_checked_before_the_call(peer: Peer) -> None:
    fitting = {"mcp-param-region": "=?base64?SGVsbG8=?=", "mcp-param-count": "2.0"}
    assert (await peer.call("region", {"region": "Hello", "count": 2}, headers=fitting)).text == "Hello 2"
    assert (await peer.call("region", {"region": "eu"}, headers={"mcp-param-region": "eu"})).text == "eu 1"
    for headers in (
        {},
        {"mcp-param-region": "EU"},
        {"mcp-param-region": "=?base64?SGVsbG8?="},
        {"mcp-param-region": "eu", "mcp-param-count": "1"},
    ):
        assert (await peer.call("region", {"region": "eu"}, headers=headers)).refused == (400, -32020)


async def test_task_methods_are_refused_without_the_extension_before_the_task_is_looked_up(peer: Peer) -> None:
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        undeclared: list[dict[str, Any]] = [{}, {"tasks": {"list": {}, "cancel": {}}}]
        for capabilities in undeclared:
            reply = await peer.send(method, {"taskId": "tsk_unknown"}, capabilities=capabilities)
            assert reply.refused == (400, -32021)
            required = reply.error["data"]["requiredCapabilities"]
            assert required == {"extensions": {"io.modelcontextprotocol/tasks": {}}}
        assert (await peer.send(method, {"taskId": 5}, capabilities=EXTENSION)).refused == (400, -32602)
        assert (await peer.send(method, {}, capabilities=EXTENSION)).refused == (400, -32602)
        reply = await peer.send(method, {"taskId": "tsk_1"}, capabilities=EXTENSION, headers={"mcp-name": None})
        assert reply.refused == (400, -32020)


async def test_requests_do_not_depend_on_earlier_ones(peer: Peer) -> None:
    assert (await peer.call("report", tasks=True)).result["resultType"] == "task"
    assert (await peer.call("report")).refused == (400, -32021)


async def test_notifications_are_accepted_without_effect_and_responses_are_not(peer: Peer) -> None:
    headers = {"accept": BOTH, "content-type": "application/json", "mcp-protocol-version": "2026-07-28"}
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    for message in (cancelled, {"jsonrpc": "2.0", "method": "notifications/whatever"}):
        reply = await peer.post(json.dumps(message), headers)
        assert (reply.status, reply.messages) == (202, [])
    reply = await peer.post('{"jsonrpc":"2.0","id":1,"result":{}}', headers)
    assert reply.refused == (400, -32600)
    assert "id" not in reply.body


async def test_internal_faults_say_nothing_of_the_inside(settings: Settings) -> None:
    gone = settings.model_copy(
        update={"database_url": type(settings.database_url)("postgresql://nobody:hidden@127.0.0.1:1/none")}
    )
    async with serving(engine, gone) as peer:
        reply = await peer.get("tsk_1")
        assert reply.refused == (200, -32603)
        assert "hidden" not in json.dumps(reply.body)
        assert "127.0.0.1" not in json.dumps(reply.body)
        assert (await peer.send("tools/list")).status == 200
        assert (await peer.call("greet", {"name": "Ada"})).text == "Hello, Ada!"
