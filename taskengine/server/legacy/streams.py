"""Streams that can be resumed: what their events are called, and what such a name leads back to.

A name is `<stream>.<position>.<unique>.<progress>`, and then the ids of the questions that the client has been asked on
this stream and not answered yet: whoever comes back is not asked again.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Any

from taskengine.server.exchange import Framing
from taskengine.server.legacy.tokens import Tokens

__all__ = ["Labelled", "Place", "read_place"]

RETRY_MS = 1_000
KINDS = ("call", "result", "direct", "listen")
MAX_DIGITS = 16
"""Of a place in a stream: microseconds since 1970 have as many until the year 2286."""
MAX_ASKED_BYTES = 8_192
"""Names come back as a header: questions beyond this are put again."""


class Labelled(Framing):
    """Events with ids (L-TRANS-19, L-TRANS-20): the stream, the place in it, and what makes the id unique.

    Without a `stream` events have no ids. `position`, `progress` and `asked` are what the stream's producer needs to go
    on from there; they are set before a message is sent.
    """

    def __init__(
        self, stream: str = "", place: Place | None = None, *, begins_empty: bool, resumable: bool = True
    ) -> None:
        self.stream = stream
        self.position = place.position if place is not None else 0
        self.progress = place.progress if place is not None else None
        self.asked = place.asked if place is not None else ()
        self.goes_on = False
        """What the stream follows outlives this front end: another one can go on with it."""
        self._resumed = place is not None
        self._begins_empty = begins_empty
        self._resumable = resumable
        self._connection = secrets.token_hex(4)
        self._events = 0

    @property
    def begun(self) -> bool:
        """An event was sent that the client could come back with."""
        return self._events > 0

    @property
    def opening(self) -> bytes:  # type: ignore[override]
        """An empty event, so that a stream that breaks at once can be resumed too (L-TRANS-07)."""
        if not self._begins_empty or not self._named:
            return b""
        return self._id() + f"retry: {RETRY_MS}\ndata: \n\n".encode()

    @property
    def closing(self) -> bytes:  # type: ignore[override]
        """When to come back (L-TRANS-09)."""
        return f"retry: {RETRY_MS}\n\n".encode() if self._begins_empty and self._named else b""

    @property
    def leads_back(self) -> bool:  # type: ignore[override]
        return self.begun or self._resumed

    def event(self, body: bytes) -> bytes:
        return self._id() + b"data: " + body + b"\n\n"

    @property
    def _named(self) -> bool:
        return self._resumable and bool(self.stream)

    def _id(self) -> bytes:
        if not self._named:
            return b""
        self._events += 1
        progress = "" if self.progress is None else repr(self.progress).replace(".", "_")
        name = f"{self.stream}.{self.position}.{self._connection}{self._events}.{progress}"
        asked, room = [], MAX_ASKED_BYTES
        for request_id in self.asked:
            room -= len(request_id) + 1
            if room < 0:
                break
            asked.append(request_id)
        return f"id: {'.'.join([name, *asked])}\n".encode()


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which stream a client stands."""

    stream: str
    facts: dict[str, Any]
    position: int
    progress: float | None = None
    """The last that was told on the stream."""
    asked: tuple[str, ...] = ()
    """Ids of the requests that the client has and may not have answered."""


def read_place(tokens: Tokens, session: str, event: str) -> Place:
    """What `Last-Event-ID` says. Raises ValueError for an event that this session was not sent (L-TRANS-22)."""
    parts = event.split(".")
    if len(parts) < 4:
        raise ValueError("not the name of an event")
    stream, position, _, progress, *asked = parts
    facts = tokens.open(stream, *KINDS)
    if facts["s"] != session or not position.isdecimal() or len(position) > MAX_DIGITS:
        raise ValueError("of another session")
    told = float(progress.replace("_", ".")) if progress else None
    if told is not None and not math.isfinite(told):
        raise ValueError("no progress has such a value")
    return Place(stream, facts, int(position), told, tuple(asked))
