"""From the claims of a token, whichever way they were checked, to an identity. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from taskengine.auth.config import Issuer, canonical_uri
from taskengine.errors import TokenRefused
from taskengine.identity import Identity

__all__ = ["check_audience", "check_kind", "expiry_of", "identity_of"]

ACCESS_TYPES = frozenset({"bearer", "jwt", "at+jwt", "access", "access_token"})
ID_TOKENS = frozenset({"at_hash", "c_hash"})
"""Claims that only ID tokens have (OpenID Connect Core 1.0, 2)."""
LONGEST_OWNER = 1_000
"""Characters of an owner's text, which is part of an index."""
MOST_SCOPES = 200
FARTHEST = 1e11
"""Seconds since 1970: the year 5138."""


def check_kind(claims: Mapping[str, Any]) -> None:
    """It is an access token that whoever holds it may use. Raises TokenRefused.

    Keycloak says in `typ` what kind of token it is, Cognito and Hydra in `token_use`. A token that is bound to a key of
    its client (`cnf`) is not taken as one that is not: this server cannot check the binding.
    """
    kinds = [claims[name] for name in ("typ", "token_type", "token_use") if isinstance(claims.get(name), str)]
    if any(kind.lower() not in ACCESS_TYPES for kind in kinds) or not ID_TOKENS.isdisjoint(claims):
        raise TokenRefused("The token is no bearer access token")
    if claims.get("cnf") is not None:
        raise TokenRefused("The token is bound to a key of its client, which this server cannot check")


def check_audience(claims: Mapping[str, Any], accepted: Iterable[str]) -> None:
    """It was issued for this server (RFC 8707, X-AUTH-11). Raises TokenRefused."""
    named = claims.get("aud")
    audiences = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    ours = {_comparable(each) for each in accepted}
    if not any(isinstance(each, str) and _comparable(each) in ours for each in audiences):
        raise TokenRefused("The token was not issued for this server: ask for one with its address as resource")


def expiry_of(claims: Mapping[str, Any]) -> float | None:
    """Seconds since 1970; None when the token says nothing. Raises TokenRefused for what is no time."""
    expires = claims.get("exp")
    if expires is None:
        return None
    if isinstance(expires, bool) or not isinstance(expires, (int, float)) or not 0 < expires < FARTHEST:
        raise TokenRefused("The token has no time of expiry that can be read")
    return float(expires)


def identity_of(claims: Mapping[str, Any], issuer: Issuer, kept: Iterable[str]) -> Identity:
    """Whom it speaks for, with the `kept` claims. Raises TokenRefused when it says of nobody."""
    client = _first_text(claims, ("client_id", "azp", "cid", "appid"))
    subject = _first_text(claims, ("sub",)) or client  # a client that acts for itself may have no other name
    if subject is None:
        raise TokenRefused("The token names no subject")
    found = Identity(
        issuer=issuer.issuer,
        subject=subject,
        client=client,
        scopes=frozenset(_scopes(claims, issuer.scope_claims)),
        claims={name: claims[name] for name in kept if name in claims},
    )
    if len(found.owner) > LONGEST_OWNER:
        raise TokenRefused("The token names a subject or a client that is too long")
    return found


def _scopes(claims: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        value = claims.get(name)
        if isinstance(value, str):
            found += value.split()
        elif isinstance(value, list):
            found += [each for each in value if isinstance(each, str)]
    return found[:MOST_SCOPES]


def _first_text(claims: Mapping[str, Any], names: Iterable[str]) -> str | None:
    for name in names:
        value = claims.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def _comparable(audience: str) -> str:
    try:
        return canonical_uri(audience)
    except ValueError:
        return audience
