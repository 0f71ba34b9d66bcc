"""`python -m tests.hostile`: a real front end under each attack, and what another client notices of it.

Prints a table, and ends with code 1 when the front end died, took more memory than `--memory`, or answered another
client with anything but its result. How long that client waited is printed and not judged: it depends on the machine,
of which attackers take most here, where they run beside the server.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import SecretStr

from taskengine.settings import Settings
from tests.hostile.attacks import ATTACKS
from tests.hostile.raw import GONE, call, line
from tests.processes import ROOT, Processes
from tests.services import running_services

TARGET = str(ROOT / "tests" / "hostile" / "tools.py") + ":engine"
PAUSE_S = 0.05
CLIENTS = 4


async def others(url: str, over: asyncio.Event) -> tuple[list[float], list[str]]:
    """What clients that mean no harm wait for an answer, and what they got instead of one."""
    waited: list[float] = []
    failed: list[str] = []

    async def one() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                async with line(url) as opened:
                    await opened.send(call("greet"))
                    status, _, _ = await opened.answer()
                if status != 200:
                    failed.append(f"status {status}")
            except (OSError, TimeoutError, *GONE) as error:
                failed.append(type(error).__name__)
            waited.append(time.monotonic() - began)
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return waited, failed


async def watch(process: psutil.Process, over: asyncio.Event) -> int:
    most = 0
    while not over.is_set():
        most = max(most, process.memory_info().rss)
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), 0.1)
    return most


async def run(url: str, pid: int, names: list[str], many: int, *, seconds: float, most_bytes: int) -> bool:
    process = psutil.Process(pid)
    good = True
    print("| Attack | Memory at most | Others answered | p50 | p99 | What became of it | Outcome |")
    print("| --- | ---: | ---: | ---: | ---: | --- | --- |")
    for name in names:
        over = asyncio.Event()
        attack = asyncio.create_task(ATTACKS[name](url, many, over))
        honest = asyncio.create_task(others(url, over))
        memory = asyncio.create_task(watch(process, over))
        await asyncio.sleep(seconds)
        over.set()
        waited, failed = await honest
        said, most = await attack, await memory
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        holds = alive and most <= most_bytes and not failed
        good = good and holds
        waited.sort()
        print(
            f"| {name} | {most >> 20} MiB | {len(waited) - len(failed)} of {len(waited)} "
            f"| {waited[len(waited) // 2] * 1000:.0f} ms | {waited[len(waited) * 99 // 100] * 1000:.0f} ms | {said} "
            f"| {'holds' if holds else 'FAILS ' + ', '.join(sorted(set(failed)))} |",
            flush=True,
        )
        if not alive:
            break
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description="A front end under attack.")
    parser.add_argument("--attack", action="append", choices=sorted(ATTACKS), help="only this one; may be repeated")
    parser.add_argument("--clients", type=int, default=200, help="connections of an attack; some take a part or more")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each attack lasts")
    parser.add_argument("--memory", type=int, default=1024, help="most MiB that the front end may take")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_services(Path(folder)) as services:
        settings = Settings(
            database_url=SecretStr(services.create_database()),
            broker_url=SecretStr(services.broker_url),
            namespace=f"t{secrets.token_hex(6)}",
        )
        processes = Processes(settings, Path(folder))
        try:
            child, url = processes.serve(TARGET)
            names = given.attack or list(ATTACKS)
            good = asyncio.run(
                run(url, child.pid, names, given.clients, seconds=given.seconds, most_bytes=given.memory << 20)
            )
            if not child.running or "Traceback" in child.output():
                print(child.output()[-4000:])
                good = False
        finally:
            processes.kill_all()
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
