"""Many calls of other tools, taken as they end: `ctx.as_completed`.

The calls have one place together, and each time that some have ended another: the entry there says which, so that a
later attempt gets them in the same order, and what the function does with them has places in between.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from taskengine.calls import ToolResult, plain_arguments
from taskengine.durable import Durable, asking, checked_name, has_ended
from taskengine.errors import DeclarationError, EngineError
from taskengine.lanes import Lane
from taskengine.records import Entry, Wait

__all__ = ["Arrivals", "CallOutcome"]

_SHORTEST = timedelta(milliseconds=100)
"""A pause that is shorter is not worth an attempt."""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What one of many calls came to."""

    index: int
    """Its place in the list of calls."""
    tool: str
    arguments: Mapping[str, Any]
    error: EngineError | None = None
    """CallFailed when the tool failed, else the error with which the call was refused; None for a result."""
    given: ToolResult | None = None

    @property
    def result(self) -> ToolResult:
        """Raises `error` when there is one."""
        if self.error is not None:
            raise self.error
        assert self.given is not None
        return self.given


class Arrivals:
    """The outcomes of calls, in the order in which they come. Nothing is done before the first is asked for."""

    def __init__(self, durable: Durable, calls: Sequence[tuple[str, Mapping[str, Any] | None]]) -> None:
        """Raises DeclarationError and InvalidArguments; which calls are refused is told by their outcomes."""
        self._durable = durable
        try:
            pairs = [(name, arguments) for name, arguments in calls]
        except (TypeError, ValueError):
            raise DeclarationError(
                'ctx.as_completed takes a list of calls, each a name and arguments: [("shrink", {"page": 1}), …]'
            ) from None
        self._calls = [(checked_name(name), plain_arguments(name, arguments)) for name, arguments in pairs]
        self._path: str | None = None
        self._open: dict[int, Entry] = {}
        """The calls that have not been taken."""
        self._ready: deque[tuple[int, Entry]] = deque()
        """Those that are recorded as taken, and not yet given."""
        self._began: datetime
        self._latest: datetime
        """When some were taken for the last time."""

    async def next(self) -> CallOutcome | None:
        """The next outcome; None after the last."""
        if self._path is None:
            await self._begin()
        if not self._ready and self._open:
            await self._take()
        if not self._ready:
            return None
        index, entry = self._ready.popleft()
        tool, arguments = self._calls[index]
        try:
            given = await self._durable.given(entry)
        except EngineError as error:
            return CallOutcome(index, tool, arguments, error)
        return CallOutcome(index, tool, arguments, given=given)

    async def _begin(self) -> None:
        durable, count = self._durable, str(len(self._calls))
        with durable.place("calls", count) as (_, path, found):
            begun = found or Entry(path, "calls", count, due=durable.clock(), version=durable.version)
            if found is None:
                await durable.record(begun)
            assert begun.due is not None
            self._began = self._latest = begun.due
            missing = []
            for index, (name, _arguments) in enumerate(self._calls):
                entry = durable.history.find(_place(path, index), "call", name)
                if entry is None:
                    missing.append(index)
                else:
                    self._open[index] = entry
            made = await durable.colour.together(
                [partial(durable.called, _place(path, index), *self._calls[index]) for index in missing]
            )
            self._open.update(zip(missing, made, strict=True))
            self._path = path

    async def _take(self) -> None:
        durable = self._durable
        with durable.place("arrived", "") as (lane, path, found):
            taken = found
            if taken is None:
                while not (ended := sorted(index for index, entry in self._open.items() if has_ended(entry))):
                    await self._wait(lane)
                now, text = durable.clock(), json.dumps(ended)
                taken = Entry(path, "arrived", "", value=text, due=now, version=durable.version)
                await durable.record(taken)
            assert taken.due is not None
            self._latest = taken.due
            self._ready.extend((index, self._open.pop(index)) for index in json.loads(taken.value or "[]"))

    async def _wait(self, lane: Lane) -> None:
        """End the attempt until some have ended, and not too soon after the last time."""
        durable, open_now = self._durable, len(self._open)
        each = [await durable.waiting_for(entry.child) for entry in self._open.values() if entry.child is not None]
        questions = tuple(question for wait in each for question in wait.questions)
        message = asking(questions) if questions else f"Waiting for {open_now} of {len(self._calls)} calls"
        until = self._latest + _pause(len(self._calls), durable.clock() - self._began)
        if until - durable.clock() < _SHORTEST:
            await durable.wait(lane, Wait(questions, children=1, message=message), linger=True)
        else:
            await durable.wait(lane, Wait(questions, until, open_now, message), linger=True)
        assert self._path is not None
        for index in self._open:
            self._open[index] = durable.fresh(_place(self._path, index))


def _place(path: str, index: int) -> str:
    return f"{path}.{index}.1"


def _pause(calls: int, elapsed: timedelta) -> timedelta:
    """How long after some were taken the next may be: an attempt goes through all calls, so many make it rarer.

    For a thousand calls a second, and later a fiftieth of the time they have taken so far; in proportion for fewer, and
    up to twice that for more. So the attempts are some hundreds, whatever the time.
    """
    return max(timedelta(seconds=1), elapsed / 50) * (min(calls, 2_000) / 1_000)
