"""What is measured of a front end and its worker: polls, creates, bursts, lone tasks and plain answers.

Every request has a token, and a connection keeps to one owner. Each task is its owner's, and is polled with its token.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.load import Connection, request, run

__all__ = ["CONNECTIONS", "MEASURES", "POLLED_EACH", "Endpoint", "Measure", "Taken", "creates", "empty", "to_the_end"]

DONE = {"completed", "failed", "cancelled"}
POLL_S = 0.001
LOOK_S = 0.1
CONNECTIONS = 16
POLLED_EACH = 32
"""Tasks that a connection polls in turn. At 10,000 polls a second the turn of each comes after 50 ms, later than the 20
ms that our answers suggest: so these are polls as they should be, which the rate lets pass, and no two that are under
way are of the same task."""
BURST, BURST_CONNECTIONS = 1500, 32


@dataclass(frozen=True)
class Endpoint:
    """Where a side answers, and the tokens of its callers."""

    url: str
    tokens: tuple[str, ...]

    def call(self, owner: int, tool: str = "nothing") -> bytes:
        return request(self.url, "tools/call", tool, {"name": tool, "arguments": {}}, token=self.tokens[owner])

    def poll(self, owner: int, task_id: str) -> bytes:
        return request(self.url, "tasks/get", task_id, {"taskId": task_id}, token=self.tokens[owner])


Made = Sequence[Sequence[str]]
"""Ids of tasks, by the number of their owner."""


@dataclass(frozen=True)
class Taken:
    """What one measure gave: a rate or milliseconds, and of how many."""

    value: float
    count: int
    made: Made = ()
    """Those that may not have ended yet, for `empty`."""


Run = Callable[[Endpoint, float, Made], Coroutine[Any, Any, Taken]]
"""For so many seconds, with what was made ready for it."""


async def submit(end: Endpoint, connection: Connection, owner: int) -> str:
    return str((await connection.send(end.call(owner)))["taskId"])


async def _status(end: Endpoint, connection: Connection, owner: int, task_id: str) -> str:
    return str((await connection.send(end.poll(owner, task_id)))["status"])


async def to_the_end(end: Endpoint, connection: Connection, owner: int) -> str:
    """The id of a task that was called and seen completed."""
    task_id = await submit(end, connection, owner)
    await until_done(end, connection, owner, task_id)
    return task_id


async def until_done(end: Endpoint, connection: Connection, owner: int, task_id: str) -> None:
    status = "working"
    while status not in DONE:
        await asyncio.sleep(POLL_S)
        status = await _status(end, connection, owner, task_id)


@asynccontextmanager
async def _connection(end: Endpoint, number: int = 0) -> AsyncIterator[Connection]:
    connection = await Connection.open(end.url, number)
    yield connection
    await connection.close()


async def ended(end: Endpoint) -> Made:
    """Tasks that have ended: 32 for each of 16 connections."""

    async def share(number: int) -> list[str]:
        async with _connection(end, number) as connection:
            task_ids = [await submit(end, connection, number) for _ in range(POLLED_EACH)]
            for task_id in task_ids:
                await until_done(end, connection, number, task_id)
            return task_ids

    return await asyncio.gather(*map(share, range(CONNECTIONS)))


async def polls(end: Endpoint, seconds: float, made: Made) -> Taken:
    """Polls a second, 16 connections, each over tasks of its own."""
    turns = [itertools.cycle([end.poll(number, each) for each in task_ids]) for number, task_ids in enumerate(made)]
    load = await run(end.url, CONNECTIONS, seconds, lambda each: each.send(next(turns[each.number])))
    return Taken(load.rate, load.requests)


async def creates(end: Endpoint, seconds: float, _: Made) -> Taken:
    """Calls accepted as tasks a second, 16 connections; it ends when the last of each has, so that their runs count."""
    messages = [end.call(number) for number in range(CONNECTIONS)]
    made: list[list[str]] = [[] for _ in range(CONNECTIONS)]

    async def create(connection: Connection) -> None:
        made[connection.number].append(str((await connection.send(messages[connection.number]))["taskId"]))

    accepted = await run(end.url, CONNECTIONS, seconds, create)
    await empty(end, [task_ids[-1:] for task_ids in made])
    return Taken(accepted.rate, accepted.requests, made)


async def empty(end: Endpoint, made: Made) -> None:
    """Each task of each owner has been seen to have ended: what was accepted does not weigh on what comes next."""

    async def share(number: int) -> None:
        async with _connection(end, number) as connection:
            for task_id in reversed(made[number]):  # mostly the last to end
                status = await _status(end, connection, number, task_id)
                while status not in DONE:
                    await asyncio.sleep(LOOK_S)
                    status = await _status(end, connection, number, task_id)

    await asyncio.gather(*map(share, range(len(made))))


async def lone(end: Endpoint, seconds: float, _: Made) -> Taken:
    """Milliseconds from call to seen completed, one task at a time, polled each millisecond, each of the next owner."""
    times = []
    async with _connection(end) as connection:
        until = time.perf_counter() + seconds
        for owner in itertools.cycle(range(len(end.tokens))):
            if time.perf_counter() >= until:
                break
            started = time.perf_counter()
            await to_the_end(end, connection, owner)
            times.append((time.perf_counter() - started) * 1000)
    return Taken(statistics.median(times), len(times))


async def quick(end: Endpoint, seconds: float, _: Made) -> Taken:
    """Milliseconds of a call whose answer is the result, one at a time."""
    message = end.call(0, "quick")
    times = []
    async with _connection(end) as connection:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            started = time.perf_counter()
            answer = await connection.send(message)
            if "content" not in answer:
                raise SystemExit("a call that does nothing was not answered within quick_wait")
            times.append((time.perf_counter() - started) * 1000)
    return Taken(statistics.median(times), len(times))


async def burst(end: Endpoint, _seconds: float, _: Made) -> Taken:
    """Tasks a second over 1,500 of them on 32 connections, from the first call to the last seen completed."""
    started = time.perf_counter()

    async def share(number: int) -> None:
        async with _connection(end, number) as connection:
            count = len(range(number, BURST, BURST_CONNECTIONS))
            waiting = [await submit(end, connection, number) for _ in range(count)]
            while waiting:
                waiting = [each for each in waiting if await _status(end, connection, number, each) not in DONE]

    await asyncio.gather(*map(share, range(BURST_CONNECTIONS)))
    return Taken(BURST / (time.perf_counter() - started), BURST)


@dataclass(frozen=True)
class Measure:
    """One line of the table. `peer` is what is compared with it, where that is not the same."""

    key: str
    name: str
    run: Run
    goal: str
    least: float
    """How many times the peer's, or as fast as the peer's, ours must be."""
    peer: Run | None = None
    ready: Callable[[Endpoint], Coroutine[Any, Any, Made]] | None = None
    """What is made before, and is not part of what is measured."""
    more_is_better: bool = True

    def ratio(self, ours: float, peers: float) -> float:
        """How many times better ours is."""
        return ours / peers if self.more_is_better else peers / ours


MEASURES = (
    Measure("polls", "polls per second (16 connections)", polls, "10 times", 10, ready=ended),
    Measure("creates", "creates per second (16 connections)", creates, "6 times", 6),
    Measure("burst", "burst of 1,500 tasks over 32 connections, tasks per second", burst, "3 times", 3),
    Measure("lone", "one lone task, call to seen completed (ms)", lone, "as fast", 1, more_is_better=False),
    Measure(
        "quick",
        "the same answered within `quick_wait` (ms), beside the peer's lone task",
        quick,
        "twice as fast",
        2,
        peer=lone,
        more_is_better=False,
    ),
)
