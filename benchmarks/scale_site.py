"""Where the measures of scale run: services of our own, our own processes on them, and what both cost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.machine import Machine, free_port
from benchmarks.services import execute, namespace, running_services

__all__ = ["Figure", "Machine", "Program", "Site", "execute", "free_port", "percentile", "run"]

ROOT = Path(__file__).resolve().parent.parent
TARGET = "benchmarks.mixed:engine"
START_S = 120.0
LOOK_S = 0.2
_T = TypeVar("_T")


@dataclass(frozen=True)
class Figure:
    """A line of the table. `met` is None where there is no goal, or it cannot be shown here: `figure` says why."""

    what: str
    goal: str
    figure: str
    met: bool | None


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class Program(Machine):
    """A running process of ours; `url` is where it answers, empty for a worker."""

    pid: int
    url: str = ""


class Site:
    """PostgreSQL, which counts its statements, and a broker; any number of databases, front ends and workers."""

    def __init__(self, folder: Path, size: float) -> None:
        self.folder = folder
        self.size = size
        """1 for the sizes that the goals name; less for a try."""
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        self.services = self._stack.enter_context(running_services(self.folder, statements=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def postgres(self) -> Machine:
        return self.services.postgres

    def scaled(self, count: int) -> int:
        return max(10, round(count * self.size))

    def database(self) -> str:
        """The address of a fresh, migrated database."""
        url = self.services.database()
        self.sql("CREATE EXTENSION pg_stat_statements", url=url)
        return url

    def drop(self, url: str) -> None:
        self.services.drop(url)

    def sql(self, statement: str, *values: Any, url: str | None = None, timeout_s: float = 600) -> list[Any]:
        """The rows of one statement. Not to be called on a running event loop."""
        return self.services.sql(statement, *values, url=url, timeout_s=timeout_s)

    @contextmanager
    def front_end(self, url: str, **settings: str) -> Iterator[Program]:
        port = free_port()
        command = ("serve", TARGET, "--port", str(port))
        with self._running(command, url, settings) as process:
            self._wait(process, lambda: _answers(port))
            yield Program(process.pid, f"http://127.0.0.1:{port}/mcp")

    @contextmanager
    def worker(self, url: str, **settings: str) -> Iterator[Program]:
        before = {row[0] for row in self.sql("SELECT pid FROM workers", url=url)}
        with self._running(("worker", TARGET), url, settings) as process:
            self._wait(process, lambda: {row[0] for row in self.sql("SELECT pid FROM workers", url=url)} - before)
            yield Program(process.pid)

    def starting_worker(self, url: str, **settings: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """One that is not waited for."""
        return self._running(("worker", TARGET), url, settings)

    @contextmanager
    def _running(
        self, command: tuple[str, ...], url: str, settings: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKENGINE_")}
        own = {
            "DATABASE_URL": url,
            "BROKER_URL": self.services.broker_url,
            "NAMESPACE": namespace(url),
            "LOG_LEVEL": "warning",
            **settings,
        }
        env = clean | {f"TASKENGINE_{name}": value for name, value in own.items()}
        # Where bytecode is not written, each start would compile the engine anew: no installation is like that.
        env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), "PYTHONDONTWRITEBYTECODE": ""}
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "taskengine", *command],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait(self, process: subprocess.Popen[bytes], ready: Callable[[], object]) -> None:
        until = time.monotonic() + START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                said = "\n".join(log.read_text()[-2000:] for log in self.folder.glob("*.log"))
                raise SystemExit(f"{process.args!r} did not start:\n{said}")
            time.sleep(LOOK_S)


def run(work: Awaitable[_T]) -> _T:
    """Drive the load of one measure, on the fastest loop there is, so that it costs the least."""
    import uvloop  # noqa: PLC0415 - as `load` does

    async def whole() -> _T:
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 " in connection.recv(64)
    return False
