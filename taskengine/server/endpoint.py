"""The MCP endpoint: from an HTTP request to a message under the rules of its revision."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from taskengine.server.caller import identify
from taskengine.server.checks import Refusal, check_headers
from taskengine.server.dispatch import serve_modern
from taskengine.server.exchange import send_json
from taskengine.server.service import Service
from taskengine.wire import selection
from taskengine.wire.headers import RawHeaders, values
from taskengine.wire.jsonrpc import Request, RpcError, error_response, id_of, parse
from taskengine.wire.selection import Wire

__all__ = ["McpEndpoint"]

ALLOW = ((b"allow", b"POST"),)
BODY_S = 60.0
"""How long a body may take to come."""


class McpEndpoint:
    """An ASGI application for one path. Any front end answers any request: nothing is kept between them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        headers: RawHeaders = scope["headers"]
        try:
            accepts = check_headers(headers, scope["method"], service.allowed_hosts)
            body = await _read_in_time(headers, receive, service.settings.max_body_bytes)
            message = parse(body)
        except Refusal as refusal:
            extra = ALLOW if refusal.status == 405 else ()
            await send_json(send, refusal.status, error_response(None, refusal.error), extra)
            return
        except RpcError as error:
            await send_json(send, 400, error_response(id_of(error), error))
            return
        except ClientDisconnect:
            return
        if not service.started:
            await service.start()
        versions = values(headers, "mcp-protocol-version")
        if selection.select(message, versions) is Wire.LEGACY:
            request_id = message.id if isinstance(message, Request) else None
            refused = selection.refuse_handshake(message, versions)
            await send_json(send, 400, error_response(request_id, refused))
            return
        await serve_modern(
            service, identify(scope), message, raw_headers=headers, accepts=accepts, receive=receive, send=send
        )


async def _read_in_time(headers: RawHeaders, receive: Receive, limit: int) -> bytes:
    """As `_read`. Raises Refusal 408 for a body that does not come: nobody may hold a connection by it."""
    try:
        async with asyncio.timeout(BODY_S):
            return await _read(headers, receive, limit)
    except TimeoutError:
        raise Refusal(408, f"The body did not come within {BODY_S:g} seconds: send the request again") from None


async def _read(headers: RawHeaders, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises Refusal 413 as soon as it is known to be too large."""
    too_large = Refusal(413, f"The body has more than {limit} bytes: send less, or a link to it")
    announced = values(headers, "content-length")
    if announced and announced[0].isdecimal() and (len(announced[0]) > 18 or int(announced[0]) > limit):
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = event.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
        if not event.get("more_body", False):
            return b"".join(chunks)
