"""Who calls: the one place where a request becomes an owner of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

from taskengine.durations import parse_duration

__all__ = ["ANONYMOUS", "VOUCHED", "Caller", "identify"]

LONGEST_PATIENCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Caller:
    """Tasks are kept and found under `owner` (X-SEC-02, X-SEC-05)."""

    owner: str
    patience: timedelta | None = None
    """How long this caller's host lets a call stay open, when the address it was given says so. No credential: it
    changes nothing but the wait."""


ANONYMOUS = Caller("anonymous")
VOUCHED = "taskengine.caller"
"""In a scope: the caller that a transport of this process vouches for. No request can put it there."""


def identify(scope: Mapping[str, Any]) -> Caller:
    """The caller of an HTTP request, by verified credentials only (X-SEC-16).

    Without authorization everybody is one caller, and a task's unguessable id is what protects it (M-SEC-07).
    """
    vouched = scope.get(VOUCHED)
    if isinstance(vouched, Caller):
        return vouched
    query = scope.get("query_string")
    return replace(ANONYMOUS, patience=_patience(query)) if query else ANONYMOUS


def _patience(query: bytes) -> timedelta | None:
    """`inline_wait` of the endpoint's address, as in `…/mcp?inline_wait=100s`; what cannot be read is no wish.

    The address is written by whoever configures the host and knows it; what a client says of itself changes nothing
    (M-META-05).
    """
    given = parse_qs(query.decode("latin-1")).get("inline_wait")
    if given is None:
        return None
    try:
        return min(parse_duration(given[-1]), LONGEST_PATIENCE)
    except (ValueError, OverflowError):
        return None
