"""Signed tokens (JWT): read without trust first, to know whose keys to ask for, and then checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jwt
from jwt import PyJWK
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from taskengine.auth.config import Issuer
from taskengine.errors import TokenRefused

__all__ = ["Unverified", "check_header", "check_signed", "read_unverified"]

TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""What the header may say that it is. An ID token has no type of its own: its audience and `typ` claim tell."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says of itself: enough to choose an issuer and a key, and good for nothing else."""

    issuer: str | None
    algorithm: str
    kid: str | None
    kind: str
    critical: bool


def read_unverified(token: str) -> Unverified | None:
    """None for what is no signed token: an opaque one, perhaps.

    Of the header only `alg`, `kid`, `typ` and `crit` count. Keys and addresses of keys in it (`jwk`, `jku`, `x5c`,
    `x5u`) are the sender's, and ignored.
    """
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (PyJWTError, ValueError, TypeError, RecursionError):
        return None
    algorithm, kid, kind, issuer = header.get("alg"), header.get("kid"), header.get("typ", "JWT"), claims.get("iss")
    if not isinstance(algorithm, str):
        return None
    return Unverified(
        issuer if isinstance(issuer, str) else None,
        algorithm,
        kid if isinstance(kid, str) else None,
        kind.lower() if isinstance(kind, str) else "",
        "crit" in header or "b64" in header,
    )


def check_header(unverified: Unverified, issuer: Issuer) -> None:
    """Raises TokenRefused for what no key needs to be fetched for."""
    if unverified.algorithm not in issuer.algorithms:
        raise TokenRefused("The token is signed with an algorithm that is not accepted")
    if unverified.kind not in TYPES:
        raise TokenRefused("The token is no access token")
    if unverified.critical:
        raise TokenRefused("The token demands an extension that this server does not have")


def check_signed(token: str, keys: Iterable[PyJWK], algorithm: str, issuer: Issuer, leeway_s: float) -> dict[str, Any]:
    """The claims of a token that one of these keys signed, within its time. Raises TokenRefused."""
    for key in keys:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=issuer.issuer,
                leeway=leeway_s,
                options={"require": ["exp", "iss"], "verify_aud": False, "verify_jti": False},
            )
        except InvalidSignatureError:
            continue
        except ExpiredSignatureError:
            raise TokenRefused("The token has expired") from None
        except ImmatureSignatureError:
            raise TokenRefused("The token is not valid yet") from None
        except MissingRequiredClaimError as error:
            raise TokenRefused(f"The token has no {error.claim}") from None
        except (PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise TokenRefused("The token cannot be read") from None
        else:
            return claims
    raise TokenRefused("The token is not signed with a key of its issuer")
