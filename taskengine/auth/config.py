"""What the settings say of authorization servers, and the forms of addresses in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

__all__ = [
    "ALGORITHMS",
    "LOCAL_HOSTS",
    "METHODS",
    "Issuer",
    "canonical_uri",
    "is_local",
    "is_scope",
    "problem",
]

LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
DEFAULT_PORTS = {"https": 443, "http": 80}
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones only: a key that everybody can read must never be taken for a shared secret."""

METHODS: dict[str, tuple[str, ...]] = {
    "tools/list": (),
    "tools/call": ("tools:call",),
    "tasks/get": ("tasks:read",),
    "tasks/result": ("tasks:read",),
    "tasks/list": ("tasks:read",),
    "subscriptions/listen": ("tasks:read",),
    "tasks/update": ("tasks:write",),
    "tasks/cancel": ("tasks:write",),
}
"""The scopes that each method needs, unless the setting `auth_scopes` says otherwise. What is not here needs none."""


class Issuer(BaseModel):
    """One authorization server whose tokens are accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str
    """Exactly as its metadata and the `iss` of its tokens have it."""
    audiences: list[str] = Field(default_factory=list)
    """Names that its tokens may have for this server, beside the address of the endpoint (`auth_resource`)."""
    jwks_url: str | None = None
    """Where its keys are; default: what its metadata says."""
    introspection_url: str | None = None
    """Where it tells of opaque tokens; default: what its metadata says."""
    client_id: str | None = None
    """This server's own name there. With it, opaque tokens are accepted, by introspection."""
    client_secret: SecretStr | None = None
    introspect: Literal["opaque", "signed", "all"] = "opaque"
    """Which tokens it is asked about. One that is asked about is refused within `auth_cache` of being revoked."""
    scope_claims: list[str] = Field(default_factory=lambda: ["scope", "scp"], min_length=1)
    """Claims that hold scopes: texts separated by spaces, or lists."""
    algorithms: list[str] = Field(default_factory=lambda: list(ALGORITHMS), min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _by_name_alone(cls, value: Any) -> Any:
        return {"issuer": value} if isinstance(value, str) else value

    @field_validator("issuer", "jwks_url", "introspection_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("give addresses such as https://login.example.com/realms/one")
            if parts.username is not None:
                raise ValueError("leave name and password out of addresses: give client_id and client_secret")
        return url

    @field_validator("algorithms")
    @classmethod
    def _are_asymmetric(cls, algorithms: list[str]) -> list[str]:
        unknown = sorted(set(algorithms) - set(ALGORITHMS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: only {', '.join(ALGORITHMS)} are accepted")
        return algorithms

    @model_validator(mode="after")
    def _can_introspect(self) -> Issuer:
        if (self.client_id is None) != (self.client_secret is None):
            raise ValueError("client_id and client_secret go together")
        if self.client_id is None and (self.introspect != "opaque" or self.introspection_url is not None):
            raise ValueError("introspection needs client_id and client_secret: the server must say who asks")
        return self

    @property
    def introspects_opaque(self) -> bool:
        """It is asked about tokens that do not say whose they are."""
        return self.client_id is not None and self.introspect != "signed"

    @property
    def introspects_signed(self) -> bool:
        return self.introspect != "opaque"

    @property
    def addresses(self) -> list[str]:
        return [url for url in (self.issuer, self.jwks_url, self.introspection_url) if url is not None]


def is_local(url: str) -> bool:
    """Whether the address leads nowhere but to this machine."""
    return urlsplit(url).hostname in LOCAL_HOSTS


def is_scope(text: str) -> bool:
    """Whether it is a scope-token (RFC 6749, 3.3)."""
    return _SCOPE.fullmatch(text) is not None


def canonical_uri(url: str) -> str:
    """The one form of a server's address: scheme and host in lower case, no default port, no slash at the end
    (X-AUTH-18). Raises ValueError for what cannot be one."""
    url = url.strip()
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    # What is left out when an address is taken apart (line breaks, tabs) would make two of them one.
    clean = url.isprintable() and " " not in url
    if not clean or scheme not in DEFAULT_PORTS or not parts.hostname or parts.fragment or parts.username is not None:
        raise ValueError("give an address such as https://tools.example.com/mcp, without fragment, name and password")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in {None, DEFAULT_PORTS[scheme]} else f":{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{host}{port}{parts.path.rstrip('/')}{query}"


def problem(issuers: Sequence[Issuer], *, host: str, has_address: bool, has_tokens: bool, insecure: bool) -> str | None:
    """Why authorization cannot work by these settings. `has_address` tells whether it is known what clients call the
    endpoint, `has_tokens` whether there are static tokens."""
    names = [issuer.issuer for issuer in issuers]
    if len(set(names)) < len(names):
        return "auth_issuers: the same issuer stands there twice"
    if sum(issuer.introspects_opaque for issuer in issuers) > 1:
        return (
            "auth_issuers: only one may introspect opaque tokens, which do not say whose they are, and must not be "
            'shown to others; give the others "introspect": "signed", or no client_id'
        )
    if issuers and not has_address:
        return (
            "auth_issuers: set auth_resource to the address of the endpoint as clients know it, for example "
            "https://tools.example.com/mcp: tokens must be issued for it"
        )
    if insecure:
        return None
    addresses = [url for issuer in issuers for url in issuer.addresses]
    plain = next((url for url in addresses if url.startswith("http://") and not is_local(url)), None)
    if plain is not None:
        return f"auth_issuers: {plain} has no TLS: give its https address, or set auth_insecure"
    if has_tokens and host not in LOCAL_HOSTS:
        return (
            f"auth_tokens are for development, and {host} is reached from other machines: use auth_issuers, listen on "
            "127.0.0.1, or set auth_insecure"
        )
    return None
