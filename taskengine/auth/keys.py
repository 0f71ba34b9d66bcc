"""The public keys of one issuer: fetched when needed, renewed in the background, found again after a rotation."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from jwt import PyJWK
from jwt.exceptions import InvalidKeyError, PyJWTError

from taskengine.errors import IssuerUnavailable

__all__ = ["KeySet", "fitting"]

logger = logging.getLogger("taskengine.auth")

FRESH_S = 600.0
"""Older keys are fetched again, while those at hand still serve."""
STALE_S = 86_400.0
"""The longest that keys serve while their issuer cannot be asked."""
PAUSE_S = 5.0
"""The least time between two fetches, whatever tokens come: an unknown key id is anybody's to write."""
MOST_KEYS = 100
MOST_TRIED = 4
"""Keys tried for a token that names none."""
LEAST_RSA_BITS = 2048

_KINDS: dict[str, tuple[str, frozenset[str]]] = {
    "ES256": ("EC", frozenset({"P-256"})),
    "ES384": ("EC", frozenset({"P-384"})),
    "ES512": ("EC", frozenset({"P-521"})),
    "EdDSA": ("OKP", frozenset({"Ed25519", "Ed448"})),
}


def fitting(key: Mapping[str, Any], algorithm: str) -> bool:
    """Whether a key of a JWK set may check signatures of this algorithm, by all it says of itself (RFC 7517, 4)."""
    kind, curves = _KINDS.get(algorithm, ("RSA", frozenset()))
    operations = key.get("key_ops", ["verify"])
    return (
        key.get("kty") == kind
        and (not curves or key.get("crv") in curves)
        and key.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and key.get("alg", algorithm) == algorithm
    )


class KeySet:
    def __init__(self, issuer: str, fetch: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """`fetch` gives the JWK set. Raises IssuerUnavailable."""
        self._issuer = issuer
        self._fetch = fetch
        self._keys: list[dict[str, Any]] = []
        self._made: dict[tuple[int, str], PyJWK | None] = {}
        self._got_at = self._tried_at = -float("inf")
        self._trouble: IssuerUnavailable | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def candidates(self, kid: str | None, algorithm: str) -> list[PyJWK]:
        """The keys that may have signed a token; none when its issuer has no such key.

        An unknown key id makes the keys be fetched again, but not more often than every `PAUSE_S`. Raises
        IssuerUnavailable when that is needed and fails.
        """
        age = time.monotonic() - self._got_at
        if age > STALE_S:
            await self._renew()
        elif age > FRESH_S and self._may_try:
            self._begin()  # a failure is told by what needs it
        found = self._find(kid, algorithm)
        if not found and (self._may_try or self._fetching is not None):
            await self._renew()
            found = self._find(kid, algorithm)
        if not found and self._trouble is not None:
            raise self._trouble
        return found

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    @property
    def _may_try(self) -> bool:
        return time.monotonic() - self._tried_at >= PAUSE_S

    def _find(self, kid: str | None, algorithm: str) -> list[PyJWK]:
        places = [
            place
            for place, key in enumerate(self._keys)
            if fitting(key, algorithm) and (kid is None or key.get("kid") == kid)
        ]
        made = [self._make(place, algorithm) for place in places[:MOST_TRIED]]
        return [key for key in made if key is not None]

    def _make(self, place: int, algorithm: str) -> PyJWK | None:
        if (place, algorithm) not in self._made:
            try:
                self._made[place, algorithm] = _made(self._keys[place], algorithm)
            except (PyJWTError, ValueError, TypeError) as error:
                logger.warning("a key of %s is left out: %s", self._issuer, type(error).__name__)
                self._made[place, algorithm] = None
        return self._made[place, algorithm]

    async def _renew(self) -> None:
        """Fetch, or wait for whoever fetches. Raises IssuerUnavailable, also shortly after a fetch that failed."""
        if self._fetching is None and not self._may_try:
            if self._trouble is not None:
                raise self._trouble
            return
        await asyncio.shield(self._begin())
        if self._trouble is not None:
            raise self._trouble

    def _begin(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried_at = time.monotonic()
            self._fetching = asyncio.create_task(self._load())
        return self._fetching

    async def _load(self) -> None:
        try:
            self._keys, self._made = _keys_of(self._issuer, await self._fetch()), {}
            self._got_at, self._trouble = time.monotonic(), None
            logger.info("%d keys of %s read", len(self._keys), self._issuer)
        except IssuerUnavailable as error:
            self._trouble = error
            logger.warning("%s", error)
        except Exception as error:  # whatever it is, a token can be called neither good nor bad
            self._trouble = IssuerUnavailable(self._issuer, type(error).__name__)
            logger.exception("the keys of %s cannot be read", self._issuer)
        finally:
            self._fetching = None


def _keys_of(issuer: str, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = document.get("keys")
    keys = [key for key in found if isinstance(key, dict)] if isinstance(found, list) else []
    if not keys:
        raise IssuerUnavailable(issuer, "it publishes no keys")
    return keys[:MOST_KEYS]


def _made(key: dict[str, Any], algorithm: str) -> PyJWK:
    """Raises PyJWTError, ValueError and TypeError for a key that cannot be read or is too weak."""
    found = PyJWK(key, algorithm)
    if algorithm[:2] in {"RS", "PS"} and found.key.key_size < LEAST_RSA_BITS:
        raise InvalidKeyError("too short")
    return found
