"""Streamable HTTP of the revisions with a handshake: POST, GET and DELETE of one path (sections 1.8 and 1.10)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from starlette.types import Send

from taskengine import logs
from taskengine.errors import BadAnswer, LimitReached, StoreUnavailable
from taskengine.server.caller import Caller
from taskengine.server.errors import retry_headers, rpc_error
from taskengine.server.exchange import Exchange, send_empty, send_json
from taskengine.server.legacy import methods
from taskengine.server.legacy.answers import take_response
from taskengine.server.legacy.batches import answer_together, read_batch
from taskengine.server.legacy.call import Call
from taskengine.server.legacy.front import Front
from taskengine.server.legacy.line import STREAM, Line
from taskengine.server.legacy.listen import listen
from taskengine.server.legacy.session import Session, SessionGone
from taskengine.server.legacy.streams import Labelled, Place, read_place
from taskengine.server.legacy.tasks import lists_tasks
from taskengine.server.service import Service
from taskengine.wire import handshake
from taskengine.wire.headers import RawHeaders, values
from taskengine.wire.jsonrpc import (
    INVALID_REQUEST,
    Batch,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    RpcError,
    error_response,
    result_response,
)
from taskengine.wire.meta import traceparent

__all__ = ["LegacyEndpoint"]

logger = logging.getLogger("taskengine.server")

SESSION = "mcp-session-id"
VERSION = "mcp-protocol-version"
LAST_EVENT = "last-event-id"


class _Refused(Exception):
    """An HTTP status and an error, before any method is looked at."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.error = status, RpcError(INVALID_REQUEST, message)


class LegacyEndpoint:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._front = Front(service)

    async def post(self, caller: Caller, headers: RawHeaders, message: Message, line: Line) -> None:
        """Answer one message."""
        send = line.send
        request_id = message.id if isinstance(message, Request) else None
        try:
            if isinstance(message, Request) and message.method == "initialize":
                await self._initialize(caller, message, send)
                return
            session = await self._session(caller, headers)
            if isinstance(message, Request):
                await self._request(Call(self._front, caller, session, message, line.accepts, headers), line)
            else:
                await self._take(caller, session, message)
                await send_empty(send, 202)
        except _Refused as refused:
            await send_json(send, refused.status, error_response(request_id, refused.error))
        except LimitReached as limit:
            await self._limited(caller, limit, send)

    async def batch(self, caller: Caller, headers: RawHeaders, batch: Batch, line: Line) -> None:
        """Answer several messages with one answer, where the session's revision has such."""
        try:
            session = await self._session(caller, headers)
            messages = read_batch(session, batch)
            requests = [message for message in messages if isinstance(message, Request)]
            for message in messages:
                if not isinstance(message, Request):
                    await self._take(caller, session, message)
        except RpcError as error:
            await send_json(line.send, 400, error_response(None, error))
        except _Refused as refused:
            await send_json(line.send, refused.status, error_response(None, refused.error))
        except LimitReached as limit:
            await self._limited(caller, limit, line.send)
        else:
            if not requests:
                await send_empty(line.send, 202)
                return
            calls = [Call(self._front, caller, session, request, line.accepts) for request in requests]
            await answer_together(line, [partial(self._request, call) for call in calls])

    async def get(self, caller: Caller, headers: RawHeaders, line: Line) -> None:
        """Open the session's own stream, or go on with the stream of an earlier request."""
        try:
            session = await self._session(caller, headers)
            place = self._place(caller, session, values(headers, LAST_EVENT))
            await self._service.budgets.acting(caller)
        except _Refused as refused:
            await send_json(line.send, refused.status, error_response(None, refused.error))
            return
        except LimitReached as limit:
            await self._limited(caller, limit, line.send)
            return
        self._front.attach()
        begins_empty = session.features.polled_streams
        if place is None or place.facts["kind"] == "listen":
            stream = self._front.tokens.seal("listen", s=session.id)
            framing = Labelled(stream, place, begins_empty=begins_empty)
            exchange = self._exchange(0, caller, session, framing, line)
            try:
                async with self._service.budgets.stream(caller, session.id):
                    with self._service.attending(exchange, patient=False):
                        exchange.end_after(caller.stream_s)
                        await exchange.run(lambda _: listen(self._front, caller, session, exchange, framing))
            except LimitReached as limit:
                await self._limited(caller, limit, line.send)
            return
        request = Request(place.facts["r"], "", None)
        call = Call(self._front, caller, session, request, STREAM)
        framing = Labelled(place.stream, place, begins_empty=begins_empty)
        exchange = self._exchange(request.id, caller, session, framing, line)
        watching, about = self._service.trail.watching, {"taskId": place.facts.get("t")}
        try:
            async with self._service.budgets.stream(caller, methods.stream_name(call, place)):
                with self._service.attending(exchange, patient=True):
                    await exchange.run(
                        lambda _: watching(caller.owner, methods.resume(call, place, exchange, framing), about)
                    )
        except LimitReached as limit:  # nothing is lost: the client comes back to the same place
            await self._limited(caller, limit, line.send)

    async def _limited(self, caller: Caller, limit: LimitReached, send: Send) -> None:
        self._service.trail.refused(caller.owner, limit)
        error = rpc_error(limit)
        await send_json(send, 429, error_response(None, error), retry_headers(error))

    async def delete(self, caller: Caller, headers: RawHeaders, send: Send) -> None:
        """End the session; its tasks live on (L-SESS-12)."""
        try:
            session = await self._session(caller, headers)
            await self._service.budgets.acting(caller)
            await self._front.sessions.end(session)
        except _Refused as refused:
            await send_json(send, refused.status, error_response(None, refused.error))
        except LimitReached as limit:
            await self._limited(caller, limit, send)
        except StoreUnavailable as error:
            await send_json(send, 503, error_response(None, rpc_error(error)))
        except Exception as error:
            await send_json(send, 500, error_response(None, rpc_error(error)))
        else:
            await send_empty(send, 204)

    async def _initialize(self, caller: Caller, request: Request, send: Send) -> None:
        try:
            requested, declared = handshake.read_initialize(request)
            version = handshake.negotiated(requested)
            token = await self._front.sessions.begin(caller, version, handshake.read_capabilities(version, declared))
        except Exception as error:
            await send_json(send, 200, error_response(request.id, rpc_error(error)))
            return
        result = handshake.initialize_result(self._service.engine, version, lists_tasks=lists_tasks(self._service))
        await send_json(send, 200, result_response(request.id, result), ((SESSION.encode(), token.encode()),))

    async def _session(self, caller: Caller, headers: RawHeaders) -> Session:
        """The session of the request, at its version. Raises _Refused (L-SESS-03 to L-SESS-05, L-TRANS-24, A-51)."""
        tokens = values(headers, SESSION)
        if len(tokens) != 1:
            raise _Refused(400, "The header MCP-Session-Id is missing: begin with initialize")
        try:
            session = await self._front.sessions.find(tokens[0], caller)
        except SessionGone:
            self._service.trail.note(caller.owner, "refuse", detail="a session that has ended, is another's, or none")
            raise _Refused(404, "There is no such session: begin again with initialize") from None
        except StoreUnavailable as error:
            refused = _Refused(503, "The server cannot reach its database for now: try again")
            raise refused from error
        except Exception as error:
            raise _Refused(500, rpc_error(error).message) from None
        versions: Sequence[str] = values(headers, VERSION)
        if any(version != session.version for version in versions):
            raise _Refused(400, f"This session speaks MCP {session.version}, and the header says otherwise")
        return session

    def _place(self, caller: Caller, session: Session, events: Sequence[str]) -> Place | None:
        if not events:
            return None
        try:
            return read_place(self._front.tokens, session.id, events[-1])
        except ValueError:
            self._service.trail.note(caller.owner, "refuse", detail="an event that its session was not sent")
            raise _Refused(400, "Last-Event-ID names no event of this session: leave it out") from None

    async def _take(self, caller: Caller, session: Session, message: Notification | Response) -> None:
        """A message that has no answer of its own. Raises _Refused (L-TRANS-05), and LimitReached."""
        if isinstance(message, Response) or message.method == "notifications/cancelled":
            await self._service.budgets.acting(caller)
        try:
            if isinstance(message, Notification):
                self._front.attach()
                await methods.notified(self._front, session, message)
            else:
                await take_response(self._front, caller, session, message)
        except (RpcError, BadAnswer) as error:
            raise _Refused(400, rpc_error(error).message) from None
        except StoreUnavailable as error:
            raise _Refused(503, rpc_error(error).message) from None
        except Exception as error:  # a fault of ours, or of the stored task: said in the log by the table
            raise _Refused(500, rpc_error(error).message) from None

    async def _request(self, call: Call, line: Line) -> None:
        tool = call.params.get("name") if call.request.method == "tools/call" else None
        with logs.bound(
            owner=call.caller.owner,
            tool=tool[:128] if isinstance(tool, str) else None,
            traceparent=traceparent(call.params, call.headers),
        ):
            await self._serve(call, line)

    async def _serve(self, call: Call, line: Line) -> None:
        session, request, watching = call.session, call.request, self._service.trail.watching
        try:
            methods.check_method(session, request.method)
            plain = methods.plain(request.method)
            if plain is not None and call.accepts.json:
                answer = await watching(call.caller.owner, plain(call), request.params)
                await send_json(line.send, 200, result_response(request.id, answer))
                return
        except Exception as error:
            await send_json(line.send, 200, error_response(request.id, rpc_error(error)))
            return
        self._front.attach()
        framing = Labelled(begins_empty=session.features.polled_streams, resumable=line.resumable)
        exchange = self._exchange(request.id, call.caller, session, framing, line)
        with self._service.attending(exchange, patient=True):
            if plain is not None:
                await exchange.run(lambda _: watching(call.caller.owner, plain(call), request.params))
            else:
                await exchange.run(
                    lambda _: watching(call.caller.owner, methods.stream(call, exchange, framing), request.params)
                )

    def _exchange(
        self, request_id: RequestId, caller: Caller, session: Session, framing: Labelled, line: Line
    ) -> Exchange:
        """Streams whose client can come back are closed after a time, and all at the end of its token (M-SUB-16)."""
        settings = self._service.settings
        limits = [settings.stream_limit.total_seconds() or None, caller.stream_s]
        limit_s = min((limit for limit in limits if limit is not None), default=None)
        polled = session.features.polled_streams and line.accepts.events
        return Exchange(
            request_id,
            line.accepts,
            line.receive,
            line.send,
            keep_alive_s=settings.keep_alive.total_seconds(),
            status_of=lambda _: 200,  # L-TRANS-27
            framing=framing,
            limit_s=limit_s if polled else None,
            token_s=caller.stream_s,
        )
