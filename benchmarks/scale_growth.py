"""More processes of a kind: what a worker and a front end add, and what each answer costs whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.load import Connection, request
from benchmarks.load import run as drive
from benchmarks.scale_site import Figure, Machine, Program, Site, execute, run

__all__ = ["front_ends", "workers"]

COUNTS = (1, 2, 4)
POLLED_S = 5.0
CONNECTIONS = 16
BACKLOG = 1500
SLOTS, SLEEP_S, SLEEPS_PER_WORKER = 20, 0.5, 200
CORES = 2


@dataclass
class _Cost:
    """CPU milliseconds per piece of work, by who spent them."""

    share: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{name} {cost:.2f}" for name, cost in self.share.items())


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

            async def polls(fronts: list[Program] = fronts, poll=poll) -> float:  # type: ignore[no-untyped-def]
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
        )
    ]


def workers(site: Site) -> list[Figure]:
    """Tasks at 1, 2 and 4 workers: those that wait, which slots bound, and those that do nothing, which cores bound."""
    waiting, empty = {}, {}
    costs: dict[int, _Cost] = {}
    for count in COUNTS:
        url = site.database()
        with ExitStack() as stack:
            front = stack.enter_context(site.front_end(url))
            tasks = site.scaled(SLEEPS_PER_WORKER) * count
            run(_backlog(front.url, "sleep", {"seconds": SLEEP_S}, tasks))
            waiting[count] = _drained(site, url, count, tasks, {}, ASYNC_SLOTS=str(SLOTS))
        site.drop(url)
        url = site.database()
        with ExitStack() as stack:
            front = stack.enter_context(site.front_end(url))
            tasks = site.scaled(BACKLOG)
            run(_backlog(front.url, "nothing", {}, tasks))
            spent: dict[str, float] = {}
            empty[count] = _drained(site, url, count, tasks, spent)
            costs[count] = _per(spent, tasks)
        site.drop(url)
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
    ]


def _drained(site: Site, url: str, count: int, tasks: int, spent: dict[str, float], **settings: str) -> float:
    """Tasks a second between the first claim and the last end; the workers find the backlog there."""
    with ExitStack() as stack:
        begun = site.postgres.cpu_s()
        programs = [stack.enter_context(site.starting_worker(url, **settings)) for _ in range(count)]
        before = [Machine(program.pid).cpu_s() for program in programs]
        first = 0
        while not first:
            time.sleep(0.01)
            ((first,),) = site.sql("SELECT count(*) FROM tasks WHERE phase = 'done'", url=url)
            before = [Machine(program.pid).cpu_s() for program in programs]
            begun = site.postgres.cpu_s()
        left = 1
        while left:
            time.sleep(0.1)
            ((left,),) = site.sql("SELECT count(*) FROM tasks WHERE phase <> 'done'", url=url)
        spent["workers"] = sum(
            Machine(program.pid).cpu_s() - cpu for program, cpu in zip(programs, before, strict=True)
        )
        spent["PostgreSQL"] = site.postgres.cpu_s() - begun
        scale = tasks / max(1, tasks - first)
        for name in spent:
            spent[name] *= scale
    query = "SELECT extract(epoch FROM max(ended_at) - min(claimed_at)) FROM tasks"
    ((seconds,),) = site.sql(query, url=url)
    return tasks / float(seconds)


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
    while not (await execute(url, "SELECT 1 FROM tasks WHERE id = $1 AND phase = 'done'", task_id)):
        await asyncio.sleep(0.05)
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
