"""Calling a tool in a test: no server, no database, no broker.

    run = await call(engine, "book", {"city": "Oslo"}, answers={"Which day?": {"day": "2026-12-01"}})
    assert run.text == "booked"

Attempts run as in the engine: a question that has no answer ends the attempt, and the function runs again from the
top with the answers there are. Without an answer the run stays `input_required`; `await run.answer({...})` goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from taskengine.calling import Outcome, call_async, call_sync, outcome_of_message
from taskengine.content import encode_json
from taskengine.engine import TaskEngine
from taskengine.errors import BadAnswer, InvalidArguments, Suspended
from taskengine.lifecycle import Status
from taskengine.questions import ELICIT, SAMPLE, check_answer
from taskengine.records import Question
from taskengine.replay import check_replay
from taskengine.tool import Tool

__all__ = ["EVERYTHING", "LogEntry", "Progress", "Run", "call"]

EVERYTHING: Mapping[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}
"""Capabilities of a client that can be asked anything."""

MAX_ATTEMPTS = 1_000
MEBIBYTE = 1 << 20

Answers = Mapping[str, Any]
"""By key or message of the question: see `call`."""


class Progress(NamedTuple):
    progress: float
    total: float | None
    message: str | None


class LogEntry(NamedTuple):
    level: str
    data: Any
    logger: str | None


@dataclass
class Run:
    """One call of a tool, and all that a client and the engine would have seen of it."""

    tool: Tool
    arguments: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    status: Status = Status.WORKING
    """`completed` (`is_error` results too), `failed` (a JSON-RPC error), `input_required` or `cancelled`."""
    outcome: Outcome | None = None
    questions: list[Question] = field(default_factory=list)
    """Those that are open."""
    asked: list[Question] = field(default_factory=list)
    """All that were ever asked, in order."""
    progress: list[Progress] = field(default_factory=list)
    logs: list[LogEntry] = field(default_factory=list)
    attempts: int = 0
    """How often the function was started."""
    tools_changed: int = 0
    """How often it said that the list of tools changed."""
    cancelled: bool = False
    show_exceptions: bool = True
    max_result_bytes: int = 16 * MEBIBYTE
    _raw: dict[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def result(self) -> dict[str, Any] | None:
        """The members of `CallToolResult`, when completed."""
        if self.outcome is None or self.outcome.result is None:
            return None
        return dict(json.loads(self.outcome.result))

    @property
    def is_error(self) -> bool:
        return self.outcome is not None and self.outcome.is_error

    @property
    def text(self) -> str:
        """The result's text blocks, a line each."""
        blocks = (self.result or {}).get("content", [])
        return "\n".join(block["text"] for block in blocks if block["type"] == "text")

    @property
    def structured(self) -> Any:
        """The structured content; None when there is none."""
        return (self.result or {}).get("structuredContent")

    @property
    def error(self) -> dict[str, Any] | None:
        """The JSON-RPC error, when failed."""
        if self.outcome is None or self.outcome.error is None:
            return None
        return dict(json.loads(self.outcome.error))

    @property
    def traceback(self) -> str | None:
        """What the log would have got."""
        return None if self.outcome is None else self.outcome.traceback

    async def answer(self, answers: Answers) -> Run:
        """Give answers as to `call` and go on. Raises LookupError for one to a question that is not open."""
        for name in answers:
            if not any(name in (question.key, _message(question)) for question in self.questions):
                raise LookupError(f"no open question has the key or message {name!r}: {self._open_keys()}")
        return await self._go(answers)

    def cancel(self) -> None:
        """Cancel a run that waits for answers, as its client might."""
        if self.status is Status.INPUT_REQUIRED:
            self.cancelled, self.status, self.questions = True, Status.CANCELLED, []

    async def _go(self, answers: Answers) -> Run:
        """Run attempts until the call ends or waits for an answer that is not among `answers`."""
        if self.status not in {Status.WORKING, Status.INPUT_REQUIRED}:
            raise LookupError(f"the run is {self.status}: it takes no more answers")
        if self.attempts == 0 and not self.questions:
            self._open(self.tool.first_questions)
        while True:
            self._fill(answers)
            if self.questions:
                self.status = Status.INPUT_REQUIRED
                return self
            if self.attempts == MAX_ATTEMPTS:
                raise RuntimeError(f"{self.tool.name} asked in {MAX_ATTEMPTS} attempts: it never ends")
            self.status = Status.WORKING
            self.attempts += 1
            try:
                self.outcome = await self._attempt()
            except Suspended:
                continue
            self.status = Status.COMPLETED if self.outcome.error is None else Status.FAILED
            return self

    async def _attempt(self) -> Outcome:
        if self.tool.is_async:
            return await call_async(
                self.tool,
                self.arguments,
                _TestPort(self),
                show_exceptions=self.show_exceptions,
                max_result_bytes=self.max_result_bytes,
            )
        return await asyncio.to_thread(
            call_sync,
            self.tool,
            self.arguments,
            _SyncTestPort(self),
            show_exceptions=self.show_exceptions,
            max_result_bytes=self.max_result_bytes,
        )

    def _open(self, questions: Sequence[Question]) -> None:
        """Note questions as asked and open. Raises ReplayMismatch for a key that asked something else before."""
        earlier = {question.key: question for question in self.asked}
        for question in questions:
            before = earlier.get(question.key)
            if before is not None:
                check_replay(before, question)
            if before is None:
                self.asked.append(question)
            if question.key not in self._raw:
                self.questions.append(question)

    def _fill(self, answers: Answers) -> None:
        waiting = []
        for question in self.questions:
            for name in (question.key, _message(question)):
                if name is not None and name in answers:
                    response = _response(question, answers[name])
                    check_answer(question, response)
                    self._raw[question.key] = response
                    break
            else:
                waiting.append(question)
        self.questions = waiting

    def _open_keys(self) -> str:
        return f"open are {', '.join(question.key for question in self.questions) or 'none'}"

    def _take(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        self._open(questions)
        if self.questions:
            raise Suspended
        return {question.key: self._raw[question.key] for question in questions}


async def call(
    engine: TaskEngine | Tool,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    answers: Answers | None = None,
    capabilities: Mapping[str, Any] = EVERYTHING,
    show_exceptions: bool = True,
    max_result_bytes: int = 16 * MEBIBYTE,
) -> Run:
    """Call a tool of `engine` by name, or a Tool itself, and run it as far as it goes.

    `answers` maps the key or the message of a question to: a model or a dict of fields (accepts a form), "accept",
    "decline" or "cancel", a text (a sampled message), a list of URIs (roots), the raw response, or a function of the
    question that gives one of these. Raises LookupError for an unknown tool and BadAnswer for an answer that does not
    fit its question.
    """
    tool = engine if isinstance(engine, Tool) else engine.get_tool(name or "")
    if tool is None:
        known = ", ".join(engine.tools) if isinstance(engine, TaskEngine) else ""
        raise LookupError(f"there is no tool {name!r}; there are {known or 'none'}")
    plain = json.loads(encode_json(to_jsonable_python(arguments or {}, by_alias=True)))
    run = Run(tool, plain, capabilities, show_exceptions=show_exceptions, max_result_bytes=max_result_bytes)
    try:
        tool.check_arguments(plain)
    except InvalidArguments as error:
        run.outcome, run.status = outcome_of_message(str(error)), Status.COMPLETED
        return run
    return await run._go(answers or {})  # noqa: SLF001


def _message(question: Question) -> str | None:
    """What people know the question by; None for samples and roots, which have keys only."""
    message = question.params.get("message")
    return message if isinstance(message, str) else None


def _response(question: Question, answer: Any) -> Mapping[str, Any]:
    """The raw response that a short answer stands for."""
    given = answer(question) if callable(answer) and not isinstance(answer, type) else answer
    given = to_jsonable_python(given, by_alias=True)
    if question.method == ELICIT:
        if isinstance(given, str):
            return {"action": given}
        if isinstance(given, dict):
            return (
                given
                if given.get("action") in ("accept", "decline", "cancel")
                else {"action": "accept", "content": given}
            )
    elif question.method == SAMPLE and isinstance(given, str):
        return {
            "role": "assistant",
            "content": {"type": "text", "text": given},
            "model": "test",
            "stopReason": "endTurn",
        }
    elif isinstance(given, list):
        return {"roots": [{"uri": root} if isinstance(root, str) else root for root in given]}
    if isinstance(given, dict):
        return given
    raise BadAnswer(question.key, f"{answer!r} is no answer to {question.method}")


class _Facts:
    def __init__(self, run: Run) -> None:
        self.run = run

    @property
    def task_id(self) -> str | None:
        return "tsk_test" if self.run.tool.durable else None

    @property
    def attempt(self) -> int:
        return self.run.attempts

    @property
    def capabilities(self) -> Mapping[str, Any]:
        return self.run.capabilities

    @property
    def first(self) -> Mapping[str, Mapping[str, Any]]:
        return {key: self.run._raw[key] for key in self.run.tool.ask_first}  # noqa: SLF001

    @property
    def cancelled(self) -> bool:
        return self.run.cancelled


class _SyncTestPort(_Facts):
    def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.run.progress.append(Progress(progress, total, message))

    def log(self, level: str, data: Any, logger: str | None) -> None:
        self.run.logs.append(LogEntry(level, data, logger))

    def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        return self.run._take(questions)  # noqa: SLF001

    def tools_changed(self) -> None:
        self.run.tools_changed += 1


class _TestPort(_Facts):
    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._sync = _SyncTestPort(run)

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._sync.progress(progress, total, message)

    async def log(self, level: str, data: Any, logger: str | None) -> None:
        self._sync.log(level, data, logger)

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        return self._sync.ask(questions)

    async def tools_changed(self) -> None:
        self._sync.tools_changed()
