"""More processes of a kind: what a worker and a front end add, and what each answer costs whom."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import Connection, request
from benchmarks.load import run as drive
from benchmarks.scale_site import Figure, Machine, Program, Site, execute, run

__all__ = ["front_ends", "workers"]

COUNTS = (1, 2, 4)
POLLED_S = 5.0
CONNECTIONS = 16
BACKLOG = 1500
WARM_S = 2.0
SLOTS, SLEEP_S, SLEEPS_PER_WORKER = 20, 0.5, 200


@dataclass
class _Cost:
    """CPU milliseconds per piece of work, by who spent them."""

    share: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{name} {cost:.2f}" for name, cost in self.share.items())

    def on_paper(self) -> str:
        """Each part grows by processes or cores of its own, so what it spends is its limit."""
        return ", ".join(f"{name} {1000 / cost:,.0f}" for name, cost in self.share.items() if cost > 0)


def front_ends(site: Site) -> list[Figure]:
    """Polls at 1, 2 and 4 front ends, 16 connections each."""
    rates: dict[int, float] = {}
    costs: dict[int, _Cost] = {}
    for count in COUNTS:
        url = site.database()
        with ExitStack() as stack:
            fronts = [stack.enter_context(site.front_end(url)) for _ in range(count)]
            stack.enter_context(site.worker(url))
            task_id = run(_done(fronts[0].url, url))
            seconds = max(1.0, POLLED_S * site.size)

            async def poll(front: Program, seconds: float = seconds, task_id: str = task_id) -> float:
                message = request(front.url, "tasks/get", task_id, {"taskId": task_id})
                return (await drive(front.url, CONNECTIONS, seconds, lambda each: each.send(message))).rate

            async def polls(fronts: list[Program] = fronts, poll: Any = poll) -> Any:
                return sum(await asyncio.gather(*(poll(front) for front in fronts)))

            with _metered(site, {"front ends": list(fronts)}) as cost:
                rates[count] = run(polls())
            costs[count] = _per(cost, rates[count] * seconds)
        site.drop(url)
        print(f"  {count} front ends: {rates[count]:,.0f} polls/s; CPU ms a poll: {costs[count]}", flush=True)
    return [
        Figure(
            "polls a second at 1, 2 and 4 front ends",
            "in step until the cores are used up",
            f"{_steps(rates)}; CPU ms a poll: {costs[1]}",
            None,
        ),
        Figure("on paper: polls a second that a core carries", "", costs[1].on_paper(), None),
    ]


def workers(site: Site) -> list[Figure]:
    """Tasks at 1, 2 and 4 workers: those that wait, which slots bound, and those that do nothing, which cores bound."""
    waiting, empty = {}, {}
    costs: dict[int, _Cost] = {}
    for count in COUNTS:
        sleeps = site.scaled(SLEEPS_PER_WORKER) * count
        waiting[count], _ = _drained(site, count, "sleep", {"seconds": SLEEP_S}, sleeps, ASYNC_SLOTS=str(SLOTS))
        empty[count], costs[count] = _drained(site, count, "nothing", {}, site.scaled(BACKLOG))
        print(
            f"  {count} workers: {waiting[count]:,.0f} waiting tasks/s, {empty[count]:,.0f} empty tasks/s;"
            f" CPU ms a task: {costs[count]}",
            flush=True,
        )
    what = f"tasks a second that wait {SLEEP_S} s, at 1, 2 and 4 workers of {SLOTS} slots"
    return [
        Figure(what, f"in step ({SLOTS / SLEEP_S:.0f} a worker)", _steps(waiting), waiting[4] > 3 * waiting[1]),
        Figure(
            "tasks a second that do nothing, from a backlog, at 1, 2 and 4 workers",
            "in step until the cores are used up",
            f"{_steps(empty)}; CPU ms a task: {costs[1]}",
            None,
        ),
        Figure("on paper: tasks a second that a core carries", "", costs[1].on_paper(), None),
    ]


def _drained(
    site: Site, count: int, tool: str, arguments: dict[str, object], tasks: int, **settings: str
) -> tuple[float, _Cost]:
    """Tasks a second between the first claim and the last end, and what each cost.

    The workers are there before their backlog, and are frozen while it is made: neither their start nor the calls are
    measured.
    """
    url = site.database()
    with ExitStack() as stack:
        front = stack.enter_context(site.front_end(url))
        settings |= {"LEASE": "120s"}  # or a frozen worker would take itself for dead
        programs = [stack.enter_context(site.worker(url, **settings)) for _ in range(count)]
        time.sleep(WARM_S)
        for program in programs:
            os.kill(program.pid, signal.SIGSTOP)
        run(_backlog(front.url, tool, arguments, tasks))
        with _metered(site, {"workers": list(programs)}) as spent:
            for program in programs:
                os.kill(program.pid, signal.SIGCONT)
            left = 1
            while left:
                time.sleep(0.2)
                ((left,),) = site.sql("SELECT count(*) FROM tasks WHERE phase <> 'done'", url=url)
    query = "SELECT extract(epoch FROM max(ended_at) - min(claimed_at)) FROM tasks"
    ((seconds,),) = site.sql(query, url=url)
    site.drop(url)
    del spent["load generator"]
    return tasks / float(seconds), _per(spent, tasks)


@contextmanager
def _metered(site: Site, programs: dict[str, list[Machine]]) -> Iterator[dict[str, float]]:
    """CPU seconds spent meanwhile, by part; the load generator is this process."""
    parts = {**programs, "PostgreSQL": [site.postgres]}

    def used() -> dict[str, float]:
        return {name: sum(each.cpu_s() for each in machines) for name, machines in parts.items()}

    before, own = used(), time.process_time()
    spent: dict[str, float] = {}
    yield spent
    spent.update({name: cpu - before[name] for name, cpu in used().items()})
    spent["load generator"] = time.process_time() - own


def _per(spent: dict[str, float], work: float) -> _Cost:
    return _Cost({name: seconds * 1000 / work for name, seconds in spent.items()})


def _steps(rates: dict[int, float]) -> str:
    return ", ".join(f"{rate:,.0f}" for rate in rates.values())


async def _done(endpoint: str, url: str) -> str:
    connection = await Connection.open(endpoint)
    message = request(endpoint, "tools/call", "nothing", {"name": "nothing", "arguments": {}})
    task_id = str((await connection.send(message))["taskId"])
    done: list[object] = []
    while not done:
        await asyncio.sleep(0.05)
        done = await execute(url, "SELECT 1 FROM tasks WHERE id = $1 AND phase = 'done'", task_id)
    await connection.close()
    return task_id


async def _backlog(endpoint: str, tool: str, arguments: dict[str, object], count: int) -> None:
    message = request(endpoint, "tools/call", tool, {"name": tool, "arguments": arguments})

    async def share(number: int) -> None:
        connection = await Connection.open(endpoint)
        for _ in range(number):
            await connection.send(message)
        await connection.close()

    await asyncio.gather(*(share(len(range(n, count, CONNECTIONS))) for n in range(CONNECTIONS)))
