"""Which revision a server is spoken to by: the newest that both know (versioning, "Backward Compatibility")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskengine.client.legacy import Legacy
from taskengine.client.modern import VERSION, Modern
from taskengine.client.results import RemoteError, ServerUnreachable
from taskengine.client.session import VERSIONS
from taskengine.client.transport import Http
from taskengine.client.wire import Profile, Wire

__all__ = ["REVISIONS", "negotiate", "wire_of"]

REVISIONS = (VERSION, *VERSIONS)
"""Newest first."""
UNSUPPORTED_VERSION = -32022
MODERN_ERRORS = {-32020, -32021}
"""Only 2026-07-28 has these."""
NO_VERDICT = {401, 403, 407, 408, 425, 429}
"""Statuses that say nothing of the revision."""


def wire_of(revision: str, http: Http, profile: Profile) -> Wire:
    """The revision as it was chosen. Raises ValueError for one that is not known."""
    if revision == VERSION:
        return Modern(http, profile)
    if revision not in VERSIONS:
        raise ValueError(f"{revision} is no revision this client speaks: give one of {', '.join(REVISIONS)}")
    return Legacy(http, profile, revision)


async def negotiate(http: Http, profile: Profile) -> Wire:
    """2026-07-28 where the server shows that it knows it, else a revision with a handshake, which has begun then.

    A server is asked by `server/discover`, which changes nothing: a call could be taken by an older server as its own.
    Raises RemoteError and ServerUnreachable; a server that is away is no verdict.
    """
    modern = Modern(http, profile)
    try:
        supported = (await modern.describe()).get("supportedVersions")
    except RemoteError as error:
        if error.code in MODERN_ERRORS:
            return modern
        supported = _supported(error)
    except ServerUnreachable as error:
        if error.status is None or not 200 <= error.status < 500 or error.status in NO_VERDICT:
            raise
        supported = None
    if isinstance(supported, list) and VERSION in supported:
        return modern
    if isinstance(supported, list) and supported and not set(supported) & set(VERSIONS):
        known = ", ".join(map(str, supported))
        raise ServerUnreachable(http.url, f"it speaks {known}; this client speaks {', '.join(REVISIONS)}")
    legacy = Legacy(http, profile)
    await legacy.connect()
    return legacy


def _supported(error: RemoteError) -> Any:
    """The versions that a refusal names."""
    if error.code != UNSUPPORTED_VERSION or not isinstance(error.data, Mapping):
        return None
    return error.data.get("supported")
