"""The connection of one HTTP request."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Receive, Send

from taskengine.server.checks import Accepts

__all__ = ["STREAM", "Line"]

STREAM = Accepts(json=False, events=True)


@dataclass(frozen=True, slots=True)
class Line:
    receive: Receive
    send: Send
    accepts: Accepts = STREAM
    resumable: bool = True
    """Events have ids that the client may come back with."""
