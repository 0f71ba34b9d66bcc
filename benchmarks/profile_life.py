"""Where the milliseconds of a lone task go: what passes on the wires of a front end and a worker, on one clock.

Both processes reach PostgreSQL and the broker through proxies of this process, which also is the client, so that every
moment is taken by one clock. The proxies cost each way a little, so the whole takes longer than in the table beside the
peer; the shares are what this is for.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.load import Connection
from benchmarks.measures import DONE, POLL_S, submit
from benchmarks.ring import doorbells
from benchmarks.sides import Side
from tests.performance.counting import each_command
from tests.proxy import Proxy

__all__ = ["STEPS", "lives", "table"]

STEPS = (
    ("received and checked", "the call leaves the client, the front end sends the INSERT"),
    ("committed", "PostgreSQL answers the INSERT"),
    ("rung", "the doorbell is at the broker; the client has its answer about now as well"),
    ("message taken", "the broker gives the message to the worker"),
    ("claim sent", "the worker sends the claim"),
    ("claimed", "PostgreSQL answers the claim"),
    ("run", "the tool begins and ends, the worker sends the end"),
    ("ended", "PostgreSQL answers the end"),
    ("seen", "a poll that says so is at the client, which asks each millisecond"),
)


@dataclass(frozen=True)
class _Piece:
    at: float
    connection: int
    data: bytes


class _Wire:
    """What passed between one process and one service since it was cleared."""

    def __init__(self) -> None:
        self.sent: list[_Piece] = []
        self.came: list[_Piece] = []
        self._connections = {id(self.sent): 0, id(self.came): 0}

    def tap(self, pieces: list[_Piece]) -> Callable[[], Callable[[bytes], None]]:
        """For `Proxy`, which makes both taps of a connection one after the other: so the numbers are the same."""

        def connected() -> Callable[[bytes], None]:
            number = self._connections[id(pieces)] = self._connections[id(pieces)] + 1
            return lambda data: pieces.append(_Piece(time.perf_counter(), number, data))

        return connected

    def proxy(self, url: str) -> Proxy:
        return Proxy(url, self.tap(self.sent), self.tap(self.came))

    def clear(self) -> None:
        self.sent.clear()
        self.came.clear()


def _first(pieces: list[_Piece], holds: Callable[[bytes], bool], after: float, connection: int | None = None) -> _Piece:
    for piece in pieces:
        if piece.at >= after and connection in {None, piece.connection} and holds(piece.data):
            return piece
    raise SystemExit("a step of the task's life was not seen on the wire")


async def lives(side: Side, database_url: str, broker_url: str, seconds: float, log: Path) -> list[list[float]]:
    """For each of as many lone tasks as there is time for, the milliseconds of each step."""
    front, worker = (_Wire(), _Wire()), (_Wire(), _Wire())
    async with AsyncExitStack() as stack:
        envs = []
        for wires in (front, worker):
            proxies = [
                await stack.enter_async_context(wire.proxy(url))
                for wire, url in zip(wires, (database_url, broker_url), strict=True)
            ]
            own = {"TASKENGINE_DATABASE_URL": proxies[0].url, "TASKENGINE_BROKER_URL": proxies[1].url}
            envs.append({**side.env, **own})
        worker_side = replace(side, commands=side.commands[1:], env=envs[1])
        front_side = replace(side, commands=side.commands[:1], env=envs[0])
        stack.enter_context(worker_side.started(log))
        await stack.enter_async_context(front_side.answering(log))
        connection = await Connection.open(side.endpoint.url)
        found: list[list[float]] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for wire in (*front, *worker):
                wire.clear()
            owner = len(found) % len(side.endpoint.tokens)
            begun = time.perf_counter()
            task_id = await submit(side.endpoint, connection, owner)
            status = "working"
            while status not in DONE:
                await asyncio.sleep(POLL_S)
                status = str((await connection.send(side.endpoint.poll(owner, task_id)))["status"])
            moments = [begun, *_moments(task_id, front, worker, begun), time.perf_counter()]
            found.append([(later - earlier) * 1000 for earlier, later in itertools.pairwise(moments)])
        await connection.close()
    return found[1:]


def _moments(task_id: str, front: tuple[_Wire, _Wire], worker: tuple[_Wire, _Wire], begun: float) -> list[float]:
    """When each step but the last was over."""
    name = task_id.encode()

    def named(data: bytes) -> bool:
        return name in data

    inserted = _first(front[0].sent, named, begun)
    committed = _first(front[0].came, named, inserted.at, inserted.connection)
    rung = min(_rung(front[1].sent, task_id), default=committed.at)
    body = base64.b64encode(b'[["' + name)[: (len(name) + 3) // 3 * 4]  # as Celery writes its arguments
    taken = _first(worker[1].came, lambda data: body in data, committed.at)
    claimed = _first(worker[0].came, named, begun)
    asked = max(each.at for each in worker[0].sent if each.connection == claimed.connection and each.at < claimed.at)
    ending = _first(worker[0].sent, named, claimed.at)
    ended = _first(worker[0].came, lambda _: True, ending.at, ending.connection)
    return [inserted.at, committed.at, rung, taken.at, asked, claimed.at, ending.at, ended.at]


def _rung(pieces: list[_Piece], task_id: str) -> list[float]:
    """When a message that names the task had passed whole."""
    found: list[float] = []
    moment = 0.0

    def take(parts: list[bytes]) -> None:
        if task_id in doorbells(parts):
            found.append(moment)

    feeds: dict[int, Callable[[bytes], None]] = {}
    for piece in pieces:
        moment = piece.at
        feeds.setdefault(piece.connection, each_command(take))(piece.data)
    return found


def table(found: list[list[float]]) -> str:
    lines = ["| step of a lone task | until | median ms | p90 ms |", "|---|---|---|---|"]
    for number, (name, until) in enumerate(STEPS):
        times = sorted(each[number] for each in found)
        lines.append(f"| {name} | {until} | {statistics.median(times):.2f} | {times[int(len(times) * 0.9)]:.2f} |")
    whole = sorted(map(sum, found))
    lines.append(f"| all of it | | {statistics.median(whole):.2f} | {whole[int(len(whole) * 0.9)]:.2f} |")
    return (
        "\n".join(lines) + f"\n\nOf {len(found)} tasks, one at a time, through proxies of the program, which are in it."
    )
