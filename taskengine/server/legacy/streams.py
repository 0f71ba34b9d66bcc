"""Streams that can be resumed: what their events are called, and what such a name leads back to."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from taskengine.server.exchange import Framing
from taskengine.server.legacy.tokens import Tokens

__all__ = ["Labelled", "Place", "read_place"]

RETRY_MS = 1_000
KINDS = ("call", "result", "direct", "listen")


class Labelled(Framing):
    """Events with ids (L-TRANS-19, L-TRANS-20): the stream, the place in it, and what makes the id unique.

    Without a `stream` events have no ids. `position` is what the stream's producer needs to go on from there; it is
    set before a message is sent.
    """

    def __init__(self, stream: str = "", position: int = 0, *, begins_empty: bool) -> None:
        self.stream = stream
        self.position = position
        self.goes_on = False
        """What the stream follows outlives this front end: another one can go on with it."""
        self._begins_empty = begins_empty
        self._connection = secrets.token_hex(4)
        self._events = 0

    @property
    def opening(self) -> bytes:  # type: ignore[override]
        """An empty event, so that a stream that breaks at once can be resumed too (L-TRANS-07)."""
        if not self._begins_empty or not self.stream:
            return b""
        return self._id() + f"retry: {RETRY_MS}\ndata: \n\n".encode()

    @property
    def closing(self) -> bytes:  # type: ignore[override]
        """When to come back (L-TRANS-09)."""
        return f"retry: {RETRY_MS}\n\n".encode() if self._begins_empty and self.stream else b""

    def event(self, body: bytes) -> bytes:
        return self._id() + b"data: " + body + b"\n\n"

    def _id(self) -> bytes:
        if not self.stream:
            return b""
        self._events += 1
        return f"id: {self.stream}.{self.position}.{self._connection}{self._events}\n".encode()


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which stream a client stands."""

    stream: str
    facts: dict[str, Any]
    position: int


def read_place(tokens: Tokens, session: str, event: str) -> Place:
    """What `Last-Event-ID` says. Raises ValueError for an event that this session was not sent (L-TRANS-22)."""
    stream, _, rest = event.partition(".")
    position = rest.partition(".")[0]
    facts = tokens.open(stream, *KINDS)
    if facts["s"] != session or not position.isdecimal() or len(position) > 18:
        raise ValueError("of another session")
    return Place(stream, facts, int(position))
