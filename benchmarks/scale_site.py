"""Where the measures of scale run: services of our own, our own processes on them, and what both cost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
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
from urllib.parse import urlsplit

import asyncpg

from taskengine.embedded import EmbeddedServices
from taskengine.store import migrate

__all__ = ["Figure", "Machine", "Program", "Site", "execute", "free_port", "percentile", "run"]

ROOT = Path(__file__).resolve().parent.parent
TARGET = "benchmarks.mixed:engine"
START_S = 120.0
LOOK_S = 0.2
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Figure:
    """A line of the table. `met` is None where there is no goal to meet."""

    what: str
    goal: str
    figure: str
    met: bool | None


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Machine:
    """What a process and all its descendants cost, as the kernel counts it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def pids(self) -> list[int]:
        found, look = [], [self.pid]
        while look:
            pid = look.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    look += [int(each) for each in (thread / "children").read_text().split()]
        return found

    def cpu_s(self) -> float:
        """CPU seconds so far, those of descendants that have ended included."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(each) for each in fields[11:15])
        return ticks * _TICK_S

    def memory_bytes(self) -> int:
        """Proportional set size: what is shared counts once."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total


@dataclass(frozen=True)
class Program(Machine):
    """A running process of ours; `url` is where it answers, empty for a worker."""

    pid: int
    url: str = ""


class Site:
    """PostgreSQL, which counts its statements, and Valkey; any number of databases, front ends and workers."""

    def __init__(self, folder: Path, size: float) -> None:
        self.folder = folder
        self.size = size
        """1 for the sizes that the goals name; less for a try."""
        self._services = EmbeddedServices(folder / "services")
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> Site:
        self._stack.enter_context(self._services)
        self.sql("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        self._services.postgres.stop()
        self._services.postgres.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def postgres(self) -> Machine:
        lines = (self._services.postgres.folder / "postmaster.pid").read_text().splitlines()
        return Machine(int(lines[0]))

    @property
    def socket_folder(self) -> Path:
        return self._services.postgres.socket_folder

    @property
    def account(self) -> str:
        """The account that reaches PostgreSQL where this process is root; empty elsewhere."""
        identity = self._services.postgres.identity
        return "" if identity is None else pwd.getpwuid(identity.uid).pw_name

    def open_to_account(self, folder: Path) -> None:
        """Give a folder and what is in it to that account, and let it pass through those above."""
        if self.account:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, self.account)
            self.folder.chmod(0o711)

    def scaled(self, count: int) -> int:
        return max(10, round(count * self.size))

    def database(self) -> str:
        """The address of a fresh, migrated database."""
        self._count += 1
        name = f"scale_{self._count}"
        self.sql(f"CREATE DATABASE {name}")
        url = urlsplit(self._services.database_url)._replace(path=f"/{name}").geturl()
        migrate.upgrade(url)
        self.sql("CREATE EXTENSION pg_stat_statements", url=url)
        return url

    def drop(self, url: str) -> None:
        self.sql(f"DROP DATABASE {urlsplit(url).path.strip('/')} WITH (FORCE)")

    def sql(self, statement: str, *values: Any, url: str | None = None, timeout_s: float = 600) -> list[Any]:
        """The rows of one statement. Not to be called on a running event loop."""
        return asyncio.run(execute(url or self._services.database_url, statement, *values, timeout_s=timeout_s))

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
            "BROKER_URL": self._services.broker_url,
            "NAMESPACE": urlsplit(url).path.strip("/"),
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


async def execute(url: str, statement: str, *values: Any, timeout_s: float = 600) -> list[Any]:
    """The rows of one statement."""
    connection = await asyncpg.connect(url, command_timeout=timeout_s)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
