"""How soon after its answer a call is rung: the doorbell at the broker's side against the bytes at the client.

A pass of its own, since it looks into all that the front end sends to the broker. That front end is one more, whose way
to the broker leads through a proxy of this process, so that both moments are of one clock; its doorbells go to the same
worker. The rate of the pass is not that of the table, its load is: 16 connections, each calling again at once.
"""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvloop

from benchmarks.load import Connection, run
from benchmarks.measures import CONNECTIONS, Endpoint, empty
from benchmarks.scale_site import percentile
from benchmarks.sides import Side
from tests.performance.counting import each_command
from tests.proxy import Proxy

__all__ = ["Rung", "doorbells", "measure"]

LIMIT_S = 0.05
PUBLISHED = {b"LPUSH", b"RPUSH"}


@dataclass(frozen=True)
class Rung:
    """Seconds from each answer to its doorbell; below zero where the doorbell was first."""

    late_s: list[float]
    unrung: int
    """Calls without a doorbell within the pass: left to the relay."""

    @property
    def met(self) -> bool:
        return self.unrung == 0 and percentile(self.late_s, 0.99) <= LIMIT_S

    def __str__(self) -> str:
        middle, high = (percentile(self.late_s, share) * 1000 for share in (0.5, 0.99))
        within = sum(late <= LIMIT_S for late in self.late_s) / (len(self.late_s) + self.unrung)
        left = f"; {self.unrung} left to the relay" if self.unrung else ""
        return f"p50 {middle:.1f} ms, p99 {high:.1f} ms, {within:.2%} within 50 ms, of {len(self.late_s):,}{left}"


def doorbells(parts: list[bytes]) -> list[str]:
    """The tasks that a command of the broker's wire rings for; none for any other command."""
    if parts[0].upper() not in PUBLISHED:
        return []
    found: list[str] = []
    for message in parts[2:]:
        args, kwargs, _ = orjson.loads(base64.b64decode(orjson.loads(message)["body"]))
        found += [args[0], *(task_id for task_id, _ in kwargs.get("more", ()))]
    return found


def measure(side: Side, broker_url: str, seconds: float, log: Path) -> Rung:
    """Of calls to a front end beside those of `side`, whose worker runs them."""

    async def whole() -> Rung:
        rung: dict[str, float] = {}

        def tap() -> Callable[[bytes], None]:
            def take(parts: list[bytes]) -> None:
                for task_id in doorbells(parts):
                    rung.setdefault(task_id, time.perf_counter())

            return each_command(take)

        async with Proxy(broker_url, tap) as proxy:
            front = side.another_front_end(proxy.url)
            async with front.answering(log):
                return await _drive(front.endpoint, seconds, rung)

    return uvloop.run(whole())


async def _drive(end: Endpoint, seconds: float, rung: dict[str, float]) -> Rung:
    messages = [end.call(number) for number in range(CONNECTIONS)]
    answered: list[dict[str, float]] = [{} for _ in messages]

    async def create(connection: Connection) -> None:
        task_id = str((await connection.send(messages[connection.number]))["taskId"])
        answered[connection.number][task_id] = time.perf_counter()

    await run(end.url, CONNECTIONS, seconds, create)
    await empty(end, [list(each) for each in answered])
    moments = dict(itertools.chain.from_iterable(each.items() for each in answered))
    late = [rung[task_id] - moment for task_id, moment in moments.items() if task_id in rung]
    return Rung(late, len(moments) - len(late))
