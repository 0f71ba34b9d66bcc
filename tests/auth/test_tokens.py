"""Which signed tokens are taken, and which are not (X-AUTH-04, X-AUTH-11)."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from taskengine.auth import keys
from tests.auth.authorization_server import AuthorizationServer, Key, authorization_server, tampered
from tests.auth.conftest import RESOURCE, Front


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that a test changes are fetched at once."""
    monkeypatch.setattr(keys, "PAUSE_S", 0.0)


async def refused(front: Front, token: str) -> tuple[int, str]:
    """The status and the reason."""
    http = await front.http(token)
    answer = await http.post(front.running.url, json={})
    challenge = answer.headers.get("www-authenticate", "")
    assert token not in answer.text + challenge
    return answer.status_code, challenge.partition('error_description="')[2].partition('"')[0]


ELSEWHERE: list[Any] = [
    None,
    "",
    [],
    "https://other.example/mcp",
    "https://tools.example",
    "https://tools.example/mcp/other",
    "https://tools.example.evil.example/mcp",
    "http://tools.example/mcp",
    ["https://other.example"],
    {"aud": RESOURCE},
    [[RESOURCE]],
    5,
]
WRITTEN_OTHERWISE = ["https://TOOLS.example:443/mcp", "HTTPS://tools.example/mcp/"]
KEY_IDS: list[Any] = [
    "../../etc/passwd",
    "' OR 1=1 --",
    "\x00",
    "",
    "x" * 2000,
    5,
    {"a": 1},
    ["k"],
    "http://evil.example/k",
]
NO_ACCESS_TOKENS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"typ": "logout+jwt"}, {}),
    ({"typ": "dpop+jwt"}, {}),
    ({"crit": ["exp"]}, {}),
    ({}, {"typ": "ID"}),
    ({}, {"typ": "Refresh"}),
    ({}, {"token_use": "id"}),
    ({}, {"token_type": "refresh_token"}),
    ({}, {"at_hash": "x"}),
    ({}, {"cnf": {"jkt": "x"}}),
    ({}, {"sub": None, "client_id": None}),
    ({}, {"sub": "x" * 2000}),
]


async def test_a_token_of_the_issuer_for_this_server_is_taken(front: Front, issuer: AuthorizationServer) -> None:
    for algorithm in ("RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"):
        issuer.rotate(algorithm)
        assert await front.status(issuer.token(aud=RESOURCE)) == 200, algorithm
    assert await front.status(issuer.token(aud=["https://other.example", RESOURCE])) == 200


async def test_a_token_for_another_server_is_refused(front: Front, issuer: AuthorizationServer) -> None:
    """X-AUTH-11: what a client may do elsewhere it may not do here."""
    for audience in ELSEWHERE:
        status, reason = await refused(front, issuer.token(aud=audience))
        assert (status, "not issued for this server" in reason) == (401, True), audience


async def test_the_address_may_be_written_in_other_ways(front: Front, issuer: AuthorizationServer) -> None:
    """X-AUTH-18."""
    for audience in WRITTEN_OTHERWISE:
        assert await front.status(issuer.token(aud=audience)) == 200, audience


@pytest.mark.parametrize("config", [{"audiences": ["api://engine"]}])
async def test_names_that_the_settings_give_count_as_the_address(front: Front, issuer: AuthorizationServer) -> None:
    assert await front.status(issuer.token(aud="api://engine")) == 200
    assert await front.status(issuer.token(aud=RESOURCE)) == 200
    assert (await refused(front, issuer.token(aud="api://other")))[0] == 401


async def test_a_token_of_another_issuer_is_refused_and_nobody_is_asked(
    front: Front, issuer: AuthorizationServer
) -> None:
    async with authorization_server() as other:
        for token in (
            other.token(aud=RESOURCE),
            other.token(aud=RESOURCE, iss=issuer.issuer),  # its name, and another key
            issuer.token(aud=RESOURCE, iss=f"{issuer.issuer}/"),
            issuer.token(aud=RESOURCE, iss=issuer.issuer.upper()),
            issuer.token(aud=RESOURCE, iss=None),
        ):
            assert (await refused(front, token))[0] == 401
        assert other.requests == []


async def test_time_is_looked_at(front: Front, issuer: AuthorizationServer) -> None:
    now = int(time.time())
    wrong = {
        "has expired": {"exp": now - 1},
        "is not valid yet": {"nbf": now + 60},
        "has no exp": {"exp": None},
        "cannot be read": {"exp": "soon"},
    }
    for reason, claims in wrong.items():
        status, said = await refused(front, issuer.token(aud=RESOURCE, **claims))
        assert (status, reason in said) == (401, True), said
    for odd in (float("inf"), float("nan"), 10**400, [], {}, True):
        assert (await refused(front, issuer.token(aud=RESOURCE, exp=odd)))[0] == 401
    assert (await refused(front, issuer.token(aud=RESOURCE, iat=now + 600)))[0] == 401
    assert await front.status(issuer.token(aud=RESOURCE, exp=4 * 10**9)) == 200


async def test_a_token_that_was_taken_is_refused_once_it_has_expired(front: Front, issuer: AuthorizationServer) -> None:
    token = issuer.token(aud=RESOURCE, lasts_s=2)
    assert await front.status(token) == 200
    async with asyncio.timeout(10):
        while (await refused(front, token))[0] != 401:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("further", [{"auth_leeway": timedelta(minutes=1)}])
async def test_clocks_may_be_off_by_the_leeway(front: Front, issuer: AuthorizationServer) -> None:
    now = int(time.time())
    assert await front.status(issuer.token(aud=RESOURCE, exp=now - 20)) == 200
    assert await front.status(issuer.token(aud=RESOURCE, nbf=now + 20, iat=now + 20)) == 200
    assert (await refused(front, issuer.token(aud=RESOURCE, exp=now - 90)))[0] == 401
    assert (await refused(front, issuer.token(aud=RESOURCE, nbf=now + 90)))[0] == 401


async def test_an_algorithm_that_needs_no_private_key_is_refused(front: Front, issuer: AuthorizationServer) -> None:
    """`none`, and the public key taken for a shared secret (RFC 8725, 2.1)."""
    key = Key.make("RS256")
    issuer.keys = [key]
    good = issuer.token(aud=RESOURCE)
    claims = jwt.decode(good, options={"verify_signature": False})
    public = key.private.public_key()
    texts = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(key.published).encode(),
    ]
    forged = [_hmac(claims, secret, key.kid, algorithm) for secret in texts for algorithm in ("HS256", "HS512")]
    head = {"typ": "at+jwt", "kid": key.kid}
    for name in ("none", "None", "NONE", "nOnE", ""):
        body = _part({**head, "alg": name}) + "." + _part(claims)
        forged += [f"{body}.", f"{body}.{good.rpartition('.')[2]}"]
    for token in forged:
        assert (await refused(front, token))[0] in {400, 401}
    assert await front.status(good) == 200


async def test_a_key_signs_with_its_own_algorithm_only(front: Front, issuer: AuthorizationServer) -> None:
    key = Key.make("RS256")
    issuer.keys = [key]
    assert (await refused(front, issuer.token(aud=RESOURCE, algorithm="RS512")))[0] == 401
    assert (await refused(front, issuer.token(aud=RESOURCE, algorithm="PS256")))[0] == 401
    assert await front.status(issuer.token(aud=RESOURCE)) == 200


@pytest.mark.parametrize("config", [{"algorithms": ["ES256"]}])
async def test_the_settings_may_allow_fewer_algorithms(front: Front, issuer: AuthorizationServer) -> None:
    ours, other = issuer.keys[0], Key.make("EdDSA")
    issuer.keys = [ours, other]
    assert await front.status(issuer.token(aud=RESOURCE)) == 200
    assert "algorithm" in (await refused(front, issuer.token(aud=RESOURCE, key=other)))[1]


async def test_a_changed_token_is_refused(front: Front, issuer: AuthorizationServer) -> None:
    token = issuer.token(aud=RESOURCE)
    head, body, signature = token.split(".")
    flipped = signature[:-6] + ("A" if signature[-6] != "A" else "B") + signature[-5:]
    for wrong in (
        tampered(token, sub="root"),
        tampered(token, scope="admin"),
        f"{head}.{body}.{flipped}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.",
        f"{body}.{head}.{signature}",
        "..",
        "a.b.c",
        "e30.e30.e30",
    ):
        assert (await refused(front, wrong))[0] in {400, 401}, wrong
    assert await front.status(token) == 200


async def test_where_a_token_says_its_key_is_counts_for_nothing(front: Front, issuer: AuthorizationServer) -> None:
    """`jku`, `x5u`, `jwk` and `x5c` are whoever signed's to write, and no address in a token is ever fetched."""
    own = Key.make("ES256")
    async with authorization_server() as evil:
        evil.keys = [own]
        places = [
            {"jku": f"{evil.issuer}/jwks"},
            {"x5u": f"{evil.issuer}/jwks"},
            {"jwk": own.published},
            {"x5c": [base64.b64encode(b"certificate").decode()]},
        ]
        for place in places:
            for kid in (own.kid, issuer.keys[0].kid, None):
                token = issuer.token(key=own, aud=RESOURCE, header={**place, "kid": kid})
                assert (await refused(front, token))[0] == 401
            assert await front.status(issuer.token(aud=RESOURCE, header=place)) == 200
        assert evil.requests == []


async def test_a_strange_key_id_finds_no_key(front: Front, issuer: AuthorizationServer) -> None:
    other = Key.make("ES256")
    for kid in KEY_IDS:
        token = _signed(other, {"kid": kid, "typ": "JWT"}, issuer.token(aud=RESOURCE))
        assert (await refused(front, token))[0] == 401, kid


async def test_a_token_without_key_id_is_checked_with_the_keys_that_fit(
    front: Front, issuer: AuthorizationServer
) -> None:
    issuer.keys = [Key.make("RS256"), Key.make("ES256"), Key.make("ES256")]
    assert await front.status(issuer.token(key=issuer.keys[2], aud=RESOURCE, header={"kid": None})) == 200


async def test_a_key_that_is_not_for_signatures_checks_none(front: Front, issuer: AuthorizationServer) -> None:
    for member in ({"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "ES512"}, {"kty": "oct"}):
        issuer.keys = [Key.make("ES256", **member)]
        assert (await refused(front, issuer.token(aud=RESOURCE)))[0] == 401, member
    issuer.rotate()
    assert await front.status(issuer.token(aud=RESOURCE)) == 200


async def test_a_short_key_checks_none(front: Front, issuer: AuthorizationServer) -> None:
    issuer.keys = [Key.make("RS256", bits=1024)]
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = issuer.token(aud=RESOURCE)
    assert (await refused(front, token))[0] == 401


async def test_what_is_no_bearer_access_token_is_refused(front: Front, issuer: AuthorizationServer) -> None:
    for header, claims in NO_ACCESS_TOKENS:
        token = issuer.token(aud=RESOURCE, header=header, **claims)
        assert (await refused(front, token))[0] == 401, (header, claims)


async def test_a_token_that_is_too_long_is_refused_before_it_is_read(front: Front, issuer: AuthorizationServer) -> None:
    status, reason = await refused(front, issuer.token(aud=RESOURCE, padding="x" * 16_000))
    assert (status, "characters" in reason) == (401, True)
    assert issuer.requests == []


async def test_a_deeply_nested_token_is_refused(front: Front, issuer: AuthorizationServer) -> None:
    nested = "[" * 5000 + "]" * 5000
    token = f"{_part({'alg': 'ES256', 'typ': 'JWT'})}.{_raw(nested)}.{_raw('x')}"
    assert (await refused(front, token))[0] == 401


async def test_many_at_once_with_the_same_token_are_checked_once(front: Front, issuer: AuthorizationServer) -> None:
    token = issuer.token(aud=RESOURCE)
    http = await front.http(token)
    issuer.hold = asyncio.Event()
    asked = [asyncio.create_task(http.post(front.running.url, json={})) for _ in range(20)]
    while not issuer.requests:
        await asyncio.sleep(0.01)
    asked[0].cancel()  # whoever gives up does not end it for the others
    issuer.hold.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    statuses = {answer.status_code for answer in answers if isinstance(answer, httpx2.Response)}
    assert 401 not in statuses
    assert len(statuses) == 1
    assert issuer.count("/jwks") == 1


def _part(value: dict[str, Any]) -> str:
    return _raw(json.dumps(value))


def _raw(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _hmac(claims: dict[str, Any], secret: bytes, kid: str, algorithm: str) -> str:
    """Signed with what everybody can read. PyJWT refuses to do it, so it is done by hand."""
    body = f"{_part({'alg': algorithm, 'kid': kid, 'typ': 'at+jwt'})}.{_part(claims)}"
    signature = hmac.digest(secret, body.encode(), f"sha{algorithm[2:]}")
    return f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _signed(key: Key, header: dict[str, Any], like: str) -> str:
    """Any header, under a signature that is good for it."""
    claims = like.split(".")[1]
    body = f"{_part({'alg': key.algorithm, **header})}.{claims}"
    signer = jwt.get_algorithm_by_name(key.algorithm)
    signature = signer.sign(body.encode(), key.private)
    return f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
