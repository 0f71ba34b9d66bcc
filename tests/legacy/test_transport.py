from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.legacy.peer import LATEST, Peer


async def test_batches_are_refused(peer: Peer) -> None:
    """L-TRANS-03."""
    reply = await peer.post([peer.message("ping", None)])
    assert reply.refused == (400, -32600)


async def test_a_body_that_is_not_json_is_refused(peer: Peer) -> None:
    """X-TRANS-11, A-13."""
    reply = await peer.request("POST", "{")
    assert reply.refused == (400, -32700)
    assert "id" not in reply.body


async def test_notifications_are_accepted_without_a_body(peer: Peer) -> None:
    """L-TRANS-04, X-CANC-08, X-BASE-07."""
    for method, params in (
        ("notifications/initialized", None),
        ("notifications/cancelled", {"requestId": 999}),
        ("notifications/cancelled", {"requestId": []}),
        ("notifications/cancelled", None),
        ("notifications/roots/list_changed", None),
        ("notifications/own", {"a": 1}),
    ):
        reply = await peer.notify(method, params)
        assert (reply.status, reply.messages) == (202, [])


async def test_a_response_to_nothing_is_refused(peer: Peer) -> None:
    """L-TRANS-05."""
    bodies: list[dict[str, Any]] = [{"id": 1, "result": {}}, {"id": "x", "result": {}}, {"result": {}}]
    for body in bodies:
        reply = await peer.post({"jsonrpc": "2.0", **body})
        assert reply.refused == (400, -32600)
        assert "id" not in reply.body


@pytest.mark.parametrize("method", ["resources/list", "prompts/get", "server/discover", "tasks/update", "x"])
async def test_an_unknown_method_is_an_error_with_status_200(peer: Peer, method: str) -> None:
    """L-TRANS-27, X-SEL-15, A-13."""
    assert (await peer.send(method)).refused == (200, -32601)


@pytest.mark.parametrize("request_id", ["a", "1", 7, -1])
async def test_responses_repeat_the_id(peer: Peer, request_id: str | int) -> None:
    """X-BASE-03."""
    reply = await peer.post({"jsonrpc": "2.0", "id": request_id, "method": "ping"})
    assert reply.body["id"] == request_id
    assert type(reply.body["id"]) is type(request_id)


async def test_concurrent_requests_each_get_their_own_answer(peer: Peer) -> None:
    """L-TRANS-28."""
    replies = await asyncio.gather(*(peer.call("add", {"a": n, "b": 0}) for n in range(20)))
    assert [reply.text for reply in replies] == [str(n) for n in range(20)]


async def test_a_client_that_takes_streams_only_gets_one(peer: Peer) -> None:
    """L-TRANS-06, A-39."""
    for method in ("tools/list", "ping"):
        reply = await peer.send(method, headers={"accept": "text/event-stream"})
        assert reply.streamed
        assert "result" in reply.body


async def test_a_client_that_takes_json_only_gets_that(peer: Peer) -> None:
    reply = await peer.send("tools/call", {"name": "steps"}, {"accept": "application/json"})
    assert not reply.streamed
    assert reply.text == "walked"


async def test_a_client_that_takes_nothing_is_refused(peer: Peer) -> None:
    """X-TRANS-08, L-TRANS-14."""
    assert (await peer.send("ping", headers={"accept": "text/html"})).status == 406
    assert (await peer.request("GET", headers={"accept": "application/json"})).status == 406


async def test_2026_has_neither_get_nor_delete(peer: Peer) -> None:
    """X-SEL-09."""
    for method in ("GET", "DELETE"):
        headers = {"mcp-protocol-version": "2026-07-28", "accept": "text/event-stream"}
        assert (await peer.request(method, headers=headers)).status == 405


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS"])
async def test_other_methods_are_not_allowed(peer: Peer, method: str) -> None:
    reply = await peer.request(method)
    assert reply.status == 405
    assert reply.headers["allow"] == "POST, GET, DELETE"


async def test_a_modern_request_in_a_session_is_modern(peer: Peer) -> None:
    """X-SEL-02, X-SEL-05, X-SEL-08, X-SEL-10."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": meta}}
    reply = await peer.post(message, {"mcp-protocol-version": "2026-07-28", "mcp-method": "ping"})
    assert reply.refused == (404, -32601)
    assert "mcp-session-id" not in reply.headers


async def test_bodies_are_single_lines(peer: Peer) -> None:
    """C-12."""
    params = json.dumps(peer.message("tools/list", None))
    async with peer.http.stream("POST", peer.url, content=params, headers=peer.headers()) as response:
        assert (await response.aread()).count(b"\n") == 0


async def test_a_foreign_origin_is_refused_for_every_method(peer: Peer) -> None:
    """X-TRANS-02."""
    for method in ("POST", "GET", "DELETE"):
        reply = await peer.request(method, headers={"origin": "https://evil.example", "mcp-protocol-version": LATEST})
        assert reply.status == 403
