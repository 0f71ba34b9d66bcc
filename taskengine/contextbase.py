"""What the contexts of both colours share: facts about the call, the keys of questions, and what answers become."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, Protocol

from taskengine.content import clean_text, encode_json
from taskengine.durable import Durable
from taskengine.durations import DurationLike
from taskengine.errors import (
    BadAnswer,
    DeclarationError,
    MissingCapability,
    Refused,
    ResultError,
    Signal,
    Unanswered,
)
from taskengine.identity import Identity
from taskengine.lanes import Ended, current_lane
from taskengine.questions import (
    Answer,
    Ask,
    Form,
    Roots,
    Sample,
    Url,
    missing_capabilities,
)
from taskengine.records import Question
from taskengine.replay import History
from taskengine.steps import parse_delay

__all__ = ["MOST_BYTES", "ContextBase", "checked_progress", "pairs", "parsed"]

MOST_BYTES = 16 << 20
"""Largest result of a step, unless whoever runs the tool says otherwise."""
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
    def caller(self) -> Identity | None: ...
    @property
    def cancelled(self) -> bool: ...


class ContextBase:
    """The part without colour: facts about the call, keys of questions, and the signal that ended the attempt."""

    def __init__(self, port: _Facts, ask_first: Mapping[str, Ask] | None, answer_by: timedelta | None) -> None:
        self._facts = port
        self._answer_by = answer_by
        self._used: set[str] = set()
        self._counts: dict[tuple[str, str], int] = {}
        self._signal: Signal | None = None
        self._durable: Durable | None = None
        asks = ask_first or {}
        given = {key: ask for key, ask in asks.items() if key in port.first}
        self._first = MappingProxyType(parsed(given, port.first))
        self._used.update(asks)

    @property
    def signal(self) -> Ended | None:
        """What ended the attempt, kept in case the tool's code swallowed it."""
        return self._signal or (None if self._durable is None else self._durable.root.ended)

    @property
    def history(self) -> History | None:
        """The task's journal; None when the call makes no task."""
        return None if self._durable is None else self._durable.history

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

    @property
    def caller(self) -> Identity | None:
        """On whose behalf the call was made, as the token said that came with it; None where the server asks nobody
        who they are (docs/security.md). It stays the same for as long as the task lives, whatever becomes of the
        token."""
        return self._facts.caller

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
            if clean_text(key) != key:
                raise DeclarationError(f"The key {key!r} cannot be stored: leave out NUL and halves of surrogate pairs")
            if key in self._used:
                raise DeclarationError(f"The key {key!r} was used for another question of this call: give each its own")
            self._used.add(key)
            keyed[key] = ask
        return keyed

    def _next_key(self, kind: str) -> str:
        lane = "" if self._durable is None else current_lane(self._durable.root).path
        while True:
            self._counts[lane, kind] = self._counts.get((lane, kind), 0) + 1
            key = f"{kind}-{lane + '-' if lane else ''}{self._counts[lane, kind]}"
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

    def _needs_task(self, what: str) -> Durable:
        if self._durable is None:
            raise DeclarationError(
                f'ctx.{what} needs a task, which keeps what was done: a tool with task="forbidden" has none'
            )
        return self._durable

    def _deadline(self, answer_by: DurationLike | None) -> timedelta | None:
        if answer_by is None:
            return self._answer_by
        self._needs_task("elicit with answer_by")
        return parse_delay("answer_by", answer_by)

    def _check_live(self) -> None:
        """Raises what ended the attempt: after a signal every further call ends it again."""
        ended = self._signal or (None if self._durable is None else self._durable.ended)
        if ended is not None:
            raise ended


def pairs(asks: Mapping[str, Ask] | Sequence[Ask]) -> list[tuple[str | None, Ask]]:
    pairs: list[tuple[str | None, Ask]] = (
        list(asks.items()) if isinstance(asks, Mapping) else [(None, ask) for ask in asks]
    )
    if not pairs or not all(isinstance(ask, (Form, Url, Sample, Roots)) for _, ask in pairs):
        raise DeclarationError("elicit_all takes a list or dict of Form, Url, Sample and Roots, at least one")
    return pairs


def parsed(keyed: Mapping[str, Ask], raw: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """The answers in their own types. Raises BadAnswer for one that its model refuses, Refused for an error of the
    client's, Unanswered for one that never came and has no default."""
    answers: dict[str, Any] = {}
    for key, ask in keyed.items():
        response = raw[key]
        if response is None:
            if not isinstance(ask, Form) or ask.default is None:
                raise Unanswered(key)
            answers[key] = Answer("accept", ask.default)
            continue
        error = response.get("error")
        if isinstance(error, Mapping) and isinstance(ask, (Sample, Roots)):
            raise Refused(key, error["code"], error["message"])
        try:
            answers[key] = ask.parse(response)
        except ValueError as error:
            raise BadAnswer(key, str(error)) from None
    return answers


def checked_progress(
    progress: float, total: float | None, message: str | None
) -> tuple[float, float | None, str | None]:
    for number in (progress, total):
        if number is not None and not math.isfinite(number):
            raise ValueError(f"progress is {number}: give a finite number")
    return progress, total, None if message is None else clean_text(str(message))
