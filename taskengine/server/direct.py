"""Tools that make no task: run here, in the front end, while their client waits.

An async tool runs on the event loop, a `def` tool in a thread. What it asks is answered in another round, in which
it runs again from the top with the answers that the sealed state carries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from taskengine.calling import Outcome, call_async, call_sync, outcome_of_message
from taskengine.content import encode_json
from taskengine.durations import describe
from taskengine.errors import BadAnswer, Suspended
from taskengine.identity import Identity
from taskengine.questions import check_answer
from taskengine.records import Answered, Question
from taskengine.replay import asked_otherwise
from taskengine.server.exchange import Exchange
from taskengine.server.progress import Reporter
from taskengine.server.rounds import Rounds
from taskengine.server.syncport import SyncPort
from taskengine.threads import in_thread
from taskengine.tool import Tool
from taskengine.wire import modern

__all__ = ["call_direct"]


async def call_direct(rounds: Rounds, tool: Tool, arguments: Mapping[str, Any], exchange: Exchange) -> Any:
    """The tool's result, or its questions. Raises its JSON-RPC error, and BadAnswer for an answer that does not fit."""
    service = rounds.call.service
    port = _Port(rounds, exchange)
    limit = None if tool.timeout is None else tool.timeout.total_seconds()
    try:
        async with asyncio.timeout(limit):
            outcome = await _run(tool, arguments, port)
    except TimeoutError:
        assert tool.timeout is not None
        outcome = outcome_of_message(f"The tool was stopped: it ran longer than {describe(tool.timeout)}.")
    except Suspended:
        if port.refusal is not None:
            raise port.refusal from None
        return await rounds.ask(port.open, port.answered.values())
    finally:
        port.closed = True
    if outcome.error is not None:
        raise modern.stored_error(outcome.error)
    assert outcome.result is not None
    return modern.call_result(outcome.result, service.meta)


async def _run(tool: Tool, arguments: Mapping[str, Any], port: _Port) -> Outcome:
    settings = port.rounds.call.service.settings
    limits: dict[str, Any] = {
        "show_exceptions": settings.show_exceptions,
        "max_result_bytes": settings.max_result_bytes,
    }
    if tool.is_async:
        return await call_async(tool, arguments, port, **limits)
    sync_port = SyncPort(port, asyncio.get_running_loop())
    return await in_thread(partial(call_sync, tool, arguments, sync_port, **limits), port.rounds.call.service.threads)


class _Facts:
    def __init__(self, rounds: Rounds, exchange: Exchange) -> None:
        self.rounds, self.exchange = rounds, exchange
        self.reporter = Reporter(exchange, rounds.call.envelope)
        self.answered: dict[str, Answered] = {}
        """What the tool has asked in this run and got, of all rounds."""
        self.open: list[Question] = []
        """What is asked in this round."""
        self.refusal: BadAnswer | None = None
        """Why the client's answer was not taken."""
        self.closed = False
        """The call has its answer: nothing is sent for it any more (X-PROG-05)."""

    @property
    def task_id(self) -> str | None:
        return None

    @property
    def attempt(self) -> int:
        return self.rounds.state.rounds + 1

    @property
    def capabilities(self) -> Mapping[str, Any]:
        return self.rounds.call.envelope.capabilities

    @property
    def first(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    @property
    def caller(self) -> Identity | None:
        return self.rounds.call.caller.identity

    @property
    def cancelled(self) -> bool:
        return self.closed or self.exchange.disconnected

    def take(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        """The answers to all of these. Raises Suspended when one is missing or does not fit its question, and
        ReplayMismatch when an earlier round asked something else under a key of these."""
        for question in questions:
            if self.rounds.was_other(question):
                raise asked_otherwise(question)
            answer = self.rounds.state.answers.get(question.key)
            if answer is None and question.key in self.rounds.responses:
                answer = self._checked(question)
            if answer is None:
                encode_json(dict(question.params))
                self.open.append(question)
            else:
                self.answered[question.key] = Answered(question, answer)
        if self.open:
            raise Suspended
        return {question.key: self.answered[question.key].response for question in questions}

    def _checked(self, question: Question) -> Mapping[str, Any]:
        response: Mapping[str, Any] = self.rounds.responses[question.key]
        try:
            check_answer(question, response)
        except BadAnswer as error:
            self.refusal = error
            raise Suspended from None
        return response


class _Port(_Facts):
    """The context of an async tool on this side."""

    durable = None

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        if not self.closed:
            await self.reporter.progress(progress, total, message)

    async def log(self, level: str, data: Any, logger: str | None) -> None:
        if not self.closed:
            await self.reporter.log(level, data, logger)

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        return self.take(questions)

    async def tools_changed(self) -> None:
        await self.rounds.call.service.announce_tools()
