"""taskengine beside FastMCP's tasks extension: same machine, same Redis-compatible server, one run, rounds in turn.

Each side gets one front-end process and one worker process, the load generator shares the cores. `make bench` prints
the table and writes it to `docs/performance.md`. Figures of a round are rates or milliseconds; the table has medians,
their spread over the rounds, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import Connection, request, run
from taskengine.embedded import EmbeddedServices
from taskengine.store import migrate

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".cache" / "bench-peer"
DONE = {"completed", "failed", "cancelled"}
POLL_S = 0.001
SETTLE_S = 1.0
PAGE = """# Performance

Made by `make bench`: taskengine and the strongest peer in one run, on the same embedded services (PostgreSQL for us,
Valkey for both), rounds in turn, the load generator on the same cores. `python -m benchmarks.load` shows what the load
generator can do by itself. What to read is the ratio; absolute figures belong to the machine.
"""
CONNECTIONS = 16
BURST, BURST_CONNECTIONS = 1500, 32


@dataclass(frozen=True)
class Side:
    """One system under test: its commands, and where it answers."""

    name: str
    url: str
    commands: tuple[tuple[str, ...], ...]
    env: dict[str, str]

    @contextmanager
    def running(self, log: Path) -> Iterator[None]:
        with ExitStack() as stack, log.open("ab") as output:
            for command in self.commands:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self.env, stdout=output, stderr=output, start_new_session=True
                )
                stack.callback(_end, process)
            asyncio.run(self._answers())
            yield

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


async def polls(url: str, seconds: float) -> float:
    """Polls of one completed task a second, 16 connections."""
    async with _connection(url) as connection:
        task_id = await _submit(url, connection)
        await _until_done(url, connection, task_id)
    message = request(url, "tasks/get", task_id, {"taskId": task_id})
    return (await run(url, CONNECTIONS, seconds, lambda each: each.send(message))).rate


async def creates(url: str, seconds: float) -> float:
    """Calls accepted as tasks a second, 16 connections."""
    message = request(url, "tools/call", "nothing", {"name": "nothing", "arguments": {}})
    accepted = await run(url, CONNECTIONS, seconds, lambda each: each.send(message))
    async with _connection(url) as connection:  # what was accepted must not weigh on the next measure
        await _to_the_end(url, connection)
    await asyncio.sleep(SETTLE_S)
    return accepted.rate


async def lone(url: str, seconds: float) -> float:
    """Milliseconds from call to seen completed, one task at a time, polled each millisecond."""
    times = []
    async with _connection(url) as connection:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            started = time.perf_counter()
            await _to_the_end(url, connection)
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


async def burst(url: str, _seconds: float) -> float:
    """Tasks a second over 1,500 of them on 32 connections, from the first call to the last seen completed."""
    started = time.perf_counter()

    async def share(count: int) -> None:
        async with _connection(url) as connection:
            waiting = [await _submit(url, connection) for _ in range(count)]
            while waiting:
                waiting = [each for each in waiting if await _poll(url, connection, each) not in DONE]

    counts = [BURST // BURST_CONNECTIONS + (n < BURST % BURST_CONNECTIONS) for n in range(BURST_CONNECTIONS)]
    await asyncio.gather(*(share(count) for count in counts))
    return BURST / (time.perf_counter() - started)


MEASURES: tuple[tuple[str, Callable[[str, float], Any], bool], ...] = (
    ("polls per second (16 connections)", polls, True),
    ("creates per second (16 connections)", creates, True),
    ("burst of 1,500 tasks, tasks per second", burst, True),
    ("one lone task, call to seen completed (ms)", lone, False),
)


def peer_python() -> Path:
    python = PEER / "bin" / "python"
    if not python.exists():
        print("installing the peer into .cache/bench-peer …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        requirements = ROOT / "benchmarks" / "peer-requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return python


def _sides(database_url: str, broker_url: str) -> tuple[Side, Side]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKENGINE_")}
    ours_env = clean | {"TASKENGINE_DATABASE_URL": database_url, "TASKENGINE_BROKER_URL": broker_url}
    peer_env = clean | {"BENCH_REDIS": broker_url, "PYTHONPATH": str(ROOT)}
    engine, peer = (sys.executable, "-m", "taskengine"), str(peer_python())
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


def _table(sides: tuple[Side, Side], figures: dict[tuple[str, str], list[float]]) -> str:
    lines = [
        f"| what | {sides[0].name} | {sides[1].name} | ratio |",
        "|---|---|---|---|",
    ]
    for name, _, more_is_better in MEASURES:
        ours, peers = (figures[side.name, name] for side in sides)
        middle, other = statistics.median(ours), statistics.median(peers)
        ratio = middle / other if more_is_better else other / middle
        better = "times as many" if more_is_better else "times as fast"
        lines.append(f"| {name} | {_spread(ours)} | {_spread(peers)} | {ratio:.1f} {better} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    digits = 0 if statistics.median(values) >= 100 else 1
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one timed measure")
    parser.add_argument("--write", type=Path, help="write the table into this file as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServices(Path(folder)) as services:
        migrate.upgrade(services.database_url)
        sides = _sides(services.database_url, services.broker_url)
        figures: dict[tuple[str, str], list[float]] = {}
        with ExitStack() as stack:
            for side in sides:
                stack.enter_context(side.running(Path(folder) / f"{side.name.split()[0]}.log"))
            for turn in range(options.rounds):
                for name, measure, _ in MEASURES:
                    for side in sides:
                        value = asyncio.run(measure(side.url, options.seconds))
                        figures.setdefault((side.name, name), []).append(value)
                        print(f"round {turn + 1}: {side.name}: {name}: {value:,.1f}", flush=True)
    note = (
        f"Median (least to most) of {options.rounds} rounds in turn, one front end and one worker each, {_machine()}."
    )
    table = f"{_table(sides, figures)}\n\n{note}"
    print(f"\n{table}")
    if options.write is not None:
        options.write.write_text(f"{PAGE}\n{table}\n")


if __name__ == "__main__":
    main()
