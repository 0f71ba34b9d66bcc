"""The front end over standard input and output: a message a line, for hosts that start a program.

Messages of 2026-07-28 go to the same methods as those of HTTP, without headers (M-STDIO-07). A session that begins
with `initialize` goes to the endpoint itself, as if this were its HTTP client: what that answers, on whatever stream,
becomes lines. Requests run beside each other, and what they say is written in the order in which they say it.

The end of the input ends the process, not its tasks: the next process of the same account finds them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson

from taskengine.server.caller import Caller
from taskengine.server.checks import Accepts
from taskengine.server.dispatch import serve_modern
from taskengine.server.service import Service
from taskengine.server.stdio_session import Conversation, Session, failure
from taskengine.wire import modern
from taskengine.wire.jsonrpc import (
    INVALID_REQUEST,
    Notification,
    Request,
    RequestId,
    RpcError,
    dumps,
    error_response,
    id_of,
    notification,
    parse,
    result_response,
)

__all__ = ["TOO_LONG", "StdioServer"]

logger = logging.getLogger("taskengine.stdio")

TOO_LONG = b"\0"
"""What stands for a line that was longer than allowed; no message looks like it."""
BACKLOG = 1_000
"""Lines that wait to be written before those who write wait."""
FAREWELL_S = 2.0
LAST_WORDS_S = 0.5
"""At the end of the input: for answers that wait for nobody."""

Lines = AsyncIterator[bytes]
Write = Callable[[bytes], Awaitable[None]]
Start = Callable[[], Awaitable[Service]]
_EARLY = {"server/discover", "tools/list"}
"""What is answered from the declarations alone."""


class StdioServer:
    """One process's conversation with its host. `write` takes whole lines; it raises OSError when nobody reads.

    `start` gives the service once what it stands on is there, which may take seconds; until then `early`, which is
    never started, tells what needs no database: hosts do not wait long for the first answer.
    """

    def __init__(self, early: Service, start: Start, caller: Caller, lines: Lines, write: Write) -> None:
        self._early = early
        self._start = start
        self._ready: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
        self._service: Service | None = None
        self._caller = caller
        self._lines = lines
        self._write = write
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG)
        self._open: dict[RequestId, Conversation] = {}
        """Requests of 2026-07-28 that are not answered yet, by id; ids of others mean nothing (X-CANC-14)."""
        self._session: Session | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def serve(self) -> None:
        """Until the input ends, nobody reads the output, or `stop` was called. Tasks go on. Raises what `start`
        raises, after whoever waits for it was told."""
        starting = asyncio.create_task(self._get_ready())
        writing = asyncio.create_task(self._write_all())
        reading = asyncio.create_task(self._read_all())
        over = asyncio.create_task(self._over.wait())
        ends = {reading, writing, over}
        try:
            await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                # One that failed is told to whoever has asked already: what it has asked may not be read yet.
                timeout = None if starting.exception() is None else LAST_WORDS_S
                await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if self._session is not None:
                self._session.wind_up()
            if self._service is not None:
                self._service.drain()  # from here on, whoever is gone has not cancelled anything
            if not self._over.is_set():
                await self._wait_for_answers(LAST_WORDS_S, writing)
            if self._session is not None:
                self._session.close()
            if self._over.is_set():
                await self._wait_for_answers(FAREWELL_S, writing)
        finally:
            for task in (reading, over, starting, *self._running):
                task.cancel()
            ended = await asyncio.gather(starting, reading, over, *self._running, return_exceptions=True)
            if not writing.done():
                with suppress(asyncio.QueueFull):
                    self._out.put_nowait(None)
            await asyncio.wait({writing}, timeout=FAREWELL_S)
            writing.cancel()
            if self._service is not None:
                await self._service.stop()
        for outcome in ended[:2]:
            if isinstance(outcome, Exception):
                raise outcome

    def stop(self) -> None:
        """End soon: subscriptions get their last result."""
        self._over.set()

    async def _wait_for_answers(self, seconds: float, writing: asyncio.Task[None]) -> None:
        if self._running and not writing.done():
            await asyncio.wait(self._running, timeout=seconds)

    async def _get_ready(self) -> None:
        try:
            service = await self._start()
            await service.start()
        except Exception as error:
            self._ready.set_exception(error)
            self._ready.exception()  # asyncio complains about one that nobody looked at
            raise
        self._service = service
        self._ready.set_result(service)

    async def _read_all(self) -> None:
        async for line in self._lines:
            if line.strip():
                await self._take(line)

    async def _take(self, line: bytes) -> None:
        """Answer, now or later, what stands in one line."""
        if line == TOO_LONG:
            limit = self._early.settings.max_body_bytes
            await self._say(
                error_response(None, RpcError(INVALID_REQUEST, f"The line has more than {limit} bytes: send less"))
            )
            return
        try:
            message = parse(line)
        except RpcError as error:
            if self._session is not None:  # a batch, perhaps: its revision decides
                self._begin(self._session.post(line, None))
            else:
                await self._say(error_response(id_of(error), error))
            return
        if isinstance(message, Notification) and message.method == "notifications/cancelled":
            params = message.params or {}
            request_id = params.get("requestId")
            cancelled = self._open.get(request_id) if isinstance(request_id, (str, int)) else None
            if cancelled is not None:
                why = ascii(str(params.get("reason", "it gave no reason"))[:200])
                logger.info("the host cancelled a request: %s", why)  # X-CANC-09
                cancelled.close()  # nothing more is said for it, and its work ends (M-STDIO-08, M-STDIO-09)
                return
        if isinstance(message, Request) and (modern.is_marked(message.params) or self._is_early(message)):
            if message.method == "ping" and not modern.is_marked(message.params):
                await self._say(result_response(message.id, {}))
            else:
                self._begin_modern(message)
        elif isinstance(message, Request) and message.method == "initialize":
            if self._session is not None:
                self._session.close()
            self._session = Session(self._ready, self._caller, self._say, self._begin)
            self._begin(self._session.post(line, message))
        elif self._session is not None:
            self._begin(self._session.post(line, message))

    def _is_early(self, request: Request) -> bool:
        """Neither marked as 2026-07-28 nor within a session: refused like a request without its envelope, except
        `ping` (X-SEL-17)."""
        return self._session is None and request.method != "initialize"

    def _begin_modern(self, request: Request) -> None:
        listening = request.method == "subscriptions/listen"

        async def say(message: bytes) -> None:
            await self._out.put(message)
            if listening and "result" in orjson.loads(message):
                # The host has two ways to learn that its subscription is over.
                await self._say(notification("notifications/cancelled", {"requestId": request.id}))

        conversation = Conversation(say)
        self._open[request.id] = conversation

        async def answer() -> None:
            try:
                await serve_modern(
                    self._early if request.method in _EARLY else await asyncio.shield(self._ready),
                    self._caller,
                    request,
                    raw_headers=None,
                    accepts=Accepts(json=True, events=True),
                    receive=conversation.receive,
                    send=conversation.send,
                )
            except Exception as error:
                await conversation.say(dumps(error_response(request.id, failure(request.method, error))))
            finally:
                if self._open.get(request.id) is conversation:
                    del self._open[request.id]

        self._begin(answer())

    def _begin(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _say(self, message: dict[str, Any]) -> None:
        await self._out.put(dumps(message))

    async def _write_all(self) -> None:
        while (message := await self._out.get()) is not None:
            try:
                # Outside of strings JSON may have ends of lines, which mean nothing; here they would (X-STDIO-01).
                await self._write(message.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")
            except OSError as error:
                logger.info("nobody reads the output any more: %s", error)
                return
