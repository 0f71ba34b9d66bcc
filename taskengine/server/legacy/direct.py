"""Tools that make no task: run here while their client waits, and go on when its connection breaks (L-CANC-11).

What they ask goes out on the call's stream, and they wait for the answer where they stand. What was sent is kept, so
that a client that comes back to this front end misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from taskengine.calling import Outcome, call_async, call_sync, outcome_of_message
from taskengine.durations import describe
from taskengine.errors import BadAnswer, StoreUnavailable, TaskCancelled, ToolError
from taskengine.records import Question
from taskengine.server.exchange import Exchange
from taskengine.server.legacy.answers import DIRECT, OFFERS, read_answer
from taskengine.server.legacy.call import Call
from taskengine.server.legacy.front import Wanted
from taskengine.server.legacy.streams import Labelled
from taskengine.server.progress import Reporter
from taskengine.server.syncport import SyncPort
from taskengine.threads import in_thread
from taskengine.tool import Tool
from taskengine.wire import legacy
from taskengine.wire.jsonrpc import dumps

__all__ = ["DirectRun"]

ANSWER_S = 600.0
"""How long a tool that holds a connection waits for an answer (L-LIFE-10)."""
LOOK_S = 5.0
KEPT_BYTES = 1 << 20
"""Of what one call says before its answer; the oldest is forgotten first."""


class DirectRun:
    """One call, from its arguments to its result, whoever listens."""

    def __init__(self, call: Call, tool: Tool, arguments: Mapping[str, Any]) -> None:
        self.id = secrets.token_urlsafe(16)
        self.size = 0
        self._runs = call.front.runs
        self._messages: deque[tuple[int, Mapping[str, Any]]] = deque()
        self._dropped = 0
        self._news = asyncio.Event()
        self._exchange: Exchange | None = None
        self._work = asyncio.get_running_loop().create_task(_outcome(call, tool, arguments, self))
        self._runs.begin(self)
        self._work.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._work.cancel()

    async def outcome(self) -> Any:
        return await asyncio.shield(self._work)

    def on_end(self, function: Callable[[], None]) -> None:
        self._work.add_done_callback(lambda _: function())

    async def notify(self, message: Mapping[str, Any]) -> None:
        size = len(repr(message))
        self._messages.append((size, message))
        self.size += size
        while self.size > KEPT_BYTES and len(self._messages) > 1:
            dropped, _ = self._messages.popleft()
            self.size -= dropped
            self._dropped += 1
        self._news.set()

    async def serve(self, exchange: Exchange, framing: Labelled) -> Any:
        """Send what follows after the framing's position, then give the result. Only the last to come is served."""
        earlier, self._exchange = self._exchange, exchange
        if earlier is not None:
            await earlier.leave()
        while True:
            self._news.clear()
            while framing.position < self._dropped + len(self._messages):
                framing.position = max(framing.position, self._dropped) + 1
                await exchange.notify(self._messages[framing.position - self._dropped - 1][1])
            if self._work.done():
                return self._work.result()
            await self._news.wait()

    def _ended(self, work: asyncio.Task[Any]) -> None:
        if not work.cancelled() and work.exception() is None:  # whoever is served raises it; nobody may be
            self.size += len(dumps(work.result()))
        self._news.set()
        self._runs.end(self)


async def _outcome(call: Call, tool: Tool, arguments: Mapping[str, Any], run: DirectRun) -> Any:
    """The tool's result. Raises its JSON-RPC error."""
    limit = None if tool.timeout is None else tool.timeout.total_seconds()
    with call.front.wanting(call.session, legacy.progress_token(call.params)) as wanted:
        port = _Port(call, run, wanted)
        try:
            async with asyncio.timeout(limit):
                outcome = await _run(call, tool, arguments, port)
        except TimeoutError:
            assert tool.timeout is not None
            outcome = outcome_of_message(f"The tool was stopped: it ran longer than {describe(tool.timeout)}.")
        finally:
            port.closed = True
    return legacy.direct_outcome(outcome.result, outcome.error, call.session.version)


async def _run(call: Call, tool: Tool, arguments: Mapping[str, Any], port: _Port) -> Outcome:
    settings = call.service.settings
    limits: dict[str, Any] = {
        "show_exceptions": settings.show_exceptions,
        "max_result_bytes": settings.max_result_bytes,
    }
    if tool.is_async:
        return await call_async(tool, arguments, port, **limits)
    sync_port = SyncPort(port, asyncio.get_running_loop())
    return await in_thread(partial(call_sync, tool, arguments, sync_port, **limits), call.service.threads)


class _Facts:
    task_id: str | None = None
    attempt = 1

    def __init__(self, call: Call) -> None:
        self.capabilities: Mapping[str, Any] = call.capabilities
        self.first: Mapping[str, Mapping[str, Any]] = {}
        self.caller = call.caller.identity
        self.closed = False
        """The call has its answer: nothing is sent for it any more (X-PROG-05)."""

    @property
    def cancelled(self) -> bool:
        return self.closed


class _Port(_Facts):
    durable = None

    def __init__(self, call: Call, run: DirectRun, wanted: Wanted) -> None:
        super().__init__(call)
        self._call = call
        self._run = run
        self.reporter = Reporter(run, wanted, legacy)

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        if not self.closed:
            await self.reporter.progress(progress, total, message)

    async def log(self, level: str, data: Any, logger: str | None) -> None:
        if not self.closed:
            await self.reporter.log(level, data, logger)

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        async with asyncio.TaskGroup() as group:
            asked = {question.key: group.create_task(self._ask(question)) for question in questions}
        return {key: task.result() for key, task in asked.items()}

    async def tools_changed(self) -> None:
        await self._call.service.announce_tools()

    async def _ask(self, question: Question) -> Mapping[str, Any]:
        for remaining in reversed(range(OFFERS)):
            body = await self._response(question)
            try:
                return read_answer(question, body)
            except BadAnswer:
                if not remaining:
                    raise
        raise AssertionError("the last answer returns or raises")

    async def _response(self, question: Question) -> Mapping[str, Any]:
        """Raises ToolError when nobody answers in time; whoever is asked is told so."""
        front, session = self._call.front, self._call.session
        request_id = front.tokens.seal(DIRECT, s=session.id, n=secrets.token_urlsafe(9))
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        front.answers[request_id] = future
        try:
            visit = legacy.elicitation_id(self._run.id, question.key)
            await self._run.notify(legacy.server_request(request_id, question, session.version, None, visit))
            async with asyncio.timeout(ANSWER_S):
                while not future.done():
                    await asyncio.wait({future}, timeout=LOOK_S)
                    if self.closed:  # of a def tool, whose thread outlives its call
                        raise TaskCancelled
                    if not future.done():
                        with contextlib.suppress(StoreUnavailable):
                            await front.fetch(request_id)
            return future.result()
        except TimeoutError:
            raise ToolError(f"Nobody answered within {ANSWER_S:g} seconds.") from None
        finally:
            del front.answers[request_id]
            if not future.done():
                await self._run.notify(legacy.cancelled_notification(request_id, "It needs no answer any more"))
