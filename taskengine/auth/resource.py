"""What this server says of itself to clients that look for its authorization server (RFC 9728). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from taskengine.auth.config import canonical_uri

__all__ = ["Resource", "challenge"]

WELL_KNOWN = "/.well-known/oauth-protected-resource"


class Resource:
    """The protected resource: the endpoint, as clients know it."""

    def __init__(self, uri: str, issuers: Sequence[str], scopes: Sequence[str], name: str) -> None:
        self.uri = canonical_uri(uri)
        self._issuers = list(issuers)
        self._scopes = list(scopes)
        self._name = name

    @property
    def metadata_url(self) -> str:
        """The well-known address of this endpoint (X-AUTH-03)."""
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path}"

    def paths(self, path: str) -> list[str]:
        """Where the metadata is served by a front end whose endpoint is at `path`: for the endpoint as clients know it,
        for the one that a proxy passes on, and at the root."""
        found = [WELL_KNOWN + urlsplit(self.uri).path, WELL_KNOWN + path.rstrip("/"), WELL_KNOWN]
        return list(dict.fromkeys(found))

    @property
    def metadata(self) -> dict[str, Any]:
        """The document (X-AUTH-02, X-AUTH-19)."""
        return {
            "resource": self.uri,
            "resource_name": self._name,
            "authorization_servers": self._issuers,
            "scopes_supported": self._scopes,
            "bearer_methods_supported": ["header"],
        }


def challenge(
    resource: Resource | None, *, error: str | None = None, description: str | None = None, scopes: Iterable[str] = ()
) -> str:
    """The value of WWW-Authenticate (RFC 6750, 3): every part in it is ours, so nothing has to be escaped."""
    wanted = " ".join(scopes)
    parts = {
        "error": error,
        "error_description": None if description is None else description.replace('"', "'").replace("\\", "/"),
        "scope": wanted or None,
        "resource_metadata": None if resource is None else resource.metadata_url,
    }
    said = ", ".join(f'{name}="{value}"' for name, value in parts.items() if value is not None)
    return f"Bearer {said}".strip()
