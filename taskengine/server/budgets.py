"""What one caller may have of this server: how much at once, how often, how large (docs/limits.md).

Where callers are told apart each has a budget by default. Where they are not, everybody is one owner, and there is a
limit only where the operator has set one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from limits import RateLimitItem, parse

from taskengine.errors import LimitReached
from taskengine.lifecycle import Status, poll_interval
from taskengine.records import TaskRecord
from taskengine.server.caller import Caller
from taskengine.server.rates import Rates
from taskengine.server.shared import Shared
from taskengine.server.streams import Streams, TooMany
from taskengine.settings import Settings
from taskengine.store.bounds import Bounds
from taskengine.wire.jsonrpc import INVALID_PARAMS, RpcError, dumps

__all__ = ["Budgets"]

OPEN_TASKS = 1_000
STREAMS = 1_000
CALLS = "600/minute"
POLLS = "600/minute"
"""The defaults of the settings of the same kind, for callers that are told apart."""
BURST = 60
"""Polls ahead of their time, and other requests about tasks and streams, that a front end answers without asking the
others: a few at the start harm nobody."""
BURST_PER_S = 1.0
EARLY = 0.8
"""A poll is on time from this share of the suggested interval on: clocks and networks are not exact."""
MOST_POLLED = 50_000
RESULT = "result"
"""Noted beside a task whose result may be asked for at once."""
MOST_OWNERS = 10_000
STREAMS_RETRY_S = 5.0


class Budgets:
    """Of one front end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shared = Shared(settings)
        self._rates = Rates(self._shared)
        self._streams = Streams(self._shared)
        given = (CALLS, POLLS, settings.call_rate, settings.poll_rate)
        self._rate_of = {name: parse(name) for name in given if name is not None and name != "0"}
        self._due: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When the next poll of a task is on time."""
        self._bursts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What is left of each owner's burst, and since when."""

    async def close(self) -> None:
        await self._streams.close()
        await self._shared.close()

    def bounds(self, caller: Caller) -> Bounds:
        """For the statement that creates a task of this caller."""
        settings = self._settings
        return Bounds(
            owner_open=self._most(settings.max_open_tasks_per_owner, caller, OPEN_TASKS),
            all_open=settings.max_open_tasks or None,
            all_queued=settings.max_queued or None,
            route_queued=settings.max_queued_per_queue or None,
        )

    async def calling(self, caller: Caller) -> None:
        """One more call of a tool. Raises LimitReached (X-SEC-09, X-TOOL-24)."""
        rate = self._rate(self._settings.call_rate, caller, CALLS)
        if rate is not None and (retry_s := await self._rates.hit(rate, "calls", caller.owner)) is not None:
            raise LimitReached("calls", f"You call tools more often than {rate}", retry_s)

    def check_size(self, arguments: Mapping[str, Any]) -> None:
        """Raises RpcError -32602 for arguments that are too large (X-SEC-10)."""
        most = self._settings.max_argument_bytes
        try:
            size = len(dumps(arguments))
        except TypeError:
            return  # what JSON cannot hold is refused by the tool's schema, with a reason
        if size > most:
            raise RpcError(
                INVALID_PARAMS,
                f"The arguments have {size} bytes as JSON, and {most} is the most: send less, or a link to it",
                {"limit": "argument_bytes", "most": most},
            )

    async def polling(self, caller: Caller, task_id: str, *, of_result: bool = False) -> None:
        """One more look at a task. On time it costs nothing; what comes sooner than was suggested is the first thing to
        be limited (M-TASK-43). Raises LimitReached, which says when the next is on time."""
        rate = self._rate(self._settings.poll_rate, caller, POLLS)
        if rate is None:
            return
        if of_result and self._due.pop((caller.owner, f"{task_id} {RESULT}"), None) is not None:
            return
        now = time.monotonic()
        due = self._due.get((caller.owner, task_id), now + 1)  # of a task that nobody has seen yet, it is not known
        if due <= now or self._takes_from_burst(caller.owner, now):
            return
        if await self._rates.hit(rate, "polls", caller.owner) is not None:
            raise LimitReached("polls", "You look at tasks sooner than their pollIntervalMs says", due - now)

    async def acting(self, caller: Caller) -> None:
        """One more request about tasks, sessions or streams that is neither a call nor a poll. Raises LimitReached
        (X-SEC-09, L-TASK-63)."""
        rate = self._rate(self._settings.poll_rate, caller, POLLS)
        if rate is None or self._takes_from_burst(caller.owner, time.monotonic()):
            return
        if (retry_s := await self._rates.hit(rate, "polls", caller.owner)) is not None:
            raise LimitReached("polls", f"You ask for more than {rate}", retry_s)

    def polled(self, caller: Caller, record: TaskRecord, *, result_apart: bool = False) -> None:
        """The caller was told how the task stands, and when to look again; with `result_apart`, that it may ask for the
        result at once when the task no longer works: what it came to, or asks, is got by another request."""
        if self._settings.poll_rate is None and caller.identity is None:
            return
        key = (caller.owner, record.id)
        if key not in self._due:
            self._give_back(caller.owner)
        interval = poll_interval(record.now - record.created_at, timedelta(milliseconds=record.poll_interval_ms))
        due = time.monotonic() + EARLY * interval.total_seconds()
        apart = result_apart and record.status is not Status.WORKING
        for each in (key, (caller.owner, f"{record.id} {RESULT}")) if apart else (key,):
            self._due[each] = due
            self._due.move_to_end(each)
        while len(self._due) > MOST_POLLED:
            self._due.popitem(last=False)

    @asynccontextmanager
    async def stream(self, caller: Caller, name: str | None = None) -> AsyncIterator[None]:
        """A stream that stays open for this caller meanwhile, at one of all front ends; streams of one `name` are one,
        since the next takes the place of the last. Raises LimitReached (M-SUB-18)."""
        most = self._most(self._settings.max_streams_per_owner, caller, STREAMS)
        if most is None:
            yield
            return
        try:
            async with self._streams.open(caller.owner, most, name):
                yield
        except TooMany as full:
            raise LimitReached(
                "streams_per_owner",
                f"You have {full.most} open streams, which is the most: close one, or poll with tasks/get",
                STREAMS_RETRY_S,
            ) from None

    @staticmethod
    def _most(setting: int | None, caller: Caller, default: int) -> int | None:
        if setting is not None:
            return setting or None
        return None if caller.identity is None else default

    def _rate(self, setting: str | None, caller: Caller, default: str) -> RateLimitItem | None:
        if setting is None:
            return None if caller.identity is None else self._rate_of[default]
        return self._rate_of.get(setting)

    def _takes_from_burst(self, owner: str, now: float) -> bool:
        left, since = self._bursts.pop(owner, (float(BURST), now))
        left = min(float(BURST), left + (now - since) * BURST_PER_S)
        taken = left >= 1
        self._bursts[owner] = (left - taken, now)
        if len(self._bursts) > MOST_OWNERS:
            self._bursts.popitem(last=False)
        return taken

    def _give_back(self, owner: str) -> None:
        if owner in self._bursts:
            left, since = self._bursts[owner]
            self._bursts[owner] = (left + 1, since)
