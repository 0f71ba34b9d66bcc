"""The handshake of 2025-11-25 and the two revisions before it: versions, what each has, and who can be asked what.

Translation only. The older revisions know fewer members; one table of features is all that tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskengine.engine import TaskEngine
from taskengine.wire.jsonrpc import INVALID_PARAMS, Request, RpcError

__all__ = [
    "LATEST",
    "VERSIONS",
    "Features",
    "features",
    "initialize_result",
    "negotiated",
    "read_capabilities",
    "read_initialize",
]

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Served over the handshake, newest first."""
LATEST = VERSIONS[0]

_CAPABILITIES: dict[str, dict[str, tuple[str, ...]]] = {
    "2025-11-25": {"elicitation": ("form", "url"), "sampling": ("tools", "context"), "roots": ()},
    "2025-06-18": {"elicitation": (), "sampling": (), "roots": ()},
    "2025-03-26": {"sampling": (), "roots": ()},
}
"""What a client of each revision can be asked, with the parts that are declared by themselves."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a revision has beyond the oldest one."""

    tasks: bool
    icons: bool
    structured: bool
    """Titles, `outputSchema`, `structuredContent`, `resource_link` and `_meta` of tools."""
    batches: bool
    """A body may hold several messages, which only the oldest one has."""
    polled_streams: bool
    """A stream begins with an empty event, and may be closed for the client to come back (L-TRANS-07, L-TRANS-08)."""


def features(version: str) -> Features:
    newest = version == LATEST
    oldest = version == VERSIONS[-1]
    return Features(tasks=newest, icons=newest, structured=not oldest, batches=oldest, polled_streams=newest)


def read_initialize(request: Request) -> tuple[str, Mapping[str, Any]]:
    """The version and capabilities asked with. Raises RpcError -32602 (L-LIFE-09)."""
    params = request.params or {}
    version, capabilities = params.get("protocolVersion"), params.get("capabilities", {})
    if not isinstance(version, str):
        data = {"supported": list(VERSIONS), "requested": version}
        raise RpcError(INVALID_PARAMS, "initialize names the protocol version as a string", data)
    if not isinstance(capabilities, Mapping):
        raise RpcError(INVALID_PARAMS, "params.capabilities must be an object")
    return version, capabilities


def negotiated(requested: str) -> str:
    """The version in force after `initialize`: the one asked for, else the latest (L-LIFE-02 to L-LIFE-04)."""
    return requested if requested in VERSIONS else LATEST


def read_capabilities(version: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    """What may be asked of this client, and nothing else it said.

    Extensions are not defined here (X-SEL-11); parts that the revision does not know declare nothing (L-LIFE-05).
    """
    known: dict[str, Any] = {}
    for name, parts in _CAPABILITIES[version].items():
        given = declared.get(name)
        if isinstance(given, Mapping):
            known[name] = {part: {} for part in parts if isinstance(given.get(part), Mapping)}
    return known


def initialize_result(engine: TaskEngine, version: str, *, lists_tasks: bool) -> dict[str, Any]:
    """`InitializeResult` (L-LIFE-01, L-LIFE-07)."""
    known = features(version)
    info: dict[str, Any] = {"name": engine.name, "version": engine.version}
    if known.structured and engine.title:
        info["title"] = engine.title
    if known.icons:
        extra = {"websiteUrl": engine.website_url, "icons": engine.icons}
        info |= {key: value for key, value in extra.items() if value is not None}
    capabilities: dict[str, Any] = {"tools": {"listChanged": True}, "logging": {}}
    if known.tasks:
        listing: dict[str, Any] = {"list": {}} if lists_tasks else {}
        capabilities["tasks"] = {**listing, "cancel": {}, "requests": {"tools": {"call": {}}}}
    result: dict[str, Any] = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
    if engine.instructions:
        result["instructions"] = engine.instructions
    return result
