"""More processes of a kind: what a worker and a front end add, and what each answer costs whom."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.load import Connection, request
from benchmarks.machine import Machine
from benchmarks.measures import Endpoint, Made, ended, polls
from benchmarks.scale_site import Figure, Site, run

__all__ = ["front_ends", "workers"]

COUNTS = (1, 2, 4)
POLLED_S = 5.0
CONNECTIONS = 16
BACKLOG = 1500
WARM_S = 2.0
FULL, IN_STEP = 0.85, 0.8
"""Shares: of the cores, from which on nothing is left for another process; and of a process more that counts as one."""
STEP = "in step until the cores are used up"
NOBODY = ("",) * CONNECTIONS
"""Callers without tokens."""
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
    """Polls at 1, 2 and 4 front ends, 16 connections each, over tasks of their own."""
    rates: dict[int, float] = {}
    costs: dict[int, _Cost] = {}
    for count in COUNTS:
        url = site.database()
        with ExitStack() as stack:
            fronts = [stack.enter_context(site.front_end(url)) for _ in range(count)]
            stack.enter_context(site.worker(url))
            ends = [Endpoint(front.url, NOBODY) for front in fronts]
            made = run(ended(ends[0]))
            seconds = max(1.0, POLLED_S * site.size)
            with _metered(site, {"front ends": list(fronts)}) as cost:
                rates[count] = run(_polls(ends, seconds, made))
            costs[count] = _per(cost, rates[count] * seconds)
        site.drop(url)
        print(f"  {count} front ends: {rates[count]:,.0f} polls/s; CPU ms a poll: {costs[count]}", flush=True)
    tasks = sum(map(len, made))
    return [
        _growth(f"polls a second at 1, 2 and 4 front ends, of {tasks} tasks in turn", "a poll", rates, costs),
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
        _growth("tasks a second that do nothing, from a backlog, at 1, 2 and 4 workers", "a task", empty, costs),
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
    parts = {**programs, "PostgreSQL": [site.postgres], site.services.broker_name.split()[0]: [site.services.broker]}

    def used() -> dict[str, float]:
        return {name: sum(each.cpu_s() for each in machines) for name, machines in parts.items()}

    before, own = used(), time.process_time()
    spent: dict[str, float] = {}
    yield spent
    spent.update({name: cpu - before[name] for name, cpu in used().items()})
    spent["load generator"] = time.process_time() - own


def _per(spent: dict[str, float], work: float) -> _Cost:
    return _Cost({name: seconds * 1000 / work for name, seconds in spent.items()})


def _growth(what: str, one: str, rates: dict[int, float], costs: dict[int, _Cost]) -> Figure:
    """Whether each count of processes gave its share more, or used up the cores, by the CPU spent meanwhile."""
    cores = os.cpu_count() or 1
    used = {count: rates[count] * sum(costs[count].share.values()) / 1000 for count in rates}
    text = f"{_steps(rates)}, using {', '.join(f'{each:.1f}' for each in used.values())} of {cores} cores"
    if used[1] >= FULL * cores:
        return Figure(what, STEP, f"{text}: one uses them up, more can only be seen on more cores", None)
    met = all(rates[n] >= IN_STEP * n * rates[1] or used[n] >= FULL * cores for n in rates)
    return Figure(what, STEP, f"{text}; CPU ms {one}: {costs[1]}", met)


async def _polls(ends: list[Endpoint], seconds: float, made: Made) -> float:
    """A second, of all front ends together."""
    return sum(taken.value for taken in await asyncio.gather(*(polls(end, seconds, made) for end in ends)))


def _steps(rates: dict[int, float]) -> str:
    return ", ".join(f"{rate:,.0f}" for rate in rates.values())


async def _backlog(endpoint: str, tool: str, arguments: dict[str, object], count: int) -> None:
    message = request(endpoint, "tools/call", tool, {"name": tool, "arguments": arguments})

    async def share(number: int) -> None:
        connection = await Connection.open(endpoint)
        for _ in range(number):
            await connection.send(message)
        await connection.close()

    await asyncio.gather(*(share(len(range(n, count, CONNECTIONS))) for n in range(CONNECTIONS)))
