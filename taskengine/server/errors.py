"""One table from what can go wrong to what the wire says. Nothing of the machinery behind it is told (X-SEC-13)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from taskengine.errors import (
    BadAnswer,
    KeyReused,
    LimitReached,
    ProtocolError,
    StoreUnavailable,
    TaskNotFound,
    Unreadable,
)
from taskengine.server.request_state import RequestStateError
from taskengine.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, RpcError

__all__ = ["retry_headers", "rpc_error"]

logger = logging.getLogger("taskengine.server")

RETRY_AFTER = "retryAfterSeconds"
"""In the data of an error: when to try again."""


def _unreadable(error: Unreadable) -> RpcError:
    logger.error("%s", error)
    return RpcError(INTERNAL_ERROR, "The server cannot read this task for now: tell its operator, nothing is lost")


_TABLE: dict[type[BaseException], Callable[[Any], RpcError]] = {
    RpcError: lambda error: error,
    ProtocolError: lambda error: RpcError(error.code, error.message, error.data),
    TaskNotFound: lambda error: RpcError(INVALID_PARAMS, f"{error}: it was never made here, or its time is over"),
    KeyReused: lambda error: RpcError(INVALID_PARAMS, str(error)),
    Unreadable: _unreadable,
    LimitReached: lambda error: RpcError(
        error.CODE, str(error), {"limit": error.limit, RETRY_AFTER: error.retry_after}
    ),
    BadAnswer: lambda error: RpcError(INVALID_PARAMS, _sentence(str(error))),
    RequestStateError: lambda error: RpcError(INVALID_PARAMS, str(error)),
    StoreUnavailable: lambda _: RpcError(
        INTERNAL_ERROR, "The server cannot reach its database for now: nothing was changed, try again"
    ),
}


def rpc_error(error: BaseException) -> RpcError:
    """The JSON-RPC error for `error`. What is not in the table is a fault of ours: logged, and -32603 (M-TASK-66)."""
    for kind in type(error).__mro__:
        if kind in _TABLE:
            if kind is StoreUnavailable:
                logger.warning("%s", error)
            return _TABLE[kind](error)
    logger.error("internal error", exc_info=error)
    return RpcError(INTERNAL_ERROR, "Internal error: it is in the server's log")


def retry_headers(error: RpcError) -> tuple[tuple[bytes, bytes], ...]:
    """`Retry-After` for an error that says when to try again."""
    data = error.data if isinstance(error.data, Mapping) else {}
    seconds = data.get(RETRY_AFTER)
    return ((b"retry-after", str(seconds).encode()),) if isinstance(seconds, int) else ()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
