"""What is remembered of tokens and keys: for how long, and how much."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from taskengine.auth import keys, verifier
from taskengine.auth.config import Issuer
from taskengine.auth.keys import KeySet
from taskengine.auth.scopes import ScopeRules
from taskengine.auth.verifier import Verifier
from taskengine.errors import IssuerUnavailable, TokenRefused
from tests.auth.authorization_server import AuthorizationServer, Key
from tests.auth.conftest import RESOURCE


class Published:
    """Keys of an issuer that can be told to be away."""

    def __init__(self) -> None:
        self.keys = [Key.make()]
        self.fetched = 0
        self.away = False

    async def fetch(self) -> Mapping[str, Any]:
        self.fetched += 1
        if self.away:
            raise IssuerUnavailable("https://login.example", "it is away")
        return {"keys": [key.published for key in self.keys]}

    async def settled(self, fetched: int) -> None:
        async with asyncio.timeout(5):
            while self.fetched < fetched:
                await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_old_keys_serve_while_they_are_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    published = Published()
    key_set = KeySet("https://login.example", published.fetch)
    kid = published.keys[0].kid
    assert len(await key_set.candidates(kid, "ES256")) == 1
    monkeypatch.setattr(keys, "PAUSE_S", 0.0)
    monkeypatch.setattr(keys, "FRESH_S", 0.0)
    published.away = True
    assert len(await key_set.candidates(kid, "ES256")) == 1
    await published.settled(2)
    assert len(await key_set.candidates(kid, "ES256")) == 1, "a failure costs nothing yet"
    published.away, published.keys = False, [Key.make()]
    await published.settled(3)
    await key_set.candidates(kid, "ES256")
    await published.settled(4)
    assert await key_set.candidates(kid, "ES256") == []
    assert len(await key_set.candidates(published.keys[0].kid, "ES256")) == 1
    await key_set.close()


async def test_keys_are_not_trusted_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """An issuer that cannot be asked may have withdrawn them."""
    published = Published()
    key_set = KeySet("https://login.example", published.fetch)
    kid = published.keys[0].kid
    assert await key_set.candidates(kid, "ES256")
    monkeypatch.setattr(keys, "STALE_S", 0.0)
    monkeypatch.setattr(keys, "PAUSE_S", 0.0)
    published.away = True
    with pytest.raises(IssuerUnavailable):
        await key_set.candidates(kid, "ES256")
    published.away = False
    assert await key_set.candidates(kid, "ES256")
    await key_set.close()


async def test_many_who_want_the_same_keys_fetch_them_once() -> None:
    published = Published()
    key_set = KeySet("https://login.example", published.fetch)
    kids = [published.keys[0].kid] * 50 + ["unknown"] * 50
    found = await asyncio.gather(*(key_set.candidates(kid, "ES256") for kid in kids))
    assert [len(each) for each in found] == [1] * 50 + [0] * 50
    assert published.fetched == 1


async def test_memory_for_tokens_is_bounded_and_bad_ones_push_out_no_good_one(
    issuer: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "MOST_KNOWN", 3)
    monkeypatch.setattr(verifier, "MOST_REFUSED", 4)
    checks = Verifier(
        [Issuer(issuer=issuer.issuer)],
        {},
        audience=RESOURCE,
        expand=ScopeRules({}, {}).expanded,
        kept_claims=(),
        leeway_s=0,
        cache_s=60,
        insecure=False,
    )
    good = [issuer.token(aud=RESOURCE, jti=str(number)) for number in range(5)]
    for token in good:
        assert (await checks.verify(token)).identity.subject == "ann"
    assert [checks.known(token) is not None for token in good] == [False, False, True, True, True]
    for number in range(10):
        with pytest.raises(TokenRefused):
            await checks.verify(issuer.token(aud="https://other.example", jti=str(number)))
    assert checks.known(good[4]) is not None
    assert len(checks._refused) == 4
    assert all(isinstance(key, bytes) and len(key) == 32 for key in [*checks._known, *checks._refused])
    assert checks._checking == {}
    await checks.close()
