"""From a token to whom it speaks for: checked once, then remembered by its digest for as long as that may be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from taskengine.auth.claims import check_audience, check_kind, expiry_of, identity_of
from taskengine.auth.config import Issuer
from taskengine.auth.fetch import Fetcher
from taskengine.auth.introspection import introspect
from taskengine.auth.server import AuthorizationServer
from taskengine.auth.static import StaticToken, digest
from taskengine.auth.tokens import check_header, check_signed, read_unverified
from taskengine.errors import IssuerUnavailable, TokenRefused
from taskengine.identity import Identity

__all__ = ["Verified", "Verifier"]

logger = logging.getLogger("taskengine.auth")

MOST_KNOWN = 20_000
MOST_REFUSED = 5_000
"""Kept apart, so that a flood of bad tokens does not push out the good ones."""
REFUSED_S = 5.0
LONGEST_TOKEN = 16_384
AT_ONCE = 32
"""Introspections that are under way at a time."""
MOST_WAITING = 1_000
"""Those that wait for their turn, too."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found out of a token."""

    identity: Identity
    owner: str
    scopes: frozenset[str] | None
    """Those granted, and what they include; None for every scope."""
    expires_at: float | None
    """Seconds since 1970, as the token says; None for one that does not expire."""
    accepted_until: float | None
    """The same, with what clocks may be off: until then it is let in here."""


class Verifier:
    """Accepts tokens of several issuers, and static ones."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        static: Mapping[bytes, StaticToken],
        *,
        audience: str | None,
        expand: Callable[[Iterable[str]], frozenset[str]],
        kept_claims: Iterable[str],
        leeway_s: float,
        cache_s: float,
        insecure: bool,
    ) -> None:
        """`audience` is the canonical address of the endpoint; there must be one when there are issuers. `expand` knows
        what scopes include."""
        self._leeway_s = leeway_s
        self._fetcher = Fetcher(insecure=insecure)
        self._servers = {issuer.issuer: AuthorizationServer(issuer, self._fetcher) for issuer in issuers}
        self._expand = expand
        self._static = {key: self._found(each.identity, None, each.unlimited) for key, each in static.items()}
        # What is opaque does not say whose it is, and no server is shown another's tokens: the settings allow one.
        self._opaque = next((each for each in self._servers.values() if each.config.introspects_opaque), None)
        self._audience = audience
        self._kept = tuple(kept_claims)
        self._cache_s = cache_s
        self._known: OrderedDict[bytes, tuple[float, Verified]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._checking: dict[bytes, asyncio.Task[Verified]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._asking = 0

    async def close(self) -> None:
        checking = list(self._checking.values())
        for task in checking:
            task.cancel()
        await asyncio.gather(*checking, return_exceptions=True)
        for server in self._servers.values():
            await server.close()
        await self._fetcher.close()

    def known(self, token: str) -> Verified | None:
        """What was found out of this token a moment ago; None when it must be checked."""
        key = digest(token)
        found = self._static.get(key)
        if found is not None:
            return found
        entry = self._known.get(key)
        if entry is None:
            return None
        until, verified = entry
        if until <= time.time():
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return verified

    async def verify(self, token: str) -> Verified:
        """Raises TokenRefused, and IssuerUnavailable when its issuer must be asked and cannot."""
        found = self.known(token)
        if found is not None:
            return found
        if len(token) > LONGEST_TOKEN:
            raise TokenRefused(f"The token has more than {LONGEST_TOKEN} characters")
        key = digest(token)
        until, reason = self._refused.get(key, (0.0, ""))
        if until > time.time():
            raise TokenRefused(reason)
        task = self._checking.get(key)
        if task is None:
            task = self._checking[key] = asyncio.create_task(self._check(token, key))
            task.add_done_callback(_look_at)
        # Others may wait for the same: whoever goes away does not end it for them.
        return await asyncio.shield(task)

    async def _check(self, token: str, key: bytes) -> Verified:
        try:
            verified = await self._examine(token)
        except TokenRefused as refused:
            _remember(self._refused, key, (time.time() + REFUSED_S, refused.reason), MOST_REFUSED)
            raise
        else:
            until = time.time() + self._cache_s
            if verified.accepted_until is not None:
                until = min(until, verified.accepted_until)
            _remember(self._known, key, (until, verified), MOST_KNOWN)
            return verified
        finally:
            del self._checking[key]

    async def _examine(self, token: str) -> Verified:
        unverified = read_unverified(token)
        if unverified is None:
            return await self._ask(self._opaque, token)
        server = self._servers.get(unverified.issuer or "")
        if server is None:
            raise TokenRefused("The token was not issued by an authorization server of this server")
        if server.config.introspects_signed:
            return await self._ask(server, token)
        check_header(unverified, server.config)
        keys = await server.keys.candidates(unverified.kid, unverified.algorithm)
        claims = check_signed(token, keys, unverified.algorithm, server.config, self._leeway_s)
        return self._accept(claims, server.config)

    async def _ask(self, server: AuthorizationServer | None, token: str) -> Verified:
        if server is None:
            raise TokenRefused("The token is not one of this server's")
        # Anybody can make up opaque tokens. They must not become a flood for their server, nor hold up signed ones.
        if self._asking >= MOST_WAITING:
            raise IssuerUnavailable(server.config.issuer, "too many tokens wait to be introspected")
        self._asking += 1
        try:
            async with self._room:
                claims = await introspect(server, self._fetcher, token)
        finally:
            self._asking -= 1
        expires_at = expiry_of(claims)
        if expires_at is not None and expires_at + self._leeway_s <= time.time():
            raise TokenRefused("The token has expired")
        return self._accept(claims, server.config)

    def _accept(self, claims: Mapping[str, object], issuer: Issuer) -> Verified:
        check_kind(claims)
        check_audience(claims, [*([self._audience] if self._audience else []), *issuer.audiences])
        return self._found(identity_of(claims, issuer, self._kept), expiry_of(claims))

    def _found(self, identity: Identity, expires_at: float | None, unlimited: bool = False) -> Verified:
        until = None if expires_at is None else expires_at + self._leeway_s
        scopes = None if unlimited else self._expand(identity.scopes)
        return Verified(identity, identity.owner, scopes, expires_at, until)


_T = TypeVar("_T")


def _remember(known: OrderedDict[bytes, _T], key: bytes, entry: _T, most: int) -> None:
    known[key] = entry
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)


def _look_at(task: asyncio.Task[Verified]) -> None:
    """Nobody may be left who does."""
    if not task.cancelled():
        task.exception()
