"""What is checked before a message is read, and how answers travel (requirements 1.5, 1.6; part 5 of the issue)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp

from taskengine.server import bodies, create_app
from taskengine.server.checks import read_accept
from taskengine.settings import Settings
from tests.server.peer import BOTH, Hands, Peer, front_end, peer_of, serving
from tests.server.tools import engine
from tests.store.sql import execute

GOOD = {"accept": BOTH, "content-type": "application/json", "mcp-protocol-version": "2026-07-28"}


async def discover(peer: Peer, **headers: str | None) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await peer.send("server/discover", headers=named)).status


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"{'a': 1}"])
async def test_a_body_that_is_not_json_is_a_parse_error_without_id(peer: Peer, body: bytes) -> None:
    reply = await peer.post(body, GOOD)
    assert reply.refused == (400, -32700)
    assert "id" not in reply.body


@pytest.mark.parametrize(
    "message", [[], [{"jsonrpc": "2.0", "id": 1, "method": "ping"}], 5, {"id": 1, "method": "x"},
                {"jsonrpc": "2.0", "id": None, "method": "x"}, {"jsonrpc": "2.0", "id": 1.5, "method": "x"},
                {"jsonrpc": "2.0", "id": 1}, {"jsonrpc": "1.0", "id": 1, "method": "x"}],
)  # fmt: skip
async def test_a_message_of_the_wrong_shape_is_an_invalid_request(peer: Peer, message: Any) -> None:
    assert (await peer.post(json.dumps(message), GOOD)).refused == (400, -32600)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "HEAD", "OPTIONS"])
async def test_only_post_is_served(peer: Peer, method: str) -> None:
    """X-SEL-09."""
    reply = await peer.post(b"", {"mcp-protocol-version": "2026-07-28"}, method)
    assert reply.status == 405
    assert reply.headers["allow"] == "POST, GET, DELETE"


@pytest.mark.parametrize("kind", [None, "text/plain", "application/jsonx", "application/x-www-form-urlencoded"])
async def test_another_content_type_gets_415(peer: Peer, kind: str | None) -> None:
    headers = {name: value for name, value in GOOD.items() if name != "content-type"}
    reply = await peer.post(b"{}", headers if kind is None else headers | {"content-type": kind})
    assert reply.status == 415


async def test_content_type_may_have_parameters(peer: Peer) -> None:
    assert await discover(peer, content_type="Application/JSON; charset=utf-8") == 200


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/*"])
async def test_accept_without_either_form_gets_406(peer: Peer, accept: str) -> None:
    assert (await peer.post(b"{}", GOOD | {"accept": accept})).status == 406


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/*", BOTH])
async def test_any_acceptable_form_will_do(peer: Peer, accept: str) -> None:
    assert await discover(peer, accept=accept) == 200


async def test_a_client_that_takes_streams_only_gets_its_answer_on_one(peer: Peer) -> None:
    for reply in (
        await peer.send("tools/list", headers={"accept": "text/event-stream"}),
        await peer.call("greet", headers={"accept": "text/event-stream"}),
    ):
        assert reply.headers["content-type"] == "text/event-stream"
        assert reply.result["resultType"] == "complete"
    assert (await peer.call("nonsense", headers={"accept": "text/event-stream"})).refused == (400, -32602)


async def test_a_client_that_takes_no_streams_gets_json_without_notifications(peer: Peer) -> None:
    reply = await peer.call("steps", headers={"accept": "application/json"}, meta={"progressToken": 1})
    assert reply.headers["content-type"] == "application/json"
    assert reply.text == "walked"
    listen = await peer.send("subscriptions/listen", {"notifications": {}}, headers={"accept": "application/json"})
    assert listen.status == 406


def test_accept_is_read_as_http_says() -> None:
    assert read_accept([]).events
    assert read_accept(["application/json", "text/event-stream"]).events
    assert not read_accept(["application/json, text/event-stream;q=0.0"]).events
    assert read_accept(["text/*;q=0.5"]).events


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "localhost:9999", "[::1]:1"])
async def test_local_hosts_and_origins_are_allowed(peer: Peer, name: str) -> None:
    assert await discover(peer, host=name, origin=f"http://{name}") == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost.evil.example"},
        {"host": "localhost@evil.example"},
        {"host": "[bad"},
    ],
)
async def test_foreign_hosts_and_origins_get_403(peer: Peer, headers: dict[str, str]) -> None:
    reply = await peer.post(b"{}", GOOD | headers)
    assert reply.status == 403
    assert "id" not in reply.body
    assert (await peer.post(b"", GOOD | headers, "GET")).status == 403


async def test_other_hosts_can_be_allowed(settings: Settings) -> None:
    async with serving(engine, settings.model_copy(update={"allowed_hosts": ["MCP.example.org"]})) as peer:
        assert await discover(peer, host="mcp.example.org:8080", origin="https://mcp.example.org") == 200
        assert (await peer.post(b"{}", GOOD | {"host": "other.example.org"})).status == 403
    async with serving(engine, settings.model_copy(update={"allowed_hosts": ["*"]})) as peer:
        assert await discover(peer, host="anything", origin="null") == 200


async def test_a_body_or_headers_past_the_limit_are_refused(settings: Settings, hands: Hands) -> None:
    async with serving(engine, settings.model_copy(update={"max_body_bytes": 2048})) as peer:
        reply = await peer.call("greet", {"name": "x" * 1000})
        assert reply.status == 200
        for body in (b"x" * 2049, b" " * 100_000):
            reply = await peer.post(body, GOOD)
            assert reply.status == 413
            assert "2048 bytes" in reply.error["message"]

        async def chunks() -> Any:
            for _ in range(10):
                yield b" " * 1024

        response = await peer.http.post(peer.url, content=chunks(), headers=GOOD)
        assert response.status_code == 413
        assert (await peer.post(b"{}", GOOD | {"x-large": "y" * 40_000})).status == 431


async def test_a_body_that_does_not_come_is_not_waited_for(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.1)

    async def half() -> AsyncIterator[bytes]:
        yield b'{"jsonrpc": "2.0", '
        await asyncio.sleep(1)
        yield b'"id": 1}'

    headers = {"content-type": "application/json"}
    response = await peer.http.post(peer.url, content=half(), headers=headers)
    assert response.status_code == 408
    assert "again" in response.json()["error"]["message"]
    assert (await peer.call("greet")).text == "Hello, you!"


async def test_a_session_id_and_last_event_id_are_ignored(peer: Peer) -> None:
    reply = await peer.call("greet", headers={"mcp-session-id": "s", "last-event-id": "5"})
    assert reply.text == "Hello, you!"
    assert "mcp-session-id" not in reply.headers


async def test_the_health_of_a_front_end_can_be_asked(settings: Settings) -> None:
    async with front_end(create_app(engine, settings)) as running, httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{running.base}/healthz")).json() == {"status": "ok"}
        ready = await http.get(f"{running.base}/readyz", headers={"host": "10.1.2.3"})
        assert ready.status_code == 200, ready.text
        assert ready.json() == {"status": "ready", "checks": {"database": "ok", "schema": "ok", "broker": "ok"}}


async def test_whoever_asks_for_health_costs_one_look_a_second(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to say who he is for it."""
    monkeypatch.setattr("taskengine.server.health.KEPT_S", 3600)
    app = create_app(engine, settings)
    looks = []
    async with front_end(app) as running, httpx2.AsyncClient(trust_env=False) as http:
        asking = asyncio.Event()

        def check(timeout_s: float) -> None:
            looks.append(timeout_s)

        async def schema() -> str | None:
            await asking.wait()
            return await type(app.state.service.store).schema_revision(app.state.service.store)

        monkeypatch.setattr(app.state.service.bell, "check", check)
        monkeypatch.setattr(app.state.service.store, "schema_revision", schema)
        gone = asyncio.create_task(http.get(f"{running.base}/readyz"))
        at_once = [asyncio.create_task(http.get(f"{running.base}/readyz")) for _ in range(20)]
        async with asyncio.timeout(10):
            while not looks:
                await asyncio.sleep(0.01)
        gone.cancel()
        asking.set()
        answers = [*await asyncio.gather(*at_once), await http.get(f"{running.base}/readyz")]
        assert {answer.status_code for answer in answers} == {200}
        assert len(looks) == 1
        monkeypatch.setattr("taskengine.server.health.KEPT_S", 0)
        health = next(route.endpoint.__self__ for route in app.routes if route.path == "/readyz")
        health._good_until = 0
        for count in (2, 3):
            assert (await http.get(f"{running.base}/readyz")).status_code == 200
            assert len(looks) == count


async def test_a_front_end_without_its_services_lives_and_is_not_ready(settings: Settings) -> None:
    gone = {"database_url": SecretStr("postgresql://127.0.0.1:1/x"), "broker_url": SecretStr("redis://127.0.0.1:1/0")}
    async with (
        front_end(create_app(engine, settings.model_copy(update=gone))) as running,
        httpx2.AsyncClient(trust_env=False) as http,
    ):
        assert (await http.get(f"{running.base}/healthz")).status_code == 200
        ready = await http.get(f"{running.base}/readyz", timeout=10)
        assert ready.status_code == 503
        assert ready.json()["checks"] == dict.fromkeys(("database", "schema", "broker"), "not available")


async def test_a_database_without_the_schema_is_not_ready(settings: Settings, empty_database_url: str) -> None:
    empty = settings.model_copy(update={"database_url": SecretStr(empty_database_url)})
    async with front_end(create_app(engine, empty)) as running, httpx2.AsyncClient(trust_env=False) as http:
        ready = await http.get(f"{running.base}/readyz")
        assert ready.status_code == 503
        assert "taskengine migrate" in ready.json()["checks"]["schema"]


async def test_a_front_end_stays_in_service_when_the_schema_of_the_next_version_comes_first(
    settings: Settings, database_url: str
) -> None:
    await execute(database_url, "UPDATE taskengine_schema SET version_num = 'of the next version'")
    async with front_end(create_app(engine, settings)) as running, httpx2.AsyncClient(trust_env=False) as http:
        ready = await http.get(f"{running.base}/readyz")
        assert ready.json() == {"status": "ready", "checks": {"database": "ok", "schema": "ok", "broker": "ok"}}
    await execute(database_url, "UPDATE taskengine_schema SET version_num = '0001'")
    async with front_end(create_app(engine, settings)) as running, httpx2.AsyncClient(trust_env=False) as http:
        assert "taskengine migrate" in (await http.get(f"{running.base}/readyz")).json()["checks"]["schema"]


async def test_the_front_end_can_be_mounted_into_another_application(settings: Settings, hands: Hands) -> None:
    app = create_app(engine, settings)
    host = Starlette(routes=[Mount("/tools", app)])
    async with front_end(host, "/tools/mcp") as running, peer_of(running) as peer:
        assert (await peer.call("greet", {"name": "Ada"})).text == "Hello, Ada!"
        created = await peer.call("report", tasks=True)
        assert (await peer.get(created.result["taskId"])).result["status"] == "working"
        await app.state.service.stop()


@pytest.mark.parametrize("mounted", [False, True])
async def test_middleware_of_the_application_covers_the_endpoint(settings: Settings, mounted: bool) -> None:
    app = create_app(engine, settings)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["tools.example"])
    app.add_middleware(GZipMiddleware, minimum_size=1)
    outer: ASGIApp = Starlette(routes=[Mount("/tools", app)]) if mounted else app
    path = "/tools/mcp" if mounted else "/mcp"
    async with front_end(outer, path) as running, httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.post(running.url, json={}, headers={"accept-encoding": "gzip"})
        await app.state.service.stop()
    assert (answer.status_code, answer.text) == (400, "Invalid host header"), "of the middleware, not of the endpoint"
    assert answer.headers["content-encoding"] == "gzip"
