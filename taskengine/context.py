"""What a running tool may ask of the engine.

`Context` is for `async def` tools; `SyncContext` has the same names as plain calls for `def` tools. Both stand on a
port (`taskengine.port`), so a tool is the same in a worker, in the front end and in a test.

A question whose answer is not there yet ends the attempt: the port raises `Suspended`, which no `except Exception`
of a tool catches, and the function runs again from the top once every answer has come. Keys given to questions must
therefore be the same in every run: name them, or ask in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar, overload

from taskengine.clientlog import Log, SyncLog
from taskengine.content import clean_text, encode_json
from taskengine.errors import BadAnswer, DeclarationError, MissingCapability, Refused, ResultError, Signal
from taskengine.port import Port, SyncPort
from taskengine.questions import (
    Answer,
    Ask,
    Form,
    Root,
    Roots,
    Sample,
    SampleAnswer,
    Url,
    missing_capabilities,
)
from taskengine.records import Question

__all__ = ["Context", "SyncContext"]

T = TypeVar("T")
Feature = Literal["elicitation", "elicitation.url", "sampling", "sampling.tools", "roots"]


class _Facts(Protocol):
    """What both ports know."""

    @property
    def task_id(self) -> str | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def capabilities(self) -> Mapping[str, Any]: ...
    @property
    def first(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def cancelled(self) -> bool: ...


class _Base:
    """The part without colour: facts about the call, keys of questions, and the signal that ended the attempt."""

    def __init__(self, port: _Facts, ask_first: Mapping[str, Ask] | None = None) -> None:
        self._facts = port
        self._used: set[str] = set()
        self._counts: dict[str, int] = {}
        self.signal: Signal | None = None
        """What ended the attempt, kept in case the tool's code swallowed it."""
        asks = ask_first or {}
        given = {key: ask for key, ask in asks.items() if key in port.first}
        self._first = MappingProxyType(_parsed(given, port.first))
        self._used.update(asks)

    @property
    def task_id(self) -> str | None:
        """The task's id; None when the call makes no task (`task="forbidden"`)."""
        return self._facts.task_id

    @property
    def attempt(self) -> int:
        """1 for the first run of the function; grows with every further one."""
        return self._facts.attempt

    @property
    def cancelled(self) -> bool:
        """The client has cancelled; whatever the tool returns is dropped."""
        return self._facts.cancelled

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """The client's `ClientCapabilities`, as declared on the call."""
        return self._facts.capabilities

    @property
    def first(self) -> Mapping[str, Any]:
        """Answers to the tool's `ask_first` questions, by key."""
        return self._first

    def supports(self, feature: Feature) -> bool:
        """Whether the client declared `feature`: asking without it ends the call with `MissingCapability`."""
        probes = {
            "elicitation": Question("probe", "elicitation/create", {"mode": "form"}),
            "elicitation.url": Question("probe", "elicitation/create", {"mode": "url"}),
            "sampling": Question("probe", "sampling/createMessage", {}),
            "sampling.tools": Question("probe", "sampling/createMessage", {"tools": []}),
            "roots": Question("probe", "roots/list", {}),
        }
        return not missing_capabilities([probes[feature]], self.capabilities)

    def _keyed(self, asks: Sequence[tuple[str | None, Ask]]) -> dict[str, Ask]:
        """The asks by their keys, in order. Raises DeclarationError for a key used before in this run."""
        keyed: dict[str, Ask] = {}
        for given, ask in asks:
            key = given or ask.key or self._next_key(ask.kind)
            if key in self._used:
                raise DeclarationError(f"The key {key!r} was used for another question of this call: give each its own")
            self._used.add(key)
            keyed[key] = ask
        return keyed

    def _next_key(self, kind: str) -> str:
        while True:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            key = f"{kind}-{self._counts[kind]}"
            if key not in self._used:
                return key

    def _questions(self, keyed: Mapping[str, Ask]) -> list[Question]:
        """The records of these asks. Raises MissingCapability for what the client did not declare."""
        questions = [ask.question(key) for key, ask in keyed.items()]
        for question in questions:
            try:
                encode_json(question.params)
            except ResultError as error:
                raise DeclarationError(f"The question {question.key!r} cannot be sent: {error}") from None
        missing = missing_capabilities(questions, self.capabilities)
        if missing:
            raise MissingCapability(missing)
        return questions


class Context(_Base):
    """What an `async def` tool may ask of the engine; it comes as the parameter annotated `Context`."""

    def __init__(self, port: Port, ask_first: Mapping[str, Ask] | None = None) -> None:
        super().__init__(port, ask_first)
        self._port = port
        self.log = Log(self._log)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the work is; `progress` grows from call to call, `total` is its end when known."""
        await self._guard(self._port.progress, *_progress(progress, total, message))

    @overload
    async def elicit(self, message: str, form: type[T], *, key: str | None = None) -> Answer[T]: ...
    @overload
    async def elicit(self, message: str, form: Mapping[str, Any], *, key: str | None = None) -> Answer[Any]: ...
    async def elicit(self, message: str, form: Any, *, key: str | None = None) -> Answer[Any]:
        """Ask somebody to fill in a form. Ends the attempt unless the answer is there already.

        Raises MissingCapability when the client declared no forms, and BadAnswer when the model refuses what its
        form allowed.
        """
        return await self._ask(Form(message, form, key))  # type: ignore[no-any-return]

    async def elicit_url(self, message: str, url: str, *, key: str | None = None) -> Answer[None]:
        """Ask somebody to open a page; `accepted` means that they agreed to, not that they are done there."""
        return await self._ask(Url(message, url, key))  # type: ignore[no-any-return]

    @overload
    async def elicit_all(self, asks: Mapping[str, Ask]) -> dict[str, Any]: ...
    @overload
    async def elicit_all(self, asks: Sequence[Ask]) -> list[Any]: ...
    async def elicit_all(self, asks: Mapping[str, Ask] | Sequence[Ask]) -> dict[str, Any] | list[Any]:
        """Ask several things at once: forms, URLs, samples, roots; asked by themselves, the first that has no answer
        ends the attempt before the next is asked. Answers come in the shape of `asks`: a dict by key, or a list in
        its order."""
        keyed = self._keyed(_pairs(asks))
        raw = await self._guard(self._port.ask, self._questions(keyed))
        answers = _parsed(keyed, raw)
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

    async def tools_changed(self) -> None:
        """Tell listening clients that the list of tools is another now."""
        await self._guard(self._port.tools_changed)

    async def _ask(self, ask: Ask) -> Any:
        return (await self.elicit_all([ask]))[0]

    async def _log(self, level: str, data: Any, logger: str | None) -> None:
        await self._guard(self._port.log, level, data, logger)

    async def _guard(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call the port; after a signal every further call ends the attempt again."""
        if self.signal is not None:
            raise self.signal
        try:
            return await call(*args)
        except Signal as signal:
            self.signal = signal
            raise


class SyncContext(_Base):
    """What a `def` tool may ask of the engine: the names of `Context` as plain calls."""

    def __init__(self, port: SyncPort, ask_first: Mapping[str, Ask] | None = None) -> None:
        super().__init__(port, ask_first)
        self._port = port
        self.log = SyncLog(self._log)

    def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """As `Context.progress`."""
        self._guard(self._port.progress, *_progress(progress, total, message))

    @overload
    def elicit(self, message: str, form: type[T], *, key: str | None = None) -> Answer[T]: ...
    @overload
    def elicit(self, message: str, form: Mapping[str, Any], *, key: str | None = None) -> Answer[Any]: ...
    def elicit(self, message: str, form: Any, *, key: str | None = None) -> Answer[Any]:
        """As `Context.elicit`."""
        return self._ask(Form(message, form, key))  # type: ignore[no-any-return]

    def elicit_url(self, message: str, url: str, *, key: str | None = None) -> Answer[None]:
        """As `Context.elicit_url`."""
        return self._ask(Url(message, url, key))  # type: ignore[no-any-return]

    @overload
    def elicit_all(self, asks: Mapping[str, Ask]) -> dict[str, Any]: ...
    @overload
    def elicit_all(self, asks: Sequence[Ask]) -> list[Any]: ...
    def elicit_all(self, asks: Mapping[str, Ask] | Sequence[Ask]) -> dict[str, Any] | list[Any]:
        """As `Context.elicit_all`."""
        keyed = self._keyed(_pairs(asks))
        raw = self._guard(self._port.ask, self._questions(keyed))
        answers = _parsed(keyed, raw)
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

    def tools_changed(self) -> None:
        """As `Context.tools_changed`."""
        self._guard(self._port.tools_changed)

    def _ask(self, ask: Ask) -> Any:
        return self.elicit_all([ask])[0]

    def _log(self, level: str, data: Any, logger: str | None) -> None:
        self._guard(self._port.log, level, data, logger)

    def _guard(self, call: Callable[..., Any], *args: Any) -> Any:
        if self.signal is not None:
            raise self.signal
        try:
            return call(*args)
        except Signal as signal:
            self.signal = signal
            raise


def _pairs(asks: Mapping[str, Ask] | Sequence[Ask]) -> list[tuple[str | None, Ask]]:
    pairs: list[tuple[str | None, Ask]] = (
        list(asks.items()) if isinstance(asks, Mapping) else [(None, ask) for ask in asks]
    )
    if not pairs or not all(isinstance(ask, (Form, Url, Sample, Roots)) for _, ask in pairs):
        raise DeclarationError("elicit_all takes a list or dict of Form, Url, Sample and Roots, at least one")
    return pairs


def _parsed(keyed: Mapping[str, Ask], raw: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The answers in their own types. Raises BadAnswer for one that its model refuses, Refused for an error of the
    client's."""
    answers = {}
    for key, ask in keyed.items():
        error = raw[key].get("error")
        if isinstance(error, Mapping) and isinstance(ask, (Sample, Roots)):
            raise Refused(key, error["code"], error["message"])
        try:
            answers[key] = ask.parse(raw[key])
        except ValueError as error:
            raise BadAnswer(key, str(error)) from None
    return answers


def _progress(progress: float, total: float | None, message: str | None) -> tuple[float, float | None, str | None]:
    for number in (progress, total):
        if number is not None and not math.isfinite(number):
            raise ValueError(f"progress is {number}: give a finite number")
    return progress, total, None if message is None else clean_text(str(message))
