"""The MCP endpoint: from an HTTP request to a message under the rules of its revision."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from taskengine.server.bodies import Bodies
from taskengine.server.caller import Caller
from taskengine.server.checks import Refusal, check_headers, check_hosts
from taskengine.server.dispatch import serve_modern
from taskengine.server.exchange import send_json
from taskengine.server.legacy.endpoint import LegacyEndpoint
from taskengine.server.legacy.line import Line
from taskengine.server.service import Service
from taskengine.server.trail import UNKNOWN
from taskengine.wire import selection
from taskengine.wire.headers import Headers, RawHeaders, values
from taskengine.wire.jsonrpc import Batch, Message, Request, RpcError, error_response, id_of, parse
from taskengine.wire.selection import Wire

__all__ = ["McpEndpoint"]

REFUSED = {401, 403, 429}
"""Statuses that go to the audit log."""


class McpEndpoint:
    """An ASGI application for one path. Any front end answers any request: nothing is kept between them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bodies = Bodies(service.settings.max_body_bytes)
        self._legacy = LegacyEndpoint(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        headers = Headers(scope["headers"])
        message: Message | Batch | None = None
        caller: Caller | None = None
        try:
            check_hosts(headers, service.allowed_hosts)
            caller = await service.guard.identify(scope, headers)
            accepts = check_headers(headers, scope["method"])
            if scope["method"] == "POST":
                message = _parse(headers, await self._bodies.read(headers, receive))
            legacy = _is_legacy(headers, message)
            service.guard.check_scopes(caller, message, scope["method"], handshake=legacy)
        except Refusal as refusal:
            if refusal.status in REFUSED:
                await service.start()
                service.trail.note(UNKNOWN if caller is None else caller.owner, "refuse", detail=refusal.message)
            request_id = message.id if isinstance(message, Request) else None
            await send_json(send, refusal.status, error_response(request_id, refusal.error), refusal.headers)
            return
        except RpcError as error:
            await send_json(send, 400, error_response(id_of(error), error))
            return
        except ClientDisconnect:
            return
        if not service.started:
            await service.start()
        if message is None:
            if scope["method"] == "GET":
                await self._legacy.get(caller, headers, Line(receive, send))
            else:
                await self._legacy.delete(caller, headers, send)
        elif isinstance(message, Batch):
            await self._legacy.batch(caller, headers, message, Line(receive, send, accepts))
        elif legacy:
            await self._legacy.post(caller, headers, message, Line(receive, send, accepts))
        else:
            await serve_modern(
                service, caller, message, raw_headers=headers, accepts=accepts, receive=receive, send=send
            )


def _is_legacy(headers: RawHeaders, message: Message | Batch | None) -> bool:
    """Whether the request is of a revision with a handshake: only these have other methods of HTTP, and batches."""
    if message is None or isinstance(message, Batch):
        return True
    return selection.select(message, values(headers, "mcp-protocol-version")) is Wire.LEGACY


def _parse(headers: RawHeaders, body: bytes) -> Message | Batch:
    """What is in a body. Raises RpcError, and for a batch under a revision that has none."""
    try:
        return parse(body)
    except Batch as batch:
        if not selection.may_be_batch(batch.values, values(headers, "mcp-protocol-version")):
            raise
        return batch
