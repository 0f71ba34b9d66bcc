"""One table from what can go wrong to what the wire says. Nothing of the machinery behind it is told (X-SEC-13)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from taskengine.errors import BadAnswer, ProtocolError, StoreUnavailable, TaskNotFound
from taskengine.server.request_state import RequestStateError
from taskengine.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, RpcError

__all__ = ["rpc_error"]

logger = logging.getLogger("taskengine.server")

_TABLE: dict[type[BaseException], Callable[[Any], RpcError]] = {
    RpcError: lambda error: error,
    ProtocolError: lambda error: RpcError(error.code, error.message, error.data),
    TaskNotFound: lambda error: RpcError(INVALID_PARAMS, f"{error}: it was never made here, or its time is over"),
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


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
