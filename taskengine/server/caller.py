"""Who calls: what a request becomes once its sender is known (see `authorization`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

from taskengine.durations import parse_duration
from taskengine.identity import AccessToken, Identity
from taskengine.tool import Tool

__all__ = ["ANONYMOUS", "VOUCHED", "Caller", "anonymous", "patience_of", "vouched"]

LONGEST_PATIENCE = timedelta(hours=1)
LONGEST_STREAM_S = 3600.0
"""How long a stream may go on that was opened with a token, whenever that expires: it may be revoked meanwhile."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Tasks are kept and found under `owner` (X-SEC-02, X-SEC-05)."""

    owner: str
    patience: timedelta | None = None
    """How long this caller's host lets a call stay open, when the address it was given says so. No credential: it
    changes nothing but the wait."""
    identity: Identity | None = None
    """Whom its token speaks for; None where nobody is asked."""
    scopes: frozenset[str] | None = None
    """What it may do, with all that broader scopes include; None for everything."""
    accepted_until: float | None = None
    """When its token is no longer, in seconds since 1970; None for one that does not expire."""
    token: AccessToken | None = None
    """Only where a tool wants it handed over."""

    def token_for(self, tool: Tool) -> AccessToken | None:
        """What the tasks of this tool get."""
        return self.token if tool.token else None

    @property
    def stream_s(self) -> float | None:
        """How long a stream may stay open before its client must show a token again (M-SUB-16); None without end."""
        if self.identity is None:
            return None
        left = LONGEST_STREAM_S if self.accepted_until is None else self.accepted_until - time.time()
        return max(0.0, min(left, LONGEST_STREAM_S))

    def within_token(self, seconds: float) -> float:
        """So long a wait, or as much of it as `stream_s` allows."""
        allowed = self.stream_s
        return seconds if allowed is None else min(seconds, allowed)


ANONYMOUS = Caller("anonymous")
VOUCHED = "taskengine.caller"
"""In a scope: the caller that a transport of this process vouches for. No request can put it there."""


def vouched(scope: Mapping[str, Any]) -> Caller | None:
    caller = scope.get(VOUCHED)
    return caller if isinstance(caller, Caller) else None


def anonymous(patience: timedelta | None) -> Caller:
    """Whoever it is."""
    return ANONYMOUS if patience is None else Caller(ANONYMOUS.owner, patience)


def patience_of(query: bytes) -> timedelta | None:
    """`inline_wait` of the endpoint's address, as in `…/mcp?inline_wait=100s`; what cannot be read is no wish.

    The address is written by whoever configures the host and knows it; what a client says of itself changes nothing
    (M-META-05).
    """
    given = parse_qs(query.decode("latin-1")).get("inline_wait") if query else None
    if given is None:
        return None
    try:
        return min(parse_duration(given[-1]), LONGEST_PATIENCE)
    except ValueError:
        return None
