from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from taskengine.errors import StoreUnavailable
from taskengine.server import create_app
from taskengine.settings import Settings
from tests.legacy.peer import ALL, FORMS, LATEST, Peer, peer_of, serving
from tests.legacy.tools import engine
from tests.server.peer import Hands, front_end
from tests.store.sql import execute


async def test_initialize_says_what_is_served(newcomer: Peer) -> None:
    """L-LIFE-01, L-LIFE-07, L-TASK-01, X-SEL-14, D-01."""
    reply = await newcomer.initialize()
    assert reply.status == 200
    assert reply.result == {
        "protocolVersion": LATEST,
        "capabilities": {
            "tools": {"listChanged": True},
            "logging": {},
            "tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}},
        },
        "serverInfo": {"name": "fixtures", "version": "1"},
        "instructions": "For tests.",
    }


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (LATEST, LATEST),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", LATEST),
        ("2026-07-28", LATEST),
        ("next", LATEST),
    ],
)
async def test_the_version_asked_for_is_given_if_it_is_served(newcomer: Peer, asked: str, given: str) -> None:
    """L-LIFE-02, L-LIFE-03, L-LIFE-04, A-17."""
    assert (await newcomer.initialize(asked)).result["protocolVersion"] == given


async def test_older_revisions_have_no_tasks(newcomer: Peer) -> None:
    reply = await newcomer.initialize("2025-06-18")
    assert "tasks" not in reply.result["capabilities"]
    assert (await newcomer.send("tasks/list")).refused == (200, -32601)


@pytest.mark.parametrize("params", [{}, {"protocolVersion": 7}, {"protocolVersion": LATEST, "capabilities": []}])
async def test_a_handshake_that_cannot_be_read_is_refused(newcomer: Peer, params: dict[str, Any]) -> None:
    """L-LIFE-09."""
    reply = await newcomer.send("initialize", params)
    assert reply.refused == (200, -32602)
    assert "mcp-session-id" not in reply.headers


@pytest.mark.parametrize("header", [None, LATEST, "2025-06-18", "2024-11-05"])
async def test_a_handshake_needs_no_version_header(newcomer: Peer, header: str | None) -> None:
    """L-TRANS-26."""
    params = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    reply = await newcomer.send("initialize", params, {"mcp-protocol-version": header})
    assert reply.result["protocolVersion"] == LATEST


async def test_session_ids_differ_and_are_visible_ascii(newcomer: Peer) -> None:
    """L-SESS-01, L-SESS-02, L-SESS-09, L-SESS-14."""
    ids = set()
    for _ in range(3):
        await newcomer.initialize(capabilities=ALL)
        assert newcomer.session is not None
        assert all(0x21 <= ord(character) <= 0x7E for character in newcomer.session)
        ids.add(newcomer.session)
    assert len(ids) == 3


async def test_a_request_without_a_session_is_refused(newcomer: Peer) -> None:
    """L-SESS-03, L-TRANS-25."""
    assert (await newcomer.send("ping")).refused == (400, -32600)
    assert (await newcomer.notify("notifications/initialized")).status == 400


async def test_an_unknown_session_is_not_found(peer: Peer) -> None:
    """L-SESS-05, L-SESS-11: forged, changed and cut ids are all alike."""
    assert peer.session is not None
    for session in ("x", peer.session[:-2], peer.session + "A", peer.session.swapcase()):
        reply = await peer.send("ping", headers={"mcp-session-id": session})
        assert reply.refused == (404, -32600)


async def test_an_ended_session_is_not_found_at_any_front_end(settings: Settings) -> None:
    """L-SESS-04, L-SESS-07, A-38."""
    async with serving(engine, settings) as one, serving(engine, settings) as other:
        await one.initialize()
        other.session, other.version = one.session, one.version
        assert (await other.send("ping")).result == {}
        assert (await one.request("DELETE")).status == 204
        for peer in (one, other):
            assert (await peer.send("ping")).status == 404
            assert (await peer.request("DELETE")).status == 404
            assert (await peer.request("GET", headers={"accept": "text/event-stream"})).status == 404


async def test_a_session_is_served_by_any_front_end_and_after_a_restart(settings: Settings, hands: Hands) -> None:
    """L-LIFE-11, A-41."""
    async with serving(engine, settings) as one:
        await one.initialize(capabilities=FORMS)
        session = one.session
        task_id = await one.begin("job")
    async with serving(engine, settings) as later:
        later.session, later.version = session, LATEST
        assert (await later.get(task_id))["status"] == "working"
        claim_capabilities = (await hands.take()).capabilities
    assert claim_capabilities == {"elicitation": {}}


async def test_a_session_ends_with_its_time(settings: Settings) -> None:
    """L-SESS-08, X-SEC-06."""
    short = settings.model_copy(update={"session_ttl": timedelta(seconds=-5)})
    async with serving(engine, short) as peer:
        params = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        session = (await peer.send("initialize", params)).headers["mcp-session-id"]
        assert (await peer.send("ping", headers={"mcp-session-id": session})).status == 404


async def test_tasks_do_not_end_with_their_session(peer: Peer, hands: Hands) -> None:
    """L-SESS-12."""
    task_id = await peer.begin("job")
    await peer.request("DELETE")
    await hands.complete(await hands.take(), "kept")
    await peer.initialize()
    assert (await peer.result(task_id)).text == "kept"


async def test_another_version_than_the_sessions_is_refused(peer: Peer) -> None:
    """L-TRANS-24, L-TRANS-25, A-51."""
    assert (await peer.send("ping", headers={"mcp-protocol-version": None})).result == {}
    for version in ("2025-06-18", "2024-11-05"):
        assert (await peer.send("ping", headers={"mcp-protocol-version": version})).status == 400
        assert (await peer.request("DELETE", headers={"mcp-protocol-version": version})).status == 400


async def test_the_log_level_holds_at_every_front_end(settings: Settings) -> None:
    """L-LOG-05, L-LOG-06, L-LOG-07."""
    async with serving(engine, settings) as one, serving(engine, settings) as other:
        await one.initialize()
        other.session, other.version = one.session, one.version
        assert levels((await one.call("steps")).messages) == ["info"] * 3
        assert (await one.send("logging/setLevel", {"level": "debug"})).body["result"] == {}
        assert levels((await other.call("steps")).messages) == ["info", "debug"] * 3
        await other.send("logging/setLevel", {"level": "error"})
        assert levels((await one.call("steps")).messages) == []
        assert (await one.send("logging/setLevel", {"level": "loud"})).refused == (200, -32602)


async def test_ping_is_answered_with_nothing(peer: Peer) -> None:
    """L-PING-01, L-PING-02, L-META-12."""
    assert (await peer.send("ping")).body["result"] == {}
    assert (await peer.send("ping", {})).body["result"] == {}


async def test_a_database_that_is_away_does_not_end_sessions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as peer:
        await peer.initialize()

        async def away(_: str) -> Any:
            raise StoreUnavailable("ConnectionRefusedError")

        monkeypatch.setattr(app.state.service.store.sessions, "state", away)
        assert (await peer.call("greet")).text == "Hello, you!"


def levels(messages: list[dict[str, Any]]) -> list[str]:
    return [message["params"]["level"] for message in messages if message.get("method") == "notifications/message"]


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_what_nobody_foresaw_is_an_error_in_json_and_in_the_log(
    settings: Settings, method: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as peer:
        await peer.initialize(capabilities=ALL)

        async def fail(*_: Any) -> Any:
            raise ZeroDivisionError

        for name in ("state", "end"):
            monkeypatch.setattr(app.state.service.store.sessions, name, fail)
        body = {"jsonrpc": "2.0", "method": "notifications/cancelled"} if method == "POST" else None
        reply = await peer.request(method, json.dumps(body) if body else None, {"last-event-id": None})
    assert reply.status == 500
    assert reply.error["message"] == "Internal error: it is in the server's log"
    assert "internal error" in caplog.text


async def test_a_session_that_cannot_be_ended_is_an_error_in_json(peer: Peer, settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    await execute(url, "ALTER TABLE sessions ADD CONSTRAINT none_ends CHECK (ended_at IS NULL)")
    reply = await peer.request("DELETE")
    await execute(url, "ALTER TABLE sessions DROP CONSTRAINT none_ends")
    assert (reply.status, reply.error["message"]) == (500, "Internal error: it is in the server's log")
