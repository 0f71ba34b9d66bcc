"""`python -m benchmarks.latecomer`: a worker that was frozen comes back. Can it overwrite what clients have read?

On each side one call begins, the process that runs it is frozen (SIGSTOP) until another one has run the call again and
its result can be read, and then goes on. Its own run ends now, with a result of its own. What is stored is read before
and after. taskengine runs with its default settings; the peer's redelivery takes five minutes and more by default, so
`--redelivery` may shorten it, which changes nothing else. Each side has two processes that run tools: two workers of
ours, two front ends of the peer's (each of which has a worker inside). Exits with 0 when our result stayed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import Connection, request
from benchmarks.machine import free_port
from benchmarks.sides import ROOT, peer_python
from taskengine.children import Child
from taskengine.embedded import EmbeddedServices
from taskengine.store import migrate

HOLD_S = 5.0
LATE_S = 15.0
"""For so long the process that goes on is watched for its end, and then so long for what it writes."""
PATIENCE_S = 900.0


@dataclass(frozen=True)
class Side:
    """Its processes; those that answer have a URL."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    urls: tuple[str | None, ...]
    env: dict[str, str]


@dataclass(frozen=True)
class Seen:
    taken_over_s: float
    """From the freeze to the result of the other process."""
    before: str
    after: str
    ended_late: bool
    """The run that had been frozen went on to its end."""


async def _ask(url: str, method: str, name: str, params: dict[str, Any]) -> dict[str, Any]:
    connection = await Connection.open(url)
    try:
        return await asyncio.wait_for(connection.send(request(url, method, name, params)), 10)
    finally:
        await connection.close()


async def _soon(condition: Callable[[], Any], timeout_s: float) -> Any:
    """What it gives, when that is something or the time is over."""
    until = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found or time.monotonic() > until:
            return found
        await asyncio.sleep(0.05)


async def _answers(url: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            await _ask(url, "tools/call", "nothing", {"name": "nothing", "arguments": {}})
        except (OSError, RuntimeError, TimeoutError):
            if time.monotonic() > until:
                raise SystemExit(f"{url} does not answer") from None
            await asyncio.sleep(0.2)
        else:
            return


async def story(side: Side, folder: Path) -> Seen:
    """What became of the one call."""
    with ExitStack() as stack:
        children = []
        for number, command in enumerate(side.commands):
            child = Child(f"{side.name}-{number}", command, folder / f"{number}.log", env=side.env, cwd=ROOT)
            child.start()
            stack.callback(child.kill)
            children.append(child)
        for url in filter(None, side.urls):
            await _answers(url)
        places = dict(zip((child.pid for child in children), side.urls, strict=True))
        marks = folder / "marks"
        marks.mkdir()
        arguments = {"seconds": HOLD_S, "folder": str(marks)}
        first_url = next(url for url in side.urls if url)
        created = await _ask(first_url, "tools/call", "hold", {"name": "hold", "arguments": arguments})
        task_id = created["taskId"]
        begun = await _soon(lambda: list(marks.glob("*.begun")), 60)
        if not begun:
            raise SystemExit(f"{side.name}: the call did not begin within a minute")
        frozen = int(begun[0].stem)
        os.kill(frozen, signal.SIGSTOP)
        since = time.monotonic()
        url = next(url for pid, url in places.items() if url and pid != frozen)

        async def text() -> str | None:
            seen = await _ask(url, "tasks/get", task_id, {"taskId": task_id})
            return str(seen["result"]["content"][0]["text"]) if seen["status"] == "completed" else None

        while (before := await text()) is None:
            if time.monotonic() - since > PATIENCE_S:
                raise SystemExit(f"{side.name}: nobody took the call over within {PATIENCE_S:.0f} s")
            await asyncio.sleep(0.5)
        taken_over = time.monotonic() - since
        os.kill(frozen, signal.SIGCONT)
        late = marks / f"{frozen}.ended"
        ended_late = bool(await _soon(late.exists, LATE_S))
        await asyncio.sleep(LATE_S)
        return Seen(taken_over, before, await text() or "no result", ended_late)


def _sides(database_url: str, broker_url: str, redelivery_s: float | None) -> tuple[Side, Side]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TASKENGINE_", "FASTMCP_"))}
    ours = clean | {"TASKENGINE_DATABASE_URL": database_url, "TASKENGINE_BROKER_URL": broker_url}
    peers = clean | {"BENCH_REDIS": broker_url, "PYTHONPATH": str(ROOT)}
    if redelivery_s is not None:
        peers["FASTMCP_DOCKET_REDELIVERY_TIMEOUT"] = f"PT{redelivery_s:g}S"
    engine, target, python = (sys.executable, "-m", "taskengine"), "benchmarks.ours:engine", str(peer_python())
    worker = (*engine, "worker", target)
    uvicorn = (python, "-m", "uvicorn", "--log-level", "warning", "benchmarks.peer:app", "--port")
    ports = [free_port() for _ in range(3)]
    urls = tuple(f"http://127.0.0.1:{port}/mcp" for port in ports)
    serve = (*engine, "serve", target, "--port", str(ports[0]))
    return (
        Side("taskengine", (serve, worker, worker), (urls[0], None, None), ours),
        Side("FastMCP tasks", tuple((*uvicorn, str(port)) for port in ports[1:]), urls[1:], peers),
    )


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latecomer", description=__doc__)
    parser.add_argument("--redelivery", type=float, help="seconds of the peer's redelivery timeout; default: its own")
    options = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, EmbeddedServices(Path(name)) as services:
        await asyncio.to_thread(migrate.upgrade, services.database_url)
        for side in _sides(services.database_url, services.broker_url, options.redelivery):
            folder = Path(name) / side.name.split()[0]
            folder.mkdir()
            seen = await story(side, folder)
            fate = "kept" if seen.before == seen.after else "OVERWRITTEN"
            print(
                f"{side.name}: {seen.before!r} was stored {seen.taken_over_s:.1f} s after the freeze; the frozen run"
                f" {'ended' if seen.ended_late else 'was stopped'} when it went on; stored now: {seen.after!r}: {fate}",
                flush=True,
            )
            if side.name == "taskengine":
                kept = seen.before == seen.after
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
