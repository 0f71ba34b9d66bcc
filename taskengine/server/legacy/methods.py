"""The methods of a session, each with the revision it needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from taskengine.server.exchange import Exchange
from taskengine.server.legacy.call import Call
from taskengine.server.legacy.calls import call_tool, follow_call
from taskengine.server.legacy.front import Front, key_of
from taskengine.server.legacy.session import Session
from taskengine.server.legacy.streams import Labelled, Place
from taskengine.server.legacy.tasks import cancel_task, follow_result, get_result, get_task, list_tasks
from taskengine.server.legacy.turns import Turn
from taskengine.wire import legacy
from taskengine.wire.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Notification, RpcError

__all__ = ["check_method", "notified", "plain", "resume", "stream", "stream_name"]

logger = logging.getLogger("taskengine.server")


async def _ping(_: Call) -> dict[str, Any]:
    return {}


async def _list_tools(call: Call) -> dict[str, Any]:
    """All tools on one page: no cursor is ever given out, so none is valid (X-PAGE-02)."""
    if call.params.get("cursor") is not None:
        raise RpcError(INVALID_PARAMS, "The cursor is not valid: all tools are on the first page")
    service = call.service
    return legacy.list_tools_result(service.listed_tools, call.session.version, service.bridges)


async def _set_level(call: Call) -> dict[str, Any]:
    """From now on, for streams that are open too, at any front end (L-LOG-05, L-LOG-07)."""
    level = legacy.read_level(call.params)
    await call.service.budgets.acting(call.caller)
    await call.front.sessions.set_level(call.session, level)
    call.front.set_level(call.session.id, level)
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


def stream_name(call: Call, place: Place) -> str:
    """The same for the stream that the client left and for each on which it goes on: one of them is served."""
    return str(place.facts.get("n") or " ".join(key_of(call.session, call.request_id)))


async def _resumed(call: Call, place: Place, exchange: Exchange, framing: Labelled) -> Any:
    """The stream that the client comes from is closed, wherever it is still held to be open (L-TRANS-18)."""
    facts, front = place.facts, call.front
    key = key_of(call.session, call.request_id)
    if front.requests.was_cancelled(key):  # clients' transports come back to whatever ended without an answer
        raise legacy.cancelled_request()
    turn = Turn()
    await front.requests.displace(key)
    match facts["kind"]:
        case "call":
            record = await call.service.store.tasks.get(facts["t"], call.caller.owner)
            keyed = facts.get("k", False)  # front ends of an earlier version did not say
            return await follow_call(call, record, exchange, framing, token=facts["p"], keyed=keyed, turn=turn)
        case "result":
            record = await call.service.store.tasks.get(facts["t"], call.caller.owner)
            return await follow_result(call, record, exchange, framing, turn)
        case _:
            run = front.runs.get(facts["i"])
            if run is None:
                with front.running(call.session, call.request_id, exchange, turn=turn):
                    return await front.elsewhere.result(call.session.id, facts["i"])
            exchange.outlive_token()
            with front.running(call.session, call.request_id, exchange, run.cancel, turn):
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
    if notification.method == "notifications/initialized":
        await front.is_ready(session)
    if notification.method != "notifications/cancelled":
        return
    params = notification.params or {}
    request_id = params.get("requestId")
    if isinstance(request_id, (str, int)) and not isinstance(request_id, bool):
        logger.info("a client cancelled a request: %s", ascii(str(params.get("reason", "it gave no reason"))[:200]))
        await front.cancel(session, request_id)
