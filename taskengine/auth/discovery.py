"""The metadata of an authorization server, by RFC 8414 or by OpenID Connect Discovery."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from taskengine.auth.fetch import Fetcher
from taskengine.errors import IssuerUnavailable

__all__ = ["Endpoints", "discover", "metadata_urls"]

logger = logging.getLogger("taskengine.auth")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What of it is needed to check tokens."""

    keys: str | None
    introspection: str | None


def metadata_urls(issuer: str) -> list[str]:
    """Where the metadata may be, in the order of the MCP specification (authorization server metadata discovery)."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    found = [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ]
    return list(dict.fromkeys(found))


async def discover(fetcher: Fetcher, issuer: str) -> Endpoints:
    """The first document that is this issuer's own. Raises IssuerUnavailable."""
    trouble: list[str] = []
    for url in metadata_urls(issuer):
        try:
            document = await fetcher.get(url)
        except IssuerUnavailable as error:
            trouble.append(error.reason)
            continue
        # RFC 8414, 3.3: else anybody's metadata could stand in for it.
        if document.get("issuer") != issuer:
            trouble.append("its metadata names another issuer")
            continue
        found = Endpoints(_address(document, "jwks_uri"), _address(document, "introspection_endpoint"))
        if found.keys is None and found.introspection is None:
            trouble.append("its metadata names neither keys nor introspection")
            continue
        logger.info("metadata of %s found", issuer)
        return found
    raise IssuerUnavailable(issuer, "; ".join(dict.fromkeys(trouble)))


def _address(document: dict[str, Any], name: str) -> str | None:
    """The member, where it is an address that could be asked."""
    value = document.get(name)
    if not isinstance(value, str):
        return None
    try:
        parts = urlsplit(value)
    except ValueError:  # brackets that hold no address
        return None
    return value if parts.scheme in {"https", "http"} else None
