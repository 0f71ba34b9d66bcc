"""The context of `def` tools: the names of `Context` as plain calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload
from uuid import UUID

from taskengine.arrivals import Arrivals, CallOutcome
from taskengine.calls import ToolResult
from taskengine.clientlog import SyncLog
from taskengine.colours import SyncColour, drive
from taskengine.contextbase import MOST_BYTES, ContextBase, checked_progress, pairs, parsed
from taskengine.durable import Durable
from taskengine.durations import DurationLike
from taskengine.errors import (
    Signal,
)
from taskengine.identity import AccessToken
from taskengine.port import SyncDurablePort, SyncPort
from taskengine.questions import (
    Answer,
    Ask,
    Form,
    Root,
    Roots,
    Sample,
    SampleAnswer,
    Url,
)
from taskengine.records import Answered, Entry, Wait
from taskengine.steps import parse_delay

__all__ = ["SyncContext"]

T = TypeVar("T")


class SyncContext(ContextBase):
    """What a `def` tool may ask of the engine: the names of `Context` as plain calls."""

    def __init__(
        self,
        port: SyncPort,
        ask_first: Mapping[str, Ask] | None = None,
        *,
        tool: str = "tool",
        version: str | None = None,
        answer_by: timedelta | None = None,
        max_bytes: int = MOST_BYTES,
    ) -> None:
        super().__init__(port, ask_first, answer_by)
        self._port = port
        if port.durable is not None:
            plain = _Awaitable(port.durable)
            self._durable = Durable(plain, SyncColour(), tool=tool, version=version, max_bytes=max_bytes)

    @property
    def log(self) -> SyncLog:
        """Log messages for the client of the call (X-LOG-08)."""
        return SyncLog(self._log)

    def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """As `Context.progress`."""
        self._guard(self._port.progress, *checked_progress(progress, total, message))

    @overload
    def elicit(
        self,
        message: str,
        form: type[T],
        *,
        key: str | None = None,
        answer_by: DurationLike | None = None,
        default: T | None = None,
    ) -> Answer[T]: ...
    @overload
    def elicit(
        self,
        message: str,
        form: Mapping[str, Any],
        *,
        key: str | None = None,
        answer_by: DurationLike | None = None,
        default: Any = None,
    ) -> Answer[Any]: ...
    def elicit(
        self,
        message: str,
        form: Any,
        *,
        key: str | None = None,
        answer_by: DurationLike | None = None,
        default: Any = None,
    ) -> Answer[Any]:
        """As `Context.elicit`."""
        return self.elicit_all([Form(message, form, key, default)], answer_by=answer_by)[0]  # type: ignore[no-any-return]

    def elicit_url(
        self, message: str, url: str, *, key: str | None = None, answer_by: DurationLike | None = None
    ) -> Answer[None]:
        """As `Context.elicit_url`."""
        return self.elicit_all([Url(message, url, key)], answer_by=answer_by)[0]  # type: ignore[no-any-return]

    @overload
    def elicit_all(self, asks: Mapping[str, Ask], *, answer_by: DurationLike | None = None) -> dict[str, Any]: ...
    @overload
    def elicit_all(self, asks: Sequence[Ask], *, answer_by: DurationLike | None = None) -> list[Any]: ...
    def elicit_all(
        self, asks: Mapping[str, Ask] | Sequence[Ask], *, answer_by: DurationLike | None = None
    ) -> dict[str, Any] | list[Any]:
        """As `Context.elicit_all`."""
        keyed = self._keyed(pairs(asks))
        questions, limit = self._questions(keyed), self._deadline(answer_by)
        raw: Mapping[str, Mapping[str, Any] | None]
        if self._durable is not None:
            raw = drive(self._durable.ask(questions, limit))
        else:
            raw = self._guard(self._port.ask, questions)
        answers = parsed(keyed, raw)
        return answers if isinstance(asks, Mapping) else list(answers.values())

    def sample(
        self,
        messages: str | Sequence[Any],
        *,
        max_tokens: int,
        system: str | None = None,
        tools: Sequence[Any] | None = None,
        tool_choice: Any = None,
        model_preferences: Any = None,
        temperature: float | None = None,
        stop_sequences: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> SampleAnswer:
        """As `Context.sample`."""
        ask = Sample(
            messages, max_tokens, system, tools, tool_choice, model_preferences, temperature, stop_sequences, metadata,
            key,
        )  # fmt: skip
        return self._ask(ask)  # type: ignore[no-any-return]

    def list_roots(self, key: str | None = None) -> list[Root]:
        """As `Context.list_roots`."""
        return self._ask(Roots(key))  # type: ignore[no-any-return]

    # -- work that is kept

    def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]] | Callable[..., T],
        *args: Any,
        retries: int = 0,
        backoff: DurationLike | Sequence[DurationLike] = "1s",
        timeout: DurationLike | float | None = None,
    ) -> T:
        """As `Context.step`. The function runs here; with a `timeout` in a thread."""
        return drive(self._needs_task("step").step(name, fn, args, retries=retries, backoff=backoff, timeout=timeout))  # type: ignore[no-any-return]

    def sleep(self, delay: DurationLike | float) -> None:
        """As `Context.sleep`."""
        drive(self._needs_task("sleep").sleep(delay))

    def sleep_until(self, moment: datetime) -> None:
        """As `Context.sleep_until`."""
        drive(self._needs_task("sleep_until").sleep_until(moment))

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """As `Context.call_tool`; gives the result at once."""
        return drive(self._needs_task("call_tool").call_tool(name, arguments))  # type: ignore[no-any-return]

    def gather(self, *branches: Callable[[], Any], return_exceptions: bool = False) -> list[Any]:
        """Run functions that use this context one after the other; what they wait for they wait for together.

        Give functions, such as `lambda: ctx.call_tool("shrink", {"page": 1})`.
        """
        return drive(self._needs_task("gather").gather(branches, return_exceptions=return_exceptions))  # type: ignore[no-any-return]

    def as_completed(self, calls: Sequence[tuple[str, Mapping[str, Any] | None]]) -> Iterator[CallOutcome]:
        """As `Context.as_completed`, for a plain `for`."""
        arrivals = Arrivals(self._needs_task("as_completed"), calls)
        return iter(lambda: drive(arrivals.next()), None)

    def now(self) -> datetime:
        """As `Context.now`."""
        return drive(self._needs_task("now").value("now"))  # type: ignore[no-any-return]

    def uuid(self) -> UUID:
        """As `Context.uuid`."""
        return drive(self._needs_task("uuid").value("uuid"))  # type: ignore[no-any-return]

    def random(self) -> float:
        """As `Context.random`."""
        return drive(self._needs_task("random").value("random"))  # type: ignore[no-any-return]

    def token(self, valid_for: DurationLike = "1m") -> AccessToken:
        """As `Context.token`."""
        self._needs_task("token")
        assert self._port.durable is not None
        found: AccessToken = self._guard(self._port.durable.token, parse_delay("valid_for", valid_for))
        return found

    def tools_changed(self) -> None:
        """As `Context.tools_changed`."""
        self._guard(self._port.tools_changed)

    def _ask(self, ask: Ask) -> Any:
        return self.elicit_all([ask])[0]

    def _log(self, level: str, data: Any, logger: str | None) -> None:
        self._guard(self._port.log, level, data, logger)

    def _guard(self, call: Callable[..., Any], *args: Any) -> Any:
        self._check_live()
        try:
            return call(*args)
        except Signal as signal:
            self._signal = signal
            raise


class _Awaitable:
    """A plain port in the form that `Durable` awaits."""

    def __init__(self, port: SyncDurablePort) -> None:
        self._port = port

    @property
    def journal(self) -> Mapping[str, Entry]:
        return self._port.journal

    @property
    def answers(self) -> Mapping[str, Answered]:
        return self._port.answers

    @property
    def in_place(self) -> timedelta:
        return self._port.in_place

    def clock(self) -> datetime:
        return self._port.clock()

    async def record(self, entry: Entry) -> None:
        self._port.record(entry)

    async def call(self, entry: Entry, arguments: Mapping[str, Any]) -> Entry:
        return self._port.call(entry, arguments)

    async def park(self, wait: Wait, entries: Sequence[Entry], *, linger: bool) -> None:
        self._port.park(wait, entries, linger=linger)

    async def give_up(self, entry: Entry, keys: Sequence[str]) -> None:
        self._port.give_up(entry, keys)

    async def answer_child(self, child_id: str, responses: Mapping[str, Mapping[str, Any]]) -> None:
        self._port.answer_child(child_id, responses)

    async def withdraw(self, child_id: str) -> None:
        self._port.withdraw(child_id)

    async def token(self, valid_for: timedelta) -> AccessToken:
        return self._port.token(valid_for)
