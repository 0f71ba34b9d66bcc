"""What is checked of an HTTP request before its body is looked at. Pure.

Limits: headers together at most 32 KiB (431), the body at most the setting `max_body_bytes` (413) and there within a
minute (408), nesting as in `wire.jsonrpc` (X-TRANS-28, X-TRANS-29).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from taskengine.wire import modern
from taskengine.wire.headers import RawHeaders, values
from taskengine.wire.jsonrpc import INVALID_REQUEST, RpcError

__all__ = ["MAX_HEADER_BYTES", "Accepts", "Refusal", "check_headers", "check_hosts", "read_accept"]

MAX_HEADER_BYTES = 32 * 1024

METHODS = ("POST", "GET", "DELETE")
ALLOW = ((b"allow", ", ".join(METHODS).encode()),)
PLAIN_BODIES = ((b"accept-encoding", b"identity"),)
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
JSON = "application/json"
EVENTS = "text/event-stream"
_KEPT = 256
"""Answers to the same question about a header that are remembered; headers are short, see above."""


class Refusal(Exception):
    """The request is refused with this HTTP status; the error goes along without an `id` (X-TRANS-03)."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(status, message, headers)
        self.status, self.message, self.headers = status, message, headers

    @property
    def error(self) -> RpcError:
        return RpcError(INVALID_REQUEST, self.message)


@dataclass(frozen=True, slots=True)
class Accepts:
    """The forms of an answer that a client takes."""

    json: bool
    events: bool


def check_headers(headers: RawHeaders, method: str) -> Accepts:
    """Method, size, media types, in this order (A-14). Raises Refusal.

    GET and DELETE belong to sessions, which 2026-07-28 does not have (X-SEL-09).
    """
    if method not in METHODS:
        raise Refusal(405, f"Only {', '.join(METHODS)} are served here", ALLOW)
    if method != "POST" and modern.VERSION in values(headers, "mcp-protocol-version"):
        raise Refusal(405, f"Only POST is served to MCP {modern.VERSION}", ALLOW)
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise Refusal(431, f"The headers have more than {MAX_HEADER_BYTES} bytes")
    accepts = read_accept(values(headers, "accept"))
    if method == "GET" and not accepts.events:
        raise Refusal(406, f"The Accept header must list {EVENTS}")
    if method != "POST":
        return accepts
    kinds = values(headers, "content-type")
    if [_media_type(kind) for kind in kinds] != [JSON]:
        raise Refusal(415, f"The Content-Type must be {JSON}")
    if any(coding.strip().lower() != "identity" for coding in values(headers, "content-encoding")):
        raise Refusal(415, "Only bodies without Content-Encoding are read: send it as it is", PLAIN_BODIES)
    if not accepts.json and not accepts.events:
        raise Refusal(406, f"The Accept header must list {JSON} and {EVENTS}")
    return accepts


def read_accept(lines: Iterable[str]) -> Accepts:
    """The lines of the Accept header; a client sends the same ones each time."""
    return _read_accept(tuple(lines))


@lru_cache(_KEPT)
def _read_accept(lines: tuple[str, ...]) -> Accepts:
    """Wildcards count as listing both; so does an absent header (X-TRANS-08). A type with `q=0` is not accepted."""
    ranges = [part for line in lines for part in line.split(",") if part.strip()]
    if not ranges:
        return Accepts(json=True, events=True)
    taken = {_media_type(part) for part in ranges if not _is_refused(part)}
    return Accepts(
        json=not taken.isdisjoint({JSON, "application/*", "*/*"}),
        events=not taken.isdisjoint({EVENTS, "text/*", "*/*"}),
    )


def check_hosts(headers: RawHeaders, allowed: Collection[str]) -> None:
    """Neither Host nor Origin names a foreign place: a web page cannot reach us by a name it controls (X-TRANS-02).
    Comes before all else, authorization included. Raises Refusal."""
    if "*" in allowed:
        return
    names = frozenset(allowed)
    hosts = values(headers, "host")
    if len(hosts) != 1 or not _is_allowed(f"//{hosts[0]}", names):
        raise Refusal(403, "The Host is not allowed: its name must be in the setting allowed_hosts")
    for origin in values(headers, "origin"):
        if not _is_allowed(origin, names):
            raise Refusal(403, "The Origin is not allowed: its host must be in the setting allowed_hosts")


@lru_cache(_KEPT)
def _is_allowed(address: str, allowed: frozenset[str]) -> bool:
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return False
    return host is not None and (host in LOCAL_HOSTS or host in allowed)


def _media_type(text: str) -> str:
    return text.partition(";")[0].strip().lower()


def _is_refused(part: str) -> bool:
    parameters = (parameter.strip().lower().partition("=") for parameter in part.split(";")[1:])
    for name, _, value in parameters:
        if name.strip() == "q":
            try:
                return float(value) <= 0
            except ValueError:
                return False
    return False
