"""The methods of a session, each with the revision it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from taskengine.server.exchange import Exchange
from taskengine.server.legacy.call import Call
from taskengine.server.legacy.calls import call_tool, follow_call
from taskengine.server.legacy.front import Front
from taskengine.server.legacy.session import Session
from taskengine.server.legacy.streams import Labelled, Place
from taskengine.server.legacy.tasks import cancel_task, follow_result, get_result, get_task, list_tasks
from taskengine.wire import legacy
from taskengine.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, Notification, RpcError

__all__ = ["check_method", "notified", "plain", "resume", "stream"]


async def _ping(_: Call) -> dict[str, Any]:
    return {}


async def _list_tools(call: Call) -> dict[str, Any]:
    """All tools on one page: no cursor is ever given out, so none is valid (X-PAGE-02)."""
    if call.params.get("cursor") is not None:
        raise RpcError(INVALID_PARAMS, "The cursor is not valid: all tools are on the first page")
    service = call.service
    return legacy.list_tools_result(service.listed_tools, call.session.version, service.bridges)


async def _set_level(call: Call) -> dict[str, Any]:
    await call.front.sessions.set_level(call.session, legacy.read_level(call.params))
    return {}


Plain = Callable[[Call], Awaitable[Any]]
Streaming = Callable[[Call, Exchange, Labelled], Awaitable[Any]]

_PLAIN: dict[str, Plain] = {
    "ping": _ping,
    "tools/list": _list_tools,
    "logging/setLevel": _set_level,
    "tasks/get": get_task,
    "tasks/list": list_tasks,
    "tasks/cancel": cancel_task,
}
_STREAMING: dict[str, Streaming] = {"tools/call": call_tool, "tasks/result": get_result}


def check_method(session: Session, method: str) -> None:
    """Raises RpcError -32601."""
    known = method in _PLAIN or method in _STREAMING
    if not known or (method.startswith("tasks/") and not session.features.tasks):
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method[:128]}")


def plain(method: str) -> Plain | None:
    """The method, when nothing precedes its answer."""
    return _PLAIN.get(method)


async def stream(call: Call, exchange: Exchange, framing: Labelled) -> Any:
    """The result of a method that may have something to say before. Raises what the error table knows."""
    method = _STREAMING[call.request.method]
    return await _leaving_well(call, exchange, framing, method(call, exchange, framing))


async def resume(call: Call, place: Place, exchange: Exchange, framing: Labelled) -> Any:
    """The result of the request whose stream the client left (L-TRANS-21)."""
    return await _leaving_well(call, exchange, framing, _resumed(call, place, exchange, framing))


async def _resumed(call: Call, place: Place, exchange: Exchange, framing: Labelled) -> Any:
    facts = place.facts
    match facts["kind"]:
        case "call":
            record = await call.service.store.tasks.get(facts["t"], call.caller.owner)
            return await follow_call(call, record, exchange, framing, facts["p"])
        case "result":
            return await follow_result(call, facts["t"], exchange, framing)
        case _:
            run = call.front.runs.get(facts["i"])
            if run is None:
                raise RpcError(INTERNAL_ERROR, "The call has ended with its server: send it again")
            with call.front.cancellable(call.session, call.request_id, exchange, run.cancel):
                return await run.serve(exchange, framing)


async def _leaving_well(call: Call, exchange: Exchange, framing: Labelled, work: Awaitable[Any]) -> Any:
    """A request that its client cancelled, or that a stopping server leaves, ends without a misleading response.

    What is durable goes on at another front end, where the client comes back to.
    """
    try:
        return await work
    except asyncio.CancelledError:
        if exchange.disconnected:
            raise
        if not call.service.stopping:
            raise legacy.cancelled_request() from None
        if framing.goes_on and call.session.features.polled_streams and exchange.accepts.events:
            await exchange.part()
        raise


async def notified(front: Front, session: Session, notification: Notification) -> None:
    """What a notification asks for; those that are malformed or unknown are ignored (X-CANC-08)."""
    if notification.method != "notifications/cancelled":
        return
    request_id = (notification.params or {}).get("requestId")
    if isinstance(request_id, (str, int)) and not isinstance(request_id, bool):
        await front.cancel(session, request_id)
