"""What a call says of itself besides its arguments: its idempotency key and the trace it belongs to. Pure.

Both stand in `_meta` on any transport; over HTTP a header may say the same, for clients that cannot write `_meta`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from taskengine.wire.headers import RawHeaders, values
from taskengine.wire.jsonrpc import INVALID_PARAMS, RpcError

__all__ = ["IDEMPOTENCY_KEY", "PRIORITY", "idempotency_key", "priority", "traceparent"]

IDEMPOTENCY_KEY = "dev.taskengine/idempotencyKey"
PRIORITY = "dev.taskengine/priority"
KEY_HEADER = "idempotency-key"
LONGEST_KEY = 255

_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[\x21-\x7e]*)?")


def idempotency_key(params: Mapping[str, Any], headers: RawHeaders | None) -> str | None:
    """The key of a call, or None. Raises RpcError -32602 for one that is none, and for two that differ."""
    found: set[Any] = set()
    meta = params.get("_meta")
    if isinstance(meta, Mapping) and IDEMPOTENCY_KEY in meta:
        found.add(_checked(meta[IDEMPOTENCY_KEY], f"params._meta[{IDEMPOTENCY_KEY!r}]"))
    for given in values(headers, KEY_HEADER) if headers is not None else ():
        # The header's draft has it as a quoted string; nearly everybody sends it bare.
        bare = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
        found.add(_checked(bare, "the header Idempotency-Key"))
    if len(found) > 1:
        raise RpcError(INVALID_PARAMS, "The call has two idempotency keys that differ: send one")
    return found.pop() if found else None


def _checked(key: Any, where: str) -> str:
    if not isinstance(key, str) or len(key) > LONGEST_KEY or not _KEY.fullmatch(key):
        raise RpcError(INVALID_PARAMS, f"{where} is 1 to {LONGEST_KEY} printable ASCII characters")
    return key


def priority(params: Mapping[str, Any], default: int, lowest: int, highest: int) -> int:
    """The priority that a call asks for, else `default`. Raises RpcError -32602 for one that it may not have."""
    meta = params.get("_meta")
    if not isinstance(meta, Mapping) or PRIORITY not in meta:
        return default
    asked = meta[PRIORITY]
    if isinstance(asked, bool) or not isinstance(asked, int) or not lowest <= asked <= highest:
        raise RpcError(
            INVALID_PARAMS, f"params._meta[{PRIORITY!r}] is a whole number from {lowest} to {highest} for this tool"
        )
    return asked


def traceparent(params: Mapping[str, Any] | None, headers: RawHeaders | None) -> str | None:
    """The W3C `traceparent` of a request; what is malformed counts as absent (M-TRACE-01, X-TRACE-03)."""
    meta = (params or {}).get("_meta")
    given = [meta.get("traceparent")] if isinstance(meta, Mapping) else []
    given += values(headers, "traceparent") if headers is not None else []
    for value in given:
        found = _TRACEPARENT.fullmatch(value) if isinstance(value, str) and len(value) <= LONGEST_KEY else None
        if found is None or found[1] == "ff" or not int(found[2], 16) or not int(found[3], 16):
            continue
        if found[1] != "00" or found[4] is None:
            return found[0]
    return None
