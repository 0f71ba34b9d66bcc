"""Which calls are one call: the place where keys of clients and `dedupe` of tools become a name in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from taskengine.durations import milliseconds
from taskengine.records import Same
from taskengine.tool import Tool
from taskengine.wire.jsonrpc import INVALID_PARAMS, RpcError

__all__ = ["no_task_for", "same_call"]


def same_call(tool: Tool, arguments: Mapping[str, Any], first: Mapping[str, Any], key: str | None) -> Same | None:
    """Under what the call is found again: by its key, which counts alone, or by its arguments where the tool says so.

    A key means one call of its owner, whatever tool and arguments it has; another call under it is refused.
    """
    if key is not None:
        return Same(_digest("key", key))
    if tool.dedupe_for is None:
        return None
    return Same(_digest("arguments", [tool.name, arguments, first]), milliseconds(tool.dedupe_for))


def no_task_for(tool: Tool, key: str | None) -> None:
    """Raises RpcError when a key is given for a call that nothing is kept of: its promise could not be held."""
    if key is not None:
        raise RpcError(
            INVALID_PARAMS,
            f"{tool.name} keeps nothing of its calls, so it cannot hold an idempotency key: leave it out",
        )


def _digest(kind: str, value: Any) -> str:
    text = json.dumps([kind, value], sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode()).hexdigest()
