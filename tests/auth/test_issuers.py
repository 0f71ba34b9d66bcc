"""Authorization servers: where their keys are, what becomes of tokens when these change, and when a server is away."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from taskengine.auth import fetch, keys, server
from taskengine.auth.config import Issuer
from taskengine.auth.discovery import metadata_urls
from taskengine.errors import IssuerUnavailable
from taskengine.server import create_app
from taskengine.settings import Settings
from tests.auth.authorization_server import JWT_BEARER, AuthorizationServer, Key, authorization_server
from tests.auth.conftest import RESOURCE, Front
from tests.auth.tools import engine
from tests.server.peer import front_end, peer_of

BRIEF = {"auth_cache": timedelta(milliseconds=1)}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(keys, "PAUSE_S", 0.0)
    monkeypatch.setattr(server, "PAUSE_S", 0.0)


async def answer_to(front: Front, token: str) -> int:
    http = await front.http(token)
    status = (await http.post(front.running.url, json={})).status_code
    return 200 if status == 400 else status


def test_where_metadata_is_looked_for() -> None:
    """RFC 8414, 3.1; OpenID Connect Discovery 1.0, 4.1."""
    assert metadata_urls("https://login.example/realms/one") == [
        "https://login.example/.well-known/oauth-authorization-server/realms/one",
        "https://login.example/.well-known/openid-configuration/realms/one",
        "https://login.example/realms/one/.well-known/openid-configuration",
    ]
    assert metadata_urls("https://login.example/") == [
        "https://login.example/.well-known/oauth-authorization-server",
        "https://login.example/.well-known/openid-configuration",
    ]


@pytest.mark.usefixtures("impatient")
async def test_either_kind_of_metadata_will_do(front: Front, issuer: AuthorizationServer, settings: Settings) -> None:
    for kind in ("oauth", "openid-inserted", "openid"):
        issuer.discovery = (kind,)
        async with front_end(create_app(engine, settings), settings.path) as running, peer_of(running) as peer:
            peer.http.headers["authorization"] = f"Bearer {issuer.token(aud=RESOURCE)}"
            assert (await peer.send("tools/list")).status == 200, kind
    issuer.discovery = ()
    assert await answer_to(front, issuer.token(aud=RESOURCE)) == 503


@pytest.mark.usefixtures("impatient")
async def test_metadata_that_names_another_issuer_is_none(front: Front, issuer: AuthorizationServer) -> None:
    issuer.metadata = {"issuer": "https://other.example"}
    token = issuer.token(aud=RESOURCE)
    assert await answer_to(front, token) == 503
    assert issuer.count("/jwks") == 0
    issuer.metadata = {"jwks_uri": "file:///etc/passwd", "introspection_endpoint": None}
    assert await answer_to(front, token) == 503
    issuer.metadata = {"jwks_uri": "http://tools.example.invalid/jwks"}
    assert await answer_to(front, token) == 503, "no TLS, and not on this machine"
    issuer.metadata = {}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("further", [BRIEF])
async def test_a_new_key_is_found_and_an_old_one_is_forgotten(front: Front, issuer: AuthorizationServer) -> None:
    before = issuer.token(aud=RESOURCE)
    assert await answer_to(front, before) == 200
    issuer.rotate()
    assert await answer_to(front, issuer.token(aud=RESOURCE)) == 200
    assert await answer_to(front, before) == 401, "its key is not published any more"
    both = [Key.make("EdDSA"), Key.make("RS256")]
    issuer.keys = both
    assert [await answer_to(front, issuer.token(key=key, aud=RESOURCE)) for key in both] == [200, 200]


async def test_unknown_key_ids_do_not_make_us_ask_again_and_again(front: Front, issuer: AuthorizationServer) -> None:
    """Anybody can make them up."""
    assert await answer_to(front, issuer.token(aud=RESOURCE)) == 200
    assert issuer.count("/jwks") == 1
    for _ in range(20):
        assert await answer_to(front, issuer.token(key=Key.make(), aud=RESOURCE)) == 401
    assert issuer.count("/jwks") <= 2
    assert len(issuer.requests) <= 3


@pytest.mark.parametrize("further", [BRIEF])
async def test_while_the_issuer_is_away_the_keys_at_hand_serve(front: Front, issuer: AuthorizationServer) -> None:
    assert await answer_to(front, issuer.token(aud=RESOURCE)) == 200
    issuer.broken = True
    assert await answer_to(front, issuer.token(aud=RESOURCE)) == 200
    assert await answer_to(front, issuer.token(aud=RESOURCE, sub="bob")) == 200


@pytest.mark.usefixtures("impatient")
async def test_what_cannot_be_checked_now_is_neither_good_nor_bad(front: Front, issuer: AuthorizationServer) -> None:
    """503, and good again as soon as the issuer is."""
    issuer.broken = True
    token = issuer.token(aud=RESOURCE)
    http = await front.http(token)
    answer = await http.post(front.running.url, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "www-authenticate" not in answer.headers
    issuer.broken = False
    assert await front.status(token) == 200


async def test_keys_are_fetched_without_holding_up_others(front: Front, issuer: AuthorizationServer) -> None:
    issuer.hold = asyncio.Event()
    waiting = asyncio.create_task(answer_to(front, issuer.token(aud=RESOURCE)))
    while not issuer.requests:
        await asyncio.sleep(0.01)
    http = await front.http()
    assert (await http.get(f"{front.running.base}/healthz")).status_code == 200
    assert (await http.post(front.running.url, json={})).status_code == 401
    assert not waiting.done()
    issuer.hold.set()
    assert await waiting == 200


async def test_several_issuers_each_with_its_own_keys(settings: Settings, issuer: AuthorizationServer) -> None:
    async with authorization_server("/realms/other") as other, authorization_server("") as third:
        third.issuer = third.issuer.rstrip("/")
        both = settings.model_copy(update={"auth_issuers": [Issuer(issuer=issuer.issuer), Issuer(issuer=other.issuer)]})
        async with front_end(create_app(engine, both), settings.path) as running, peer_of(running) as peer:
            place = f"{running.base}/.well-known/oauth-protected-resource"
            assert (await peer.http.get(place)).json()["authorization_servers"] == [issuer.issuer, other.issuer]
            found: list[int] = []
            for token in (
                issuer.token(aud=RESOURCE),
                other.token(aud=RESOURCE),
                other.token(aud=RESOURCE, iss=issuer.issuer),
                third.token(aud=RESOURCE),
            ):
                peer.http.headers["authorization"] = f"Bearer {token}"
                found.append((await peer.http.post(peer.url, json={})).status_code)
            assert [status == 401 for status in found] == [False, False, True, True]


@pytest.mark.parametrize(
    "grant",
    [
        {"grant_type": "client_credentials", "client_id": "nightly", "client_secret": "x"},
        {"grant_type": JWT_BEARER, "client_id": "desktop"},
    ],
    ids=["client_credentials", "enterprise_managed"],
)
async def test_tokens_are_taken_however_their_client_came_by_them(
    front: Front, issuer: AuthorizationServer, grant: dict[str, Any]
) -> None:
    """SEP-1046 (a client for itself) and SEP-990 (by the identity provider of an enterprise)."""
    assertion = {"assertion": issuer.token(sub="eve@corp.example", aud=issuer.issuer)}
    http = await front.http()
    form = {**grant, **assertion, "resource": RESOURCE, "scope": "tools:call"}
    token = (await http.post(f"{issuer.issuer}/token", data=form)).json()["access_token"]
    peer = await front.modern(token)
    said = (await peer.call("who_direct")).result["structuredContent"]
    who = "nightly" if grant["grant_type"] == "client_credentials" else "eve@corp.example"
    assert (said["subject"], said["client"]) == (who, grant["client_id"])
    assert (await peer.call("who", tasks=True)).result["taskId"]


OPAQUE = {"client_id": "engine", "client_secret": "s3cret/%"}


@pytest.mark.parametrize(("config", "further"), [(OPAQUE, BRIEF)])
@pytest.mark.usefixtures("impatient")
async def test_opaque_tokens_are_introspected(
    front: Front, issuer: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.opaque(aud=RESOURCE)
    peer = await front.modern(token)
    said = (await peer.call("who_direct")).result["structuredContent"]
    assert (said["issuer"], said["subject"], said["client"]) == (issuer.issuer, "ann", "app")
    assert issuer.count("/introspect") >= 1
    del issuer.active[token]
    assert await answer_to(front, token) == 401, "revoked, and not remembered for longer than auth_cache"
    for wrong in (
        issuer.opaque(aud=None),
        issuer.opaque(aud="https://other.example"),
        issuer.opaque(aud=RESOURCE, active="true"),
        issuer.opaque(aud=RESOURCE, active=1),
        issuer.opaque(aud=RESOURCE, lasts_s=-1),
        issuer.opaque(aud=RESOURCE, iss="https://other.example"),
        issuer.opaque(aud=RESOURCE, sub=None, client_id=None),
        issuer.opaque(aud=RESOURCE, token_type="DPoP"),
        issuer.opaque(aud=RESOURCE, exp="soon"),
        "never-issued",
    ):
        assert await answer_to(front, wrong) == 401
    assert await answer_to(front, issuer.opaque(aud=RESOURCE, lasts_s=None)) == 200
    issuer.broken = True
    assert await answer_to(front, issuer.opaque(aud=RESOURCE)) == 503
    issuer.broken = False
    issuer.introspection_client = ("engine", "changed")
    assert await answer_to(front, issuer.opaque(aud=RESOURCE)) == 503, "it does not know us: nobody's token is bad"


@pytest.mark.parametrize("config", [OPAQUE])
async def test_what_introspection_said_is_remembered_for_a_while(front: Front, issuer: AuthorizationServer) -> None:
    good, bad = issuer.opaque(aud=RESOURCE), "never-issued"
    for _ in range(5):
        assert await answer_to(front, good) == 200
        assert await answer_to(front, bad) == 401
    assert issuer.count("/introspect") == 2


@pytest.mark.parametrize(("config", "further"), [({**OPAQUE, "introspect": "all"}, BRIEF)])
async def test_signed_tokens_may_be_introspected_too(front: Front, issuer: AuthorizationServer) -> None:
    """So that one that is revoked ends before it expires."""
    token = issuer.token(aud=RESOURCE)
    assert await answer_to(front, token) == 401
    token = issuer.token(aud=RESOURCE)
    issuer.active[token] = {"active": True, "sub": "ann", "aud": RESOURCE}
    assert await answer_to(front, token) == 200
    assert issuer.count("/jwks") == 0
    issuer.active[token] = {"active": False}
    assert await answer_to(front, token) == 401


async def test_without_a_name_of_ours_opaque_tokens_are_refused(front: Front, issuer: AuthorizationServer) -> None:
    assert await answer_to(front, issuer.opaque(aud=RESOURCE)) == 401
    assert issuer.requests == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("address", ["https://[x", "http://[::1", "https://a]b/", "//[", 7, ["https://x"]])
async def test_an_address_that_is_none_makes_its_issuer_unavailable(
    front: Front, issuer: AuthorizationServer, address: Any
) -> None:
    issuer.metadata = {"jwks_uri": address, "introspection_endpoint": address}
    token = issuer.token(aud=RESOURCE)
    assert await answer_to(front, token) == 503
    issuer.metadata = {}
    assert await answer_to(front, token) == 200


async def test_keys_that_cannot_be_fetched_for_whatever_reason_make_their_issuer_unavailable() -> None:
    async def fetch() -> dict[str, Any]:
        raise RuntimeError("nobody foresaw this")

    known = keys.KeySet("https://login.example", fetch)
    for _ in range(2):
        with pytest.raises(IssuerUnavailable, match="RuntimeError"):
            await known.candidates("a", "ES256")
    await known.close()


async def test_an_answer_that_comes_drop_by_drop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is there in time, the whole never is."""
    monkeypatch.setattr(fetch, "LONGEST_S", 2.0)
    gone = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        gone.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as dripping:
        port = dripping.sockets[0].getsockname()[1]
        fetcher = fetch.Fetcher(insecure=False)
        async with asyncio.timeout(30):
            with pytest.raises(IssuerUnavailable, match="TimeoutError"):
                await fetcher.get(f"http://127.0.0.1:{port}/jwks")
            await fetcher.close()
            await gone.wait()
