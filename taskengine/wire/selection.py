"""Which revision's rules a message is under: the one place that decides it (section 1.1 of the requirements). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from taskengine.wire import modern
from taskengine.wire.jsonrpc import UNSUPPORTED_VERSION, Message, Request, RpcError

__all__ = ["HANDSHAKE_VERSIONS", "SERVED_VERSIONS", "Wire", "refuse_handshake", "select"]

HANDSHAKE_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Revisions that begin with `initialize`. A header naming one of them selects the legacy rules."""

SERVED_VERSIONS = (modern.VERSION,)
"""What `server/discover` and refusals name. Only what is served stands here (M-DISC-06, M-VER-02)."""


class Wire(StrEnum):
    MODERN = modern.VERSION
    LEGACY = "2025-11-25"


def select(message: Message, version_headers: Sequence[str]) -> Wire:
    """The rules for a POSTed message, by its body first and its `MCP-Protocol-Version` headers second.

    A request with the modern envelope is modern whatever else it says (X-SEL-02); without it, it is modern when a
    header names anything but a handshake-era revision (X-SEL-03, X-SEL-06). Notifications and responses go by their
    header alone (X-SEL-16).
    """
    if isinstance(message, Request):
        if modern.is_marked(message.params):
            return Wire.MODERN
        return Wire.MODERN if any(value not in HANDSHAKE_VERSIONS for value in version_headers) else Wire.LEGACY
    return Wire.MODERN if modern.VERSION in version_headers else Wire.LEGACY


def refuse_handshake(message: Message, version_headers: Sequence[str]) -> RpcError:
    """What a client of a revision with a handshake is told as long as none is served."""
    asked = message.params.get("protocolVersion") if isinstance(message, Request) and message.params else None
    requested = asked if isinstance(asked, str) else next(iter(version_headers), Wire.LEGACY.value)
    return RpcError(
        UNSUPPORTED_VERSION,
        f"This server speaks MCP {', '.join(SERVED_VERSIONS)} only, without a handshake: "
        "send that version in the MCP-Protocol-Version header and in params._meta of each request",
        {"supported": list(SERVED_VERSIONS), "requested": requested},
    )
