"""taskengine beside FastMCP's tasks extension: same machine, same Redis-compatible server, one run, rounds in turn.

Each side gets one front-end process and one worker process, the load generator shares the cores. `make bench` prints
the tables and writes them to `docs/performance.md`. Figures of a round are rates or milliseconds; the first table has
medians, their spread over the rounds and the ratio of the medians, the second the CPU that one of each costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load import Connection, request, run
from benchmarks.page import machine, write_section
from benchmarks.scale_site import Machine
from taskengine.embedded import EmbeddedServices
from taskengine.store import migrate

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".cache" / "bench-peer"
DONE = {"completed", "failed", "cancelled"}
POLL_S = 0.001
SETTLE_S = 1.0
SECTION = "beside the peer"
CONNECTIONS = 16
BURST, BURST_CONNECTIONS = 1500, 32


PARTS = ("front end", "worker", "PostgreSQL", "Valkey", "load generator")


@dataclass(frozen=True)
class Taken:
    """What one measure gave: a rate or milliseconds, and of how many."""

    value: float
    count: int


@dataclass(frozen=True)
class Round:
    taken: Taken
    cpu_ms: dict[str, float]
    """For one, by part."""


Run = Callable[[str, float], Coroutine[Any, Any, Taken]]
Figures = dict[tuple[str, str], list[Round]]
"""By side and measure."""


@dataclass(frozen=True)
class Side:
    """One system under test: its commands, and where it answers."""

    name: str
    url: str
    commands: tuple[tuple[str, ...], ...]
    env: dict[str, str]

    @contextmanager
    def running(self, log: Path) -> Iterator[tuple[Machine, ...]]:
        """Its processes, front end first."""
        with ExitStack() as stack, log.open("ab") as output:
            processes = []
            for command in self.commands:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self.env, stdout=output, stderr=output, start_new_session=True
                )
                stack.callback(_end, process)
                processes.append(Machine(process.pid))
            uvloop.run(self._answers())
            yield tuple(processes)

    async def _answers(self) -> None:
        """Until a call has gone the whole way once: front end and worker are up."""
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                connection = await Connection.open(self.url)
                await asyncio.wait_for(_to_the_end(self.url, connection), 5)
                return
            if time.monotonic() > until:
                raise SystemExit(f"{self.name} does not answer at {self.url}")
            await asyncio.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# -- what is measured


async def _submit(url: str, connection: Connection) -> str:
    created = await connection.send(request(url, "tools/call", "nothing", {"name": "nothing", "arguments": {}}))
    return str(created["taskId"])


async def _poll(url: str, connection: Connection, task_id: str) -> str:
    return str((await connection.send(request(url, "tasks/get", task_id, {"taskId": task_id})))["status"])


async def _to_the_end(url: str, connection: Connection) -> None:
    task_id = await _submit(url, connection)
    await _until_done(url, connection, task_id)


async def _until_done(url: str, connection: Connection, task_id: str) -> None:
    status = "working"
    while status not in DONE:
        await asyncio.sleep(POLL_S)
        status = await _poll(url, connection, task_id)


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[Connection]:
    connection = await Connection.open(url)
    yield connection
    await connection.close()


async def polls(url: str, seconds: float) -> Taken:
    """Polls of completed tasks a second, 16 connections in turn over as many tasks."""
    messages = []
    async with _connection(url) as connection:
        for _ in range(CONNECTIONS):
            task_id = await _submit(url, connection)
            await _until_done(url, connection, task_id)
            messages.append(request(url, "tasks/get", task_id, {"taskId": task_id}))
    turn = itertools.cycle(messages)
    load = await run(url, CONNECTIONS, seconds, lambda each: each.send(next(turn)))
    return Taken(load.rate, load.requests)


async def creates(url: str, seconds: float) -> Taken:
    """Calls accepted as tasks a second, 16 connections."""
    message = request(url, "tools/call", "nothing", {"name": "nothing", "arguments": {}})
    accepted = await run(url, CONNECTIONS, seconds, lambda each: each.send(message))
    async with _connection(url) as connection:  # what was accepted must not weigh on the next measure
        await _to_the_end(url, connection)
    await asyncio.sleep(SETTLE_S)
    return Taken(accepted.rate, accepted.requests)


async def lone(url: str, seconds: float) -> Taken:
    """Milliseconds from call to seen completed, one task at a time, polled each millisecond."""
    times = []
    async with _connection(url) as connection:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            started = time.perf_counter()
            await _to_the_end(url, connection)
            times.append((time.perf_counter() - started) * 1000)
    return Taken(statistics.median(times), len(times))


async def quick(url: str, seconds: float) -> Taken:
    """Milliseconds of a call whose answer is the result, one at a time."""
    message = request(url, "tools/call", "quick", {"name": "quick", "arguments": {}})
    times = []
    async with _connection(url) as connection:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            started = time.perf_counter()
            answer = await connection.send(message)
            if "content" not in answer:
                raise SystemExit("a call that does nothing was not answered within quick_wait")
            times.append((time.perf_counter() - started) * 1000)
    return Taken(statistics.median(times), len(times))


async def burst(url: str, _seconds: float) -> Taken:
    """Tasks a second over 1,500 of them on 32 connections, from the first call to the last seen completed."""
    started = time.perf_counter()

    async def share(count: int) -> None:
        async with _connection(url) as connection:
            waiting = [await _submit(url, connection) for _ in range(count)]
            while waiting:
                waiting = [each for each in waiting if await _poll(url, connection, each) not in DONE]

    counts = [BURST // BURST_CONNECTIONS + (n < BURST % BURST_CONNECTIONS) for n in range(BURST_CONNECTIONS)]
    await asyncio.gather(*(share(count) for count in counts))
    return Taken(BURST / (time.perf_counter() - started), BURST)


@dataclass(frozen=True)
class Measure:
    """One line of the table. `peer` is what is compared with it, where that is not the same."""

    key: str
    name: str
    ours: Run
    goal: str
    peer: Run | None = None
    more_is_better: bool = True


MEASURES = (
    Measure("polls", "polls per second (16 connections)", polls, "10 times"),
    Measure("creates", "creates per second (16 connections)", creates, "6 times"),
    Measure("burst", "burst of 1,500 tasks, tasks per second", burst, "3 times"),
    Measure("lone", "one lone task, call to seen completed (ms)", lone, "as fast", more_is_better=False),
    Measure(
        "quick",
        "the same answered within `quick_wait` (ms), beside the peer's lone task",
        quick,
        "twice as fast",
        peer=lone,
        more_is_better=False,
    ),
)


def peer_python() -> Path:
    python = PEER / "bin" / "python"
    if not python.exists():
        print("installing the peer into .cache/bench-peer …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        requirements = ROOT / "benchmarks" / "peer-requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return python


def _sides(database_url: str, broker_url: str, *, with_peer: bool) -> tuple[Side, Side]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKENGINE_")}
    ours_env = clean | {"TASKENGINE_DATABASE_URL": database_url, "TASKENGINE_BROKER_URL": broker_url}
    peer_env = clean | {"BENCH_REDIS": broker_url, "PYTHONPATH": str(ROOT)}
    engine, peer = (sys.executable, "-m", "taskengine"), str(peer_python() if with_peer else "")
    target = "benchmarks.ours:engine"
    return (
        Side(
            "taskengine",
            "http://127.0.0.1:8931/mcp",
            ((*engine, "serve", target, "--port", "8931"), (*engine, "worker", target)),
            ours_env | {"TASKENGINE_LOG_LEVEL": "warning"},
        ),
        Side(
            "FastMCP tasks 4.1.2 on Valkey",
            "http://127.0.0.1:8932/mcp",
            (
                (peer, "-m", "uvicorn", "--log-level", "warning", "--port", "8932", "benchmarks.peer:app"),
                (peer, "-m", "fastmcp_tasks.worker_cli", "worker", "benchmarks/peer.py"),
            ),
            peer_env,
        ),
    )


def _table(sides: Sequence[Side], chosen: Sequence[Measure], figures: Figures) -> str:
    names = [side.name for side in sides]
    lines = [f"| what | {' | '.join(names)} | ratio | goal |", "|---|" + "---|" * (len(names) + 2)]
    for measure in chosen:
        taken = [[round_.taken.value for round_ in figures[side.name, measure.key]] for side in sides]
        cells = " | ".join(_spread(values) for values in taken)
        ratio = "" if len(sides) == 1 else _ratio(statistics.median(taken[0]), statistics.median(taken[1]), measure)
        lines.append(f"| {measure.name} | {cells} | {ratio} | {measure.goal} |")
    return "\n".join(lines)


def _ratio(ours: float, peers: float, measure: Measure) -> str:
    if measure.more_is_better:
        return f"{ours / peers:.1f} times as many"
    return f"{peers / ours:.1f} times as fast"


def _costs(sides: Sequence[Side], chosen: Sequence[Measure], figures: Figures) -> str:
    """CPU for one of each: it depends less on what else the machine does than a rate."""
    lines = ["| CPU for one (ms) | side | " + " | ".join(PARTS) + " |", "|---|---|" + "---|" * len(PARTS)]
    for measure in chosen:
        for side in sides:
            rounds = figures[side.name, measure.key]
            cells = (statistics.median(each.cpu_ms[part] for each in rounds) for part in PARTS)
            lines.append(f"| {measure.key} | {side.name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    digits = 0 if statistics.median(values) >= 100 else 1
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _round(side: Side, measure: Measure, parts: Mapping[str, Machine], seconds: float, *, peer: bool) -> Round:
    work = measure.peer if peer and measure.peer is not None else measure.ours
    before = {name: machine.cpu_s() for name, machine in parts.items()}
    own = time.process_time()
    taken = uvloop.run(work(side.url, seconds))
    cpu_ms = {name: (machine.cpu_s() - before[name]) * 1000 / taken.count for name, machine in parts.items()}
    cpu_ms["load generator"] = (time.process_time() - own) * 1000 / taken.count
    return Round(taken, cpu_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one timed measure")
    parser.add_argument("--only", choices=["ours", "peer"], help="start this side alone")
    parser.add_argument(
        "--what", default="", help="which measures, with commas between: polls,creates,burst,lone,quick"
    )
    parser.add_argument("--write", type=Path, help="write the tables into their section of this file as well")
    options = parser.parse_args()
    wanted = [key for key in options.what.split(",") if key] or [measure.key for measure in MEASURES]
    chosen = [measure for measure in MEASURES if measure.key in wanted]
    with tempfile.TemporaryDirectory() as folder, EmbeddedServices(Path(folder)) as services:
        migrate.upgrade(services.database_url)
        both = _sides(services.database_url, services.broker_url, with_peer=options.only != "ours")
        sides = [side for side in both if options.only != ("ours" if side is not both[0] else "peer")]
        shared = {
            "PostgreSQL": Machine(int((services.postgres.folder / "postmaster.pid").read_text().split()[0])),
            "Valkey": _valkey(),
        }
        figures: Figures = {}
        with ExitStack() as stack:
            running = {
                side.name: stack.enter_context(side.running(Path(folder) / f"{side.name.split()[0]}.log"))
                for side in sides
            }
            for turn in range(options.rounds):
                for measure in chosen:
                    for side in sides:
                        front, worker = running[side.name]
                        parts = {"front end": front, "worker": worker, **shared}
                        done = _round(side, measure, parts, options.seconds, peer=side is not both[0])
                        figures.setdefault((side.name, measure.key), []).append(done)
                        cpu = ", ".join(f"{name} {spent:.2f}" for name, spent in done.cpu_ms.items())
                        print(
                            f"round {turn + 1}: {side.name}: {measure.name}: {done.taken.value:,.1f}; CPU ms: {cpu}",
                            flush=True,
                        )
    note = f"Median (least to most) of {options.rounds} rounds in turn, one front end and one worker each, {machine()}."
    tables = f"{_table(sides, chosen, figures)}\n\n{_costs(sides, chosen, figures)}\n\n{note}"
    print(f"\n{tables}")
    if options.write is not None:
        write_section(options.write, SECTION, tables)


def _valkey() -> Machine:
    """The broker is a child of this process."""
    for pid in Machine(os.getpid()).pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith(("valkey", "redis")):
                return Machine(pid)
    raise SystemExit("the broker is not found among the processes")


if __name__ == "__main__":
    main()
