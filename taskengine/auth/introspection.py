"""Tokens that say nothing by themselves: whoever issued them is asked (RFC 7662)."""

from __future__ import annotations

from typing import Any

from taskengine.auth.fetch import Fetcher
from taskengine.auth.server import AuthorizationServer
from taskengine.errors import TokenRefused

__all__ = ["introspect"]


async def introspect(server: AuthorizationServer, fetcher: Fetcher, token: str) -> dict[str, Any]:
    """What the server says of a token that is active. Raises TokenRefused and IssuerUnavailable."""
    config = server.config
    assert config.client_id is not None, "the settings have been checked"
    assert config.client_secret is not None, "the settings have been checked"
    form = {"token": token, "token_type_hint": "access_token"}
    url = await server.introspection_url()
    claims = await fetcher.post(url, form, config.client_id, config.client_secret.get_secret_value())
    if claims.get("active") is not True:
        raise TokenRefused("The token is not active: it has expired, was revoked, or is not one of its issuer's")
    if claims.get("iss", config.issuer) != config.issuer:
        raise TokenRefused("The token was issued by another authorization server")
    return claims
