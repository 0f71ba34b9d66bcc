"""What reads bytes of a client before anything else is known of it, each as a function that bytes are thrown at.

It may refuse them by the error that its docstring names. Anything else that comes out of here is a fault: another
exception, an answer that breaks its own rule, and, for `coverage.py`, more time than a request may cost.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pydantic import SecretStr

from taskengine import TaskEngine
from taskengine.auth.claims import check_audience, check_kind, expiry_of, identity_of
from taskengine.auth.config import Issuer, canonical_uri
from taskengine.auth.tokens import check_header, read_unverified
from taskengine.durations import describe, parse_duration
from taskengine.errors import TokenRefused, Unreadable
from taskengine.schema import HeaderParameter
from taskengine.server.authorization import Guard, _operations
from taskengine.server.caller import LONGEST_PATIENCE, patience_of
from taskengine.server.checks import Refusal, check_headers, check_hosts
from taskengine.server.ids import is_task_id
from taskengine.server.legacy.streams import read_place
from taskengine.server.legacy.tokens import Tokens
from taskengine.server.request_state import Sealer, canonical
from taskengine.settings import Settings
from taskengine.store.sealing import MARK, Sealing, key_id
from taskengine.wire import handshake, legacy, meta, modern, selection
from taskengine.wire.headers import Headers, check_parameters, check_routing, values
from taskengine.wire.jsonrpc import Batch, Message, Request, RpcError, dumps, error_response, id_of, parse

__all__ = ["PARSERS", "SEEDS"]

KEY = bytes(range(32))
ISSUER = Issuer(issuer="https://login.example")
AUDIENCE = "https://tools.example/mcp"
PARAMETERS = [
    HeaderParameter("Text", ("text",), "string"),
    HeaderParameter("Number", ("deep", "number"), "integer"),
    HeaderParameter("Flag", ("flag",), "boolean"),
]
_SETTINGS = Settings(secret=SecretStr("s" * 32), auth_tokens=[SecretStr("t" * 40 + ":ann")])
_GUARD = Guard(TaskEngine("fuzzed"), _SETTINGS)


async def _no_secret() -> bytes:
    raise AssertionError("the settings have one")


_TOKENS = Tokens(Sealer(_SETTINGS, _no_secret))
asyncio.run(_TOKENS.prepare())
_STREAM = _TOKENS.seal("call", s="session", t="tsk_1")
_SEALING = Sealing([KEY])


def body(data: bytes) -> None:
    """A message, and what is read of it before its method is known."""
    try:
        message = parse(data)
    except Batch as batch:
        selection.may_be_batch(batch.values, [modern.VERSION])
        list(_operations(batch, "POST"))
        return
    except RpcError as error:
        dumps(error_response(id_of(error), error))
        return
    selection.select(message, [])
    list(_operations(message, "POST"))
    if isinstance(message, Request):
        again = {"jsonrpc": "2.0", "id": message.id, "method": message.method, "params": message.params}
        assert _as_text(parse(dumps(again))) == _as_text(message)
        _members(message)


def _members(request: Request) -> None:
    params = request.params or {}
    for read in (
        lambda: modern.read_envelope(request),
        lambda: handshake.read_capabilities(handshake.LATEST, handshake.read_initialize(request)[1]),
        lambda: legacy.progress_token(params),
        lambda: legacy.read_level(params),
        lambda: legacy.read_augmentation(params),
        lambda: legacy.read_refusal("sampling/createMessage", params),
        lambda: meta.priority(params, 0, -100, 100),
        lambda: check_routing(Headers([(b"mcp-method", b"x")]), request, modern.VERSION),
        lambda: check_parameters(Headers([(b"mcp-param-number", b"1")]), PARAMETERS, params),
    ):
        with suppress(RpcError):
            read()
    trace = meta.traceparent(params, None)
    assert trace is None or len(trace) <= meta.LONGEST_KEY
    with suppress(RpcError):
        key = meta.idempotency_key(params, None)
        assert key is None or 0 < len(key) <= meta.LONGEST_KEY


def headers(data: bytes) -> None:
    """One a line, as name and value; the first line is what the body has of them."""
    first, *lines = data.split(b"\n")
    pairs = Headers((name, value) for name, _, value in (line.partition(b":") for line in lines))
    text = first.decode("utf-8", "replace")
    request = Request(1, "tools/call", {"name": text})
    arguments = {"text": text, "deep": {"number": len(text)}, "flag": True}
    for check in (
        lambda: check_hosts(pairs, ["tools.example"]),
        lambda: check_headers(pairs, "POST"),
        lambda: check_headers(pairs, "GET"),
        lambda: check_routing(pairs, request, modern.VERSION),
        lambda: check_parameters(pairs, PARAMETERS, arguments),
        lambda: meta.idempotency_key({}, pairs),
        lambda: selection.select(request, values(pairs, "mcp-protocol-version")),
    ):
        with suppress(RpcError, Refusal):
            check()
    meta.traceparent(None, pairs)
    try:
        token = _GUARD._token(pairs)
    except Refusal as refusal:
        for name, value in refusal.headers:
            assert b"\n" not in name + value
            assert b"\r" not in name + value
    else:
        assert token.isascii()


def address(data: bytes) -> None:
    """What stands behind the question mark of the endpoint's address."""
    patience = patience_of(data)
    assert patience is None or timedelta(0) <= patience <= LONGEST_PATIENCE


def duration(data: bytes) -> None:
    with suppress(ValueError):
        read = parse_duration(data.decode("utf-8", "replace"))
        assert read >= timedelta(0)
        describe(read)


def bearer(data: bytes) -> None:
    """A token nobody has looked at, and one whose claims are the data."""
    unverified = read_unverified(data.decode("latin-1"))
    if unverified is not None:
        with suppress(TokenRefused):
            check_header(unverified, ISSUER)
    parts = [json.dumps({"alg": "RS256", "typ": "at+jwt"}).encode(), data, b"signature"]
    read_unverified(".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts))
    try:
        claims = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(claims, Mapping):
        _claims(claims)


def _claims(claims: Mapping[str, Any]) -> None:
    for check in (check_kind, lambda each: check_audience(each, [AUDIENCE])):
        with suppress(TokenRefused):
            check(claims)
    with suppress(TokenRefused):
        expires_at = expiry_of(claims)
        assert expires_at is None or math.isfinite(expires_at)
    with suppress(TokenRefused):
        who = identity_of(claims, ISSUER, ["email"])
        assert who.owner.isascii(), "an owner is a column, a lock and part of every log line"
        json.dumps(who.dump()).encode()


def uri(data: bytes) -> None:
    with suppress(ValueError):
        once = canonical_uri(data.decode("utf-8", "replace"))
        assert canonical_uri(once) == once


def given_back(data: bytes) -> None:
    """Ids, states and cursors that we gave out: nobody can have made one of ours from nothing."""
    text = data.decode("utf-8", "replace")
    assert is_task_id(text) <= text.isascii()
    with suppress(ValueError):
        canonical(text)
    for read in (
        lambda: _TOKENS.open(text, "session", "cursor", "question", ttl_s=60),
        lambda: read_place(_TOKENS, "session", text),
    ):
        try:
            read()
        except ValueError:
            continue
        raise AssertionError("it was taken for one of ours")


def place(data: bytes) -> None:
    """Where somebody says to stand in a stream of their own."""
    with suppress(ValueError):
        found = read_place(_TOKENS, "session", f"{_STREAM}.{data.decode('utf-8', 'replace')}")
        assert 0 <= found.position < 10**16
        assert found.progress is None or math.isfinite(found.progress)


def stored(data: bytes) -> None:
    """A text that somebody put into a sealed column."""
    text = data.decode("utf-8", "replace")
    for forged in (text, MARK + text, f"{MARK}{key_id(KEY)}:{text}"):
        with suppress(Unreadable):
            assert _SEALING.open("tsk_1", "result", forged) == forged, "it was taken for one that was sealed"


def _as_text(message: Message) -> str:
    return json.dumps([getattr(message, name) for name in ("id", "method", "params")])


PARSERS: Mapping[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (body, headers, address, duration, bearer, uri, given_back, place, stored)
}

_ENVELOPE = {modern.VERSION_KEY: modern.VERSION, modern.CAPABILITIES_KEY: {}, "progressToken": 1, "traceparent": "00"}
SEEDS: Mapping[str, list[bytes]] = {
    "body": [
        dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a", "_meta": _ENVELOPE}}),
        dumps({"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}),
        dumps([{"jsonrpc": "2.0", "method": "notifications/cancelled"}, {"jsonrpc": "2.0", "id": 1, "result": {}}]),
        b'{"jsonrpc":"2.0","id":1e400,"method":"\\ud800","params":{"task":{"ttl":1.5},"level":"info"}}',
    ],
    "headers": [
        b"name\nhost:localhost\norigin:http://localhost\ncontent-type:application/json\naccept:application/json;q=0.1",
        b"n\nmcp-protocol-version:2026-07-28\nmcp-method:tools/call\nmcp-name:=?base64?bg==?=\nmcp-param-Number:1.0",
        b'\nauthorization:Bearer a.b.c==\nidempotency-key:"k"\ntraceparent:00-1234-5678-01\nmcp-param-flag:true',
    ],
    "address": [b"inline_wait=100s", b"a=%31&inline_wait=1h30m&inline_wait=2", b"inline_wait=" + b"1" * 90],
    "duration": [b"1h30m", b"250ms", b"1.5 d", b"9" * 90 + b"w", "١s".encode()],
    "bearer": [
        b"eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUifQ.c2ln",
        dumps({"iss": ISSUER.issuer, "sub": "ann", "client_id": "a", "aud": [AUDIENCE], "exp": 1e9, "scope": "a b"}),
        b'{"sub":"\\ud800\\u0000","azp":"b","token_use":"access","exp":1e999,"scp":["a",1],"cnf":null}',
    ],
    "uri": [b"https://Tools.example:443/mcp/", b"http://[::1]:8000/?a=b", b"https://user@host", b"http://a/ /"],
    "given_back": [b"tsk_AbC-123", _STREAM[:-4].encode(), f"{_STREAM[:-4]}.1.a1.".encode()],
    "place": [b"12.a1.0_5", b"0.b2..question", "١٢.c3.1e308".encode()],
    "stored": [b"{}", b"3f9a01c2:AAAA", base64.b64encode(bytes(28))],
}
