"""The systems that are compared: their processes, who may call them, and the peer's environment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import uvloop

from benchmarks.load import Connection
from benchmarks.machine import Machine, free_port
from benchmarks.measures import Endpoint, to_the_end
from benchmarks.services import Services, namespace

__all__ = ["PEER", "ROOT", "Side", "ours", "peer", "peer_python"]

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".cache" / "bench-peer"
REQUIREMENTS = ROOT / "benchmarks" / "peer-requirements.txt"
PEER_VERSION = next(
    line.partition("==")[2].split()[0]
    for line in REQUIREMENTS.read_text().splitlines()
    if line.startswith("fastmcp-tasks==")
)
START_S = 60.0
OWNERS = 64
"""Each with a token. A connection keeps to one; lone tasks go round, as they do when many people have one each."""
RATES = {"CALL_RATE": "100000000/minute", "POLL_RATE": "100000000/minute"}
"""Every call and poll is counted and compared as always; the numbers are such that a load generator may go on."""


@dataclass(frozen=True)
class Side:
    """One system under test: its commands, front end first, and where it answers."""

    name: str
    endpoint: Endpoint
    commands: tuple[tuple[str, ...], ...]
    env: Mapping[str, str]

    @contextmanager
    def running(self, log: Path) -> Iterator[tuple[Machine, ...]]:
        """Its processes, front end first; they answer."""
        with self.started(log) as started:
            uvloop.run(self._answers(log))
            yield started

    @asynccontextmanager
    async def answering(self, log: Path) -> AsyncIterator[None]:
        """The same on a running event loop."""
        with self.started(log):
            await self._answers(log)
            yield

    @contextmanager
    def started(self, log: Path) -> Iterator[tuple[Machine, ...]]:
        """The same, not waited for."""
        with ExitStack() as stack, log.open("ab") as output:
            processes = []
            for command in self.commands:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self.env, stdout=output, stderr=output, start_new_session=True
                )
                stack.callback(_end, process)
                processes.append(Machine(process.pid))
            yield tuple(processes)

    async def _answers(self, log: Path) -> None:
        """Until a call has gone the whole way once: front end and worker are up."""
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                connection = await Connection.open(self.endpoint.url)
                await asyncio.wait_for(to_the_end(self.endpoint, connection, 0), 5)
                await connection.close()
                return
            if time.monotonic() > until:
                raise SystemExit(f"{self.name} does not answer at {self.endpoint.url}:\n{_end_of(log)}")
            await asyncio.sleep(0.2)

    def another_front_end(self, broker_url: str) -> Side:
        """One more of ours, on the same database and queues, with another way to the broker."""
        port = free_port()
        serve = (*self.commands[0][:-1], str(port))
        env = {**self.env, "TASKENGINE_BROKER_URL": broker_url}
        return replace(self, endpoint=replace(self.endpoint, url=_url(port)), commands=(serve,), env=env)


def ours(services: Services, database_url: str) -> Side:
    port = free_port()
    tokens = _tokens()
    engine, target = (sys.executable, "-m", "taskengine"), "benchmarks.ours:engine"
    settings = {
        "DATABASE_URL": database_url,
        "BROKER_URL": services.broker_url,
        "NAMESPACE": namespace(database_url),
        "AUTH_TOKENS": orjson.dumps([f"{token}:{owner}" for token, owner in tokens.items()]).decode(),
        "LOG_LEVEL": "warning",
        **RATES,
    }
    return Side(
        "taskengine",
        Endpoint(_url(port), tuple(tokens)),
        ((*engine, "serve", target, "--port", str(port)), (*engine, "worker", target)),
        _clean_environment() | {f"TASKENGINE_{name}": value for name, value in settings.items()},
    )


def peer(services: Services) -> Side:
    port = free_port()
    tokens = _tokens()
    python = str(peer_python())
    own = {
        "BENCH_REDIS": services.broker_url,
        "BENCH_TOKENS": " ".join(f"{token}:{owner}" for token, owner in tokens.items()),
        "FASTMCP_DOCKET_NAME": f"{services.run}_peer",
        "PYTHONPATH": str(ROOT),
    }
    return Side(
        f"FastMCP tasks {PEER_VERSION} on {services.broker_name.split()[0]}",
        Endpoint(_url(port), tuple(tokens)),
        (
            (python, "-m", "uvicorn", "--log-level", "warning", "--port", str(port), "benchmarks.peer:app"),
            (python, "-m", "fastmcp_tasks.worker_cli", "worker", "benchmarks/peer.py"),
        ),
        _clean_environment() | own,
    )


def peer_python() -> Path:
    """The interpreter of the peer's environment, which is made anew unless it was finished from the same lock."""
    python, ready = PEER / "bin" / "python", PEER / ".ready"
    locked = REQUIREMENTS.read_bytes()
    if ready.exists() and ready.read_bytes() == locked:
        return python
    print(f"installing the peer into {PEER.relative_to(ROOT)} …", flush=True)
    shutil.rmtree(PEER, ignore_errors=True)
    # The lock names everything; pip 23 takes a requirement with extras for one that is not in it.
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
    try:
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        subprocess.run([python, *install, "-r", REQUIREMENTS], check=True)
        ready.write_bytes(locked)
    except BaseException:
        shutil.rmtree(PEER, ignore_errors=True)  # half an environment would be taken for a whole one
        raise
    return python


def _clean_environment() -> dict[str, str]:
    # Where bytecode is not written, each start would compile everything anew: no installation is like that.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TASKENGINE_", "FASTMCP_"))}
    return kept | {"PYTHONDONTWRITEBYTECODE": ""}


def _tokens() -> dict[str, str]:
    return {secrets.token_hex(24): f"owner-{n}" for n in range(OWNERS)}


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/mcp"


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
