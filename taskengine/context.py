"""What a running tool may ask of the engine.

`Context` is for `async def` tools; `SyncContext` has the same names as plain calls for `def` tools. Both stand on a
port (`taskengine.port`), so a tool is the same in a worker, in the front end and in a test.

A question whose answer is not there yet ends the attempt: the port raises `Suspended`, which no `except Exception`
of a tool catches, and the function runs again from the top once every answer has come. Keys given to questions must
therefore be the same in every run: name them, or ask in a fixed order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload
from uuid import UUID

from taskengine.arrivals import Arrivals, CallOutcome
from taskengine.calls import ToolCall
from taskengine.clientlog import Log
from taskengine.colours import AsyncColour
from taskengine.contextbase import MOST_BYTES, ContextBase, checked_progress, pairs, parsed
from taskengine.durable import Durable
from taskengine.durations import DurationLike
from taskengine.errors import (
    Signal,
)
from taskengine.identity import AccessToken
from taskengine.port import Port
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
from taskengine.steps import parse_delay
from taskengine.synccontext import SyncContext

__all__ = ["Context", "SyncContext"]

T = TypeVar("T")


class Context(ContextBase):
    """What an `async def` tool may ask of the engine; it comes as the parameter annotated `Context`."""

    def __init__(
        self,
        port: Port,
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
            self._durable = Durable(port.durable, AsyncColour(), tool=tool, version=version, max_bytes=max_bytes)

    @property
    def log(self) -> Log:
        """Log messages for the client of the call (X-LOG-08)."""
        return Log(self._log)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the work is; `progress` grows from call to call, `total` is its end when known."""
        await self._guard(self._port.progress, *checked_progress(progress, total, message))

    @overload
    async def elicit(
        self,
        message: str,
        form: type[T],
        *,
        key: str | None = None,
        answer_by: DurationLike | None = None,
        default: T | None = None,
    ) -> Answer[T]: ...
    @overload
    async def elicit(
        self,
        message: str,
        form: Mapping[str, Any],
        *,
        key: str | None = None,
        answer_by: DurationLike | None = None,
        default: Any = None,
    ) -> Answer[Any]: ...
    async def elicit(
        self,
        message: str,
        form: Any,
        *,
        key: str | None = None,
        answer_by: DurationLike | None = None,
        default: Any = None,
    ) -> Answer[Any]:
        """Ask somebody to fill in a form. Ends the attempt unless the answer is there already.

        When nobody has answered after `answer_by` (else the tool's), the question is withdrawn: the answer is
        `default` as if it had been given, and without one Unanswered is raised. Raises MissingCapability when the
        client declared no forms, and BadAnswer when the model refuses what its form allowed.
        """
        asked = await self.elicit_all([Form(message, form, key, default)], answer_by=answer_by)
        return asked[0]  # type: ignore[no-any-return]

    async def elicit_url(
        self, message: str, url: str, *, key: str | None = None, answer_by: DurationLike | None = None
    ) -> Answer[None]:
        """Ask somebody to open a page; `accepted` means that they agreed to, not that they are done there."""
        return (await self.elicit_all([Url(message, url, key)], answer_by=answer_by))[0]  # type: ignore[no-any-return]

    @overload
    async def elicit_all(self, asks: Mapping[str, Ask], *, answer_by: DurationLike | None = None) -> dict[str, Any]: ...
    @overload
    async def elicit_all(self, asks: Sequence[Ask], *, answer_by: DurationLike | None = None) -> list[Any]: ...
    async def elicit_all(
        self, asks: Mapping[str, Ask] | Sequence[Ask], *, answer_by: DurationLike | None = None
    ) -> dict[str, Any] | list[Any]:
        """Ask several things at once: forms, URLs, samples, roots; asked by themselves, the first that has no answer
        ends the attempt before the next is asked. Answers come in the shape of `asks`: a dict by key, or a list in
        its order."""
        keyed = self._keyed(pairs(asks))
        questions, limit = self._questions(keyed), self._deadline(answer_by)
        raw: Mapping[str, Mapping[str, Any] | None]
        if self._durable is not None:
            raw = await self._durable.ask(questions, limit)
        else:
            raw = await self._guard(self._port.ask, questions)
        answers = parsed(keyed, raw)
        return answers if isinstance(asks, Mapping) else list(answers.values())

    async def sample(
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
        """Ask the client's model for a message; see `Sample` for the parameters."""
        ask = Sample(
            messages, max_tokens, system, tools, tool_choice, model_preferences, temperature, stop_sequences, metadata,
            key,
        )  # fmt: skip
        return await self._ask(ask)  # type: ignore[no-any-return]

    async def list_roots(self, key: str | None = None) -> list[Root]:
        """Ask the client which places it works in."""
        return await self._ask(Roots(key))  # type: ignore[no-any-return]

    # -- work that is kept: see docs/durability.md

    async def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]] | Callable[..., T],
        *args: Any,
        retries: int = 0,
        backoff: DurationLike | Sequence[DurationLike] = "1s",
        timeout: DurationLike | float | None = None,
    ) -> T:
        """Run `fn(*args)` once and keep its result: a later attempt gets it without running it again.

        `fn` may be async or not; one that is not runs in a thread here. What it returns must be kept as JSON and read
        back by its return annotation. It is tried again `retries` times, `backoff` after the first failure and twice
        that after each further one (or the waits of a list); a try ends after `timeout`. Raises StepFailed when the
        last try failed, the function's own ToolError or ProtocolError at once, and ResultError for a result that
        cannot be kept.
        """
        return await self._needs_task("step").step(name, fn, args, retries=retries, backoff=backoff, timeout=timeout)  # type: ignore[no-any-return]

    async def sleep(self, delay: DurationLike | float) -> None:
        """Wait; past a few seconds without running. `delay` is in seconds, "90s", or a timedelta."""
        await self._needs_task("sleep").sleep(delay)

    async def sleep_until(self, moment: datetime) -> None:
        """Wait until that time by the database's clock; it must have a zone."""
        await self._needs_task("sleep_until").sleep_until(moment)

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolCall:
        """Await this to call another durable tool of the engine as a task of its own, and wait without running.

        It ends when this task ends, however. Raises CallFailed when it gives an error instead of a result.
        """
        durable = self._needs_task("call_tool")
        return ToolCall(lambda: durable.call_tool(name, arguments))

    async def gather(self, *branches: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Run calls of this context, or functions that make such calls, side by side; their results in order.

        All are waited for, whatever becomes of the others. Then the first exception is raised, or with
        `return_exceptions` given in place of a result.
        """
        durable = self._needs_task("gather")
        return await durable.gather(branches, return_exceptions=return_exceptions)

    def as_completed(self, calls: Sequence[tuple[str, Mapping[str, Any] | None]]) -> AsyncIterator[CallOutcome]:
        """Call other durable tools, each given by name and arguments, and take what they give as they end:

            async for done in ctx.as_completed([("shrink", {"page": page}) for page in range(1000)]): …

        All are called when the loop begins. While none has ended the task waits without running; when it goes on it
        takes all that have. A later attempt gets them in the same order. What the loop leaves behind ends with this
        task. Raises InvalidArguments for arguments that are not JSON; a call that is refused for another reason, or
        fails, is an outcome with an `error`.
        """
        return _Arriving(Arrivals(self._needs_task("as_completed"), calls))

    async def now(self) -> datetime:
        """The time, in UTC: in every attempt that of the first one to come here."""
        return await self._needs_task("now").value("now")  # type: ignore[no-any-return]

    async def uuid(self) -> UUID:
        """A random UUID, the same in every attempt."""
        return await self._needs_task("uuid").value("uuid")  # type: ignore[no-any-return]

    async def random(self) -> float:
        """A random number from 0 to 1, the same in every attempt."""
        return await self._needs_task("random").value("random")  # type: ignore[no-any-return]

    async def token(self, valid_for: DurationLike = "1m") -> AccessToken:
        """The caller's token, handed over to a tool that is declared with `token=True`, good for at least `valid_for`.

        One that expires sooner is renewed first, where the engine can (`engine.renews_tokens`). It is for getting
        tokens of other services from their issuer, and never for those services themselves (X-AUTH-12). Raises
        ToolError when there is none, or none that is good for so long.
        """
        self._needs_task("token")
        assert self._port.durable is not None
        found: AccessToken = await self._guard(self._port.durable.token, parse_delay("valid_for", valid_for))
        return found

    async def tools_changed(self) -> None:
        """Tell listening clients that the list of tools is another now."""
        await self._guard(self._port.tools_changed)

    async def _ask(self, ask: Ask) -> Any:
        return (await self.elicit_all([ask]))[0]

    async def _log(self, level: str, data: Any, logger: str | None) -> None:
        await self._guard(self._port.log, level, data, logger)

    async def _guard(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call the port; after a signal every further call ends the attempt again."""
        self._check_live()
        try:
            return await call(*args)
        except Signal as signal:
            self._signal = signal
            raise


class _Arriving(AsyncIterator[CallOutcome]):
    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals

    async def __anext__(self) -> CallOutcome:
        outcome = await self._arrivals.next()
        if outcome is None:
            raise StopAsyncIteration
        return outcome
