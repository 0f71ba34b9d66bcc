"""Calling a tool in a test: no server, no database, no broker.

    run = await call(engine, "book", {"city": "Oslo"}, answers={"Which day?": {"day": "2026-12-01"}})
    assert run.text == "booked"

Attempts run as in the engine: a question that has no answer ends the attempt, and the function runs again from the
top with the answers there are. Without an answer the run stays `input_required`; `await run.answer({...})` goes on.
Every wait ends the attempt, and time passes at once: a tool that sleeps for a week is done in a moment, and
`run.now` says when. Tools it calls run here as well; what they ask is asked in its name, as in the engine.
`await run.replay()` runs the function of a run that has ended once more over its journal.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from taskengine.calling import Outcome, call_async, call_sync, outcome_of_message
from taskengine.calls import DEEPEST, too_deep
from taskengine.colours import drive
from taskengine.content import encode_json
from taskengine.durations import DurationLike
from taskengine.engine import TaskEngine
from taskengine.errors import BadAnswer, DeclarationError, InvalidArguments, Suspended, ToolError
from taskengine.identity import AccessToken, Identity
from taskengine.lifecycle import TERMINAL, Status
from taskengine.questions import ELICIT, SAMPLE, check_answer
from taskengine.records import Answered, ChildState, Entry, Question, Wait
from taskengine.replay import check_replay
from taskengine.steps import parse_delay
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
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The time as the tool sees it; it moves when the tool waits."""
    calls: list[Run] = field(default_factory=list)
    """The tools it called, in order."""
    caller: Identity | None = None
    """On whose behalf it was called."""
    token: AccessToken | None = field(default=None, repr=False)
    """What was handed over with the call."""
    engine: TaskEngine | None = field(default=None, repr=False)
    show_exceptions: bool = True
    max_result_bytes: int = 16 * MEBIBYTE
    _raw: dict[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    _journal: dict[str, Entry] = field(default_factory=dict, repr=False)
    _children: dict[str, Run] = field(default_factory=dict, repr=False)
    _wait: Wait | None = field(default=None, repr=False)
    _answers: Answers = field(default_factory=dict, repr=False)
    _failures: int = 0
    _depth: int = 0
    """How many calls it stands below."""

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

    async def pass_time(self, delay: DurationLike | float) -> Run:
        """Let time go by for a run that waits for answers, and go on when `answer_by` has passed."""
        self.now += parse_delay("pass_time", delay)
        if self._wait is not None and self._wait.due is not None and self._wait.due <= self.now:
            self._wait = Wait()
            return await self._go(self._answers)
        return self

    async def replay(self) -> Outcome:
        """What the function comes to when it runs over the journal of this run, as after a crash at its very end.

        A deterministic tool gives the same again, without running a step. Raises AssertionError when it would wait.
        """
        try:
            return await self._attempt()
        except Suspended:
            raise AssertionError(f"{self.tool.name} waits where it had not waited before") from None

    def cancel(self) -> None:
        """Cancel a run that waits for answers, as its client might."""
        if self.status is Status.INPUT_REQUIRED:
            self.cancelled, self.status, self.questions = True, Status.CANCELLED, []

    async def _go(self, answers: Answers) -> Run:
        """Run attempts until the call ends or waits for an answer that is not among `answers`."""
        if self.status not in {Status.WORKING, Status.INPUT_REQUIRED}:
            raise LookupError(f"the run is {self.status}: it takes no more answers")
        self._answers = answers
        if self.attempts == 0 and not self.questions:
            self._open(self.tool.first_questions)
        while True:
            self._fill(answers)
            if self.questions and not self._time_is_up():
                self.status = Status.INPUT_REQUIRED
                return self
            if self.attempts == MAX_ATTEMPTS:
                raise RuntimeError(f"{self.tool.name} waited in {MAX_ATTEMPTS} attempts: it never ends")
            if self._wait is not None and self._wait.due is not None and self._wait.children is None:
                self.now = max(self.now, self._wait.due)
            self._wait = None
            self.status = Status.WORKING
            self.attempts += 1
            try:
                self.outcome = await self._attempt()
            except Suspended:
                continue
            if not self._tries_again(self.outcome):
                self.status = Status.COMPLETED if self.outcome.error is None else Status.FAILED
                return self

    def _time_is_up(self) -> bool:
        """The open questions have waited for as long as they may."""
        return self._wait is not None and self._wait.due is None and not self._wait.questions

    def _tries_again(self, outcome: Outcome) -> bool:
        backoff = self.tool.retries.wait_after(self._failures + 1) if outcome.passing else None
        if backoff is None:
            return False
        self._failures += 1
        self.now += backoff
        unfinished = {path for path, entry in self._journal.items() if entry.kind == "step" and not entry.done}
        for path in {*outcome.loose, *unfinished}:
            del self._journal[path]
        return True

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
            for name in (question.key, _message(question), question.key.rpartition(":")[2]):
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
    caller: Identity | None = None,
    token: AccessToken | None = None,
    show_exceptions: bool = True,
    max_result_bytes: int = 16 * MEBIBYTE,
) -> Run:
    """Call a tool of `engine` by name, or a Tool itself, and run it as far as it goes.

    `answers` maps the key or the message of a question to: a model or a dict of fields (accepts a form), "accept",
    "decline" or "cancel", a text (a sampled message), a list of URIs (roots), the raw response, or a function of the
    question that gives one of these. `caller` is what the tool finds as `ctx.caller`, `token` what `ctx.token`
    gives it. Raises LookupError for an unknown tool and BadAnswer for an answer that does not fit its question.
    """
    tool = engine if isinstance(engine, Tool) else engine.get_tool(name or "")
    if tool is None:
        known = ", ".join(engine.tools) if isinstance(engine, TaskEngine) else ""
        raise LookupError(f"there is no tool {name!r}; there are {known or 'none'}")
    plain = json.loads(encode_json(to_jsonable_python(arguments or {}, by_alias=True)))
    run = Run(tool, plain, capabilities, show_exceptions=show_exceptions, max_result_bytes=max_result_bytes)
    run.engine = engine if isinstance(engine, TaskEngine) else None
    run.caller, run.token = caller, token
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
    def caller(self) -> Identity | None:
        return self.run.caller

    @property
    def cancelled(self) -> bool:
        return self.run.cancelled


class _TestPort(_Facts):
    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.run.progress.append(Progress(progress, total, message))

    async def log(self, level: str, data: Any, logger: str | None) -> None:
        self.run.logs.append(LogEntry(level, data, logger))

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        return self.run._take(questions)  # noqa: SLF001

    async def tools_changed(self) -> None:
        self.run.tools_changed += 1

    @property
    def durable(self) -> _TestJournal | None:
        return _TestJournal(self.run) if self.run.tool.durable else None


class _SyncTestPort(_Facts):
    """The same as plain calls, in the thread of a `def` tool."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._port = _TestPort(run)

    def progress(self, progress: float, total: float | None, message: str | None) -> None:
        drive(self._port.progress(progress, total, message))

    def log(self, level: str, data: Any, logger: str | None) -> None:
        drive(self._port.log(level, data, logger))

    def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        return self.run._take(questions)  # noqa: SLF001

    def tools_changed(self) -> None:
        drive(self._port.tools_changed())

    @property
    def durable(self) -> _SyncTestJournal | None:
        return _SyncTestJournal(self.run) if self.run.tool.durable else None


class _TestJournal:
    """`DurablePort` over what the run remembers."""

    in_place = timedelta(0)

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def journal(self) -> Mapping[str, Entry]:
        children = self._run._children  # noqa: SLF001
        return {
            path: entry if entry.child_id is None else replace(entry, child=_state(entry.child_id, children))
            for path, entry in self._run._journal.items()  # noqa: SLF001
        }

    @property
    def answers(self) -> Mapping[str, Answered]:
        asked = {question.key: question for question in self._run.asked}
        return {key: Answered(asked[key], raw) for key, raw in self._run._raw.items() if key in asked}  # noqa: SLF001

    def clock(self) -> datetime:
        return self._run.now

    async def record(self, entry: Entry) -> None:
        self._run._journal[entry.path] = entry  # noqa: SLF001

    async def call(self, entry: Entry, arguments: Mapping[str, Any]) -> Entry:
        run = self._run
        tool = None if run.engine is None else run.engine.get_tool(entry.name)
        if tool is None:
            raise DeclarationError(f"There is no tool {entry.name!r} to call: is it declared on this engine?")
        if not tool.durable:
            raise DeclarationError(
                f'{entry.name} has task="forbidden" and makes no task to wait for: call its function in a step'
            )
        tool.check_arguments(arguments)
        if run._depth == DEEPEST:  # noqa: SLF001
            raise too_deep(entry.name)
        child = Run(tool, arguments, run.capabilities, now=run.now, caller=run.caller, engine=run.engine)
        child.token = run.token
        child._depth = run._depth + 1  # noqa: SLF001
        child.show_exceptions, child.max_result_bytes = run.show_exceptions, run.max_result_bytes
        assert entry.child_id is not None
        run.calls.append(child)
        run._children[entry.child_id] = child  # noqa: SLF001
        run._journal[entry.path] = entry  # noqa: SLF001
        await child._go({})  # noqa: SLF001
        return self.journal[entry.path]

    async def park(self, wait: Wait, entries: Sequence[Entry], *, linger: bool) -> None:
        del linger
        for entry in entries:
            self._run._journal[entry.path] = entry  # noqa: SLF001
        self._run._wait = wait  # noqa: SLF001
        self._run._open(wait.questions)  # noqa: SLF001
        raise Suspended

    async def give_up(self, entry: Entry, keys: Sequence[str]) -> None:
        self._run.questions = [question for question in self._run.questions if question.key not in keys]
        self._run._journal[entry.path] = entry  # noqa: SLF001

    async def answer_child(self, child_id: str, responses: Mapping[str, Mapping[str, Any]]) -> None:
        child = self._run._children[child_id]  # noqa: SLF001
        if child.status is Status.INPUT_REQUIRED:
            child.now = max(child.now, self._run.now)
            await child._go(responses)  # noqa: SLF001

    async def withdraw(self, child_id: str) -> None:
        self._run.questions = [each for each in self._run.questions if not each.key.startswith(f"{child_id}:")]

    async def token(self, valid_for: timedelta) -> AccessToken:  # noqa: ARG002
        if self._run.token is None or not self._run.tool.token:
            raise ToolError("No token was handed over: declare the tool with token=True, and give token= to the call")
        return self._run.token


class _SyncTestJournal(_TestJournal):
    """The same as plain calls; a tool that is called runs on a loop of its own."""

    def record(self, entry: Entry) -> None:  # type: ignore[override]
        drive(super().record(entry))

    def call(self, entry: Entry, arguments: Mapping[str, Any]) -> Entry:  # type: ignore[override]
        return asyncio.run(super().call(entry, arguments))

    def park(self, wait: Wait, entries: Sequence[Entry], *, linger: bool) -> None:  # type: ignore[override]
        drive(super().park(wait, entries, linger=linger))

    def give_up(self, entry: Entry, keys: Sequence[str]) -> None:  # type: ignore[override]
        drive(super().give_up(entry, keys))

    def answer_child(self, child_id: str, responses: Mapping[str, Mapping[str, Any]]) -> None:  # type: ignore[override]
        asyncio.run(super().answer_child(child_id, responses))

    def withdraw(self, child_id: str) -> None:  # type: ignore[override]
        drive(super().withdraw(child_id))

    def token(self, valid_for: timedelta) -> AccessToken:  # type: ignore[override]
        return drive(super().token(valid_for))  # type: ignore[no-any-return]


def _state(child_id: str, children: Mapping[str, Run]) -> ChildState:
    run = children[child_id]
    outcome = run.outcome
    ended = run.status in TERMINAL
    return ChildState(
        child_id,
        run.tool.name,
        run.status,
        is_error=ended and run.is_error,
        result=outcome.result if ended and outcome is not None else None,
        error=outcome.error if ended and outcome is not None else None,
        questions=tuple(run.questions) if run.status is Status.INPUT_REQUIRED else (),
    )
