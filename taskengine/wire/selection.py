"""Which revision's rules a message is under: the one place that decides it (section 1.1 of the requirements). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from taskengine.wire import handshake, modern
from taskengine.wire.jsonrpc import Message, Request

__all__ = ["HANDSHAKE_VERSIONS", "SERVED_VERSIONS", "Wire", "may_be_batch", "select"]

HANDSHAKE_VERSIONS = (*handshake.VERSIONS, "2024-11-05")
"""Revisions that begin with `initialize`. A header naming one of them selects the legacy rules."""

SERVED_VERSIONS = (modern.VERSION, *handshake.VERSIONS)
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


def may_be_batch(values: Iterable[Any], version_headers: Sequence[str]) -> bool:
    """Whether an array of messages may be one: only 2025-03-26 has batches, which its session then tells (M-TRANS-10,
    L-TRANS-03)."""
    params = [value.get("params") for value in values if isinstance(value, dict)]
    marked = any(modern.is_marked(each) for each in params if isinstance(each, dict))
    return not marked and all(value in HANDSHAKE_VERSIONS for value in version_headers)
