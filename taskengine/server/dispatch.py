"""The methods of the 2026-07-28 wire, and the order in which a request is checked (A-14)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.types import Receive, Send

from taskengine import logs
from taskengine.server.call import Call
from taskengine.server.caller import Caller
from taskengine.server.calls import call_tool
from taskengine.server.checks import Accepts
from taskengine.server.errors import retry_headers, rpc_error
from taskengine.server.exchange import Exchange, send_empty, send_json
from taskengine.server.listen import listen
from taskengine.server.service import Service
from taskengine.server.tasks import cancel_task, get_task, update_task
from taskengine.wire import headers, modern
from taskengine.wire.headers import RawHeaders
from taskengine.wire.jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    UNSUPPORTED_VERSION,
    Message,
    Notification,
    Request,
    RpcError,
    error_response,
    result_response,
)
from taskengine.wire.meta import traceparent
from taskengine.wire.selection import SERVED_VERSIONS

__all__ = ["serve_modern"]

Plain = Callable[[Call], Awaitable[Any]]
Streaming = Callable[[Call, Exchange], Coroutine[Any, Any, Any]]


async def _discover(call: Call) -> dict[str, Any]:
    service = call.service
    return modern.discover_result(service.engine, SERVED_VERSIONS, service.settings.list_ttl, service.meta)


async def _list_tools(call: Call) -> dict[str, Any]:
    """All tools on one page: no cursor is ever given out, so none is valid (X-PAGE-02)."""
    if call.params.get("cursor") is not None:
        raise RpcError(INVALID_PARAMS, "The cursor is not valid: all tools are on the first page")
    service = call.service
    return modern.list_tools_result(service.listed_tools, service.settings.list_ttl, service.meta)


_PLAIN: dict[str, Plain] = {
    "server/discover": _discover,
    "tools/list": _list_tools,
    "tasks/get": get_task,
    "tasks/update": update_task,
    "tasks/cancel": cancel_task,
}

_STREAMING: dict[str, Streaming] = {"tools/call": call_tool, "subscriptions/listen": listen}


async def serve_modern(
    service: Service,
    caller: Caller,
    message: Message,
    *,
    raw_headers: RawHeaders | None,
    accepts: Accepts,
    receive: Receive,
    send: Send,
) -> None:
    """Answer one message under the rules of 2026-07-28."""
    if isinstance(message, Notification):
        await send_empty(send, 202)  # none has an effect on this wire over HTTP (M-CANC-05)
        return
    if not isinstance(message, Request):
        unexpected = RpcError(INVALID_REQUEST, "There is no request of the server that this could answer")
        await send_json(send, 400, error_response(None, unexpected))
        return
    tool = (message.params or {}).get("name") if message.method == "tools/call" else None
    with logs.bound(
        owner=caller.owner,
        tool=tool[:128] if isinstance(tool, str) else None,
        traceparent=traceparent(message.params, raw_headers),
    ):
        await _serve(service, caller, message, raw_headers, accepts=accepts, receive=receive, send=send)


async def _serve(
    service: Service,
    caller: Caller,
    message: Request,
    raw_headers: RawHeaders | None,
    *,
    accepts: Accepts,
    receive: Receive,
    send: Send,
) -> None:
    try:
        call = _checked(service, caller, message, raw_headers)
        plain = _PLAIN.get(message.method)
        if plain is not None and accepts.json:
            answer = await service.trail.watching(caller.owner, plain(call), message.params)
            response = result_response(message.id, answer)
            await send_json(send, 200, response)
            return
    except Exception as error:
        refusal = rpc_error(error)
        status = modern.http_status(refusal.code)
        await send_json(send, status, error_response(message.id, refusal), retry_headers(refusal))
        return
    listening = message.method == "subscriptions/listen"
    if listening and not accepts.events:
        unheard = RpcError(INVALID_REQUEST, "A subscription is a stream: list text/event-stream in the Accept header")
        await send_json(send, 406, error_response(message.id, unheard))
        return
    exchange = Exchange(
        message.id,
        accepts,
        receive,
        send,
        keep_alive_s=service.settings.keep_alive.total_seconds(),
        status_of=modern.http_status,
    )
    watching = service.trail.watching
    with service.attending(exchange, patient=not listening):
        if plain is not None:
            await exchange.run(lambda _: watching(caller.owner, plain(call), message.params))
        else:
            serve = _STREAMING[message.method]
            await exchange.run(lambda opened: watching(caller.owner, serve(call, opened), message.params))


def _checked(service: Service, caller: Caller, request: Request, raw_headers: RawHeaders | None) -> Call:
    """Envelope, headers against body, version, method. Raises RpcError for the first that fails."""
    envelope = modern.read_envelope(request)
    headers.check_routing(raw_headers, request, envelope.version)
    if envelope.version != modern.VERSION:
        raise RpcError(
            UNSUPPORTED_VERSION,
            "This protocol version is not served",
            {"supported": _others(envelope.version), "requested": envelope.version},
        )
    if request.method not in _PLAIN and request.method not in _STREAMING:
        # A client that knows the handshake only can show its user nothing but this (X-SEL-18).
        data = {"supported": list(SERVED_VERSIONS)} if request.method == "initialize" else None
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {request.method[:128]}", data)
    return Call(service, caller, request, envelope, raw_headers)


def _others(version: str) -> list[str]:
    """What to try instead. Older revisions are served with a handshake only, so they are no answer to one of them that
    came without (A-16)."""
    return [modern.VERSION] if version in SERVED_VERSIONS else list(SERVED_VERSIONS)
