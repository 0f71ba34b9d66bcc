"""The MCP endpoint: from an HTTP request to a message under the rules of its revision."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from taskengine.server.caller import identify
from taskengine.server.checks import METHODS, Refusal, check_headers
from taskengine.server.dispatch import serve_modern
from taskengine.server.exchange import send_json
from taskengine.server.legacy.endpoint import LegacyEndpoint
from taskengine.server.legacy.line import Line
from taskengine.server.service import Service
from taskengine.wire import selection
from taskengine.wire.headers import Headers, RawHeaders, values
from taskengine.wire.jsonrpc import Batch, Message, RpcError, error_response, id_of, parse
from taskengine.wire.selection import Wire

__all__ = ["McpEndpoint"]

BODY_S = 60.0
"""How long a body may take to come."""


class McpEndpoint:
    """An ASGI application for one path. Any front end answers any request: nothing is kept between them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._legacy = LegacyEndpoint(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        headers = Headers(scope["headers"])
        try:
            accepts = check_headers(headers, scope["method"], service.allowed_hosts)
            message: Message | Batch | None = None
            if scope["method"] == "POST":
                message = _parse(headers, await _read_in_time(headers, receive, service.settings.max_body_bytes))
        except Refusal as refusal:
            extra = ((b"allow", ", ".join(METHODS).encode()),) if refusal.status == 405 else ()
            await send_json(send, refusal.status, error_response(None, refusal.error), extra)
            return
        except RpcError as error:
            await send_json(send, 400, error_response(id_of(error), error))
            return
        except ClientDisconnect:
            return
        if not service.started:
            await service.start()
        caller = identify(scope)
        if message is None:
            if scope["method"] == "GET":
                await self._legacy.get(caller, headers, Line(receive, send))
            else:
                await self._legacy.delete(caller, headers, send)
        elif isinstance(message, Batch):
            await self._legacy.batch(caller, headers, message, Line(receive, send, accepts))
        elif selection.select(message, values(headers, "mcp-protocol-version")) is Wire.LEGACY:
            await self._legacy.post(caller, headers, message, Line(receive, send, accepts))
        else:
            await serve_modern(
                service, caller, message, raw_headers=headers, accepts=accepts, receive=receive, send=send
            )


def _parse(headers: RawHeaders, body: bytes) -> Message | Batch:
    """What is in a body. Raises RpcError, and for a batch under a revision that has none."""
    try:
        return parse(body)
    except Batch as batch:
        if not selection.may_be_batch(batch.values, values(headers, "mcp-protocol-version")):
            raise
        return batch


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
