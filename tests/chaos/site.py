"""What is under test: Postgres and Valkey of its own, two front ends, two workers, and the links of one of each.

The second front end and the second worker reach the services through proxies; the first ones directly. Processes are
started on one thread that lives as long as the site, because the kernel ends a child with the thread that forked it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import psutil
from pydantic import SecretStr

from taskengine.children import Child
from taskengine.embedded import EmbeddedPostgres, EmbeddedServices, EmbeddedValkey
from taskengine.settings import Settings
from taskengine.store import migrate
from tests.chaos.proxy import Proxy
from tests.processes import READY, ROOT, environment, free_port
from tests.services import AMQP_VARIABLE, BROKER_VARIABLE, DATABASE_VARIABLE

__all__ = ["Site"]

TARGET = "tests/chaos/app.py:engine"
START_S = 60.0
LOADED_S, WARM_UP_S = 3.0, 20.0
MARK = "CHAOS_FOLDER"
_T = TypeVar("_T")


class Site:
    """Use it as an asynchronous context manager. `options` are settings for every process, by default none."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = options
        self.workers: dict[str, Child] = {}
        self.front_ends: dict[str, Child] = {}
        self.urls: dict[str, str] = {}
        self.proxies: dict[str, Proxy] = {}
        self.accepts_since_s = 0.0
        """When Postgres was last started, in Unix time."""
        self._services = EmbeddedServices(folder / "services")
        self._thread = ThreadPoolExecutor(1, "site")
        self._started = 0

    @property
    def postgres(self) -> EmbeddedPostgres:
        return self._services.postgres

    @property
    def valkey(self) -> EmbeddedValkey:
        return self._services.valkey

    @property
    def database_url(self) -> str:
        return self._services.database_url

    @property
    def broker_url(self) -> str:
        return self._services.broker_url

    @property
    def lease_s(self) -> float:
        return self.settings(far=False).lease.total_seconds()

    async def __aenter__(self) -> Site:
        self.temporary.mkdir(parents=True)
        await self.do(self._start_services)
        self.accepts_since_s = time.time()
        self.proxies = {
            "database": Proxy(lambda: asyncio.open_unix_connection(str(self.postgres.socket_folder / ".s.PGSQL.5432"))),
            "broker": Proxy(lambda: asyncio.open_connection("127.0.0.1", self.valkey.port)),
        }
        for proxy in self.proxies.values():
            await proxy.start()
        await asyncio.gather(
            *(self.start_front_end(name) for name in ("serve-near", "serve-far")),
            *(self.start_worker(name) for name in ("worker-near", "worker-far")),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in [*self.workers.values(), *self.front_ends.values()]:
            child.send(signal.SIGCONT)
            child.kill()
        for proxy in self.proxies.values():
            await proxy.stop()
        await self.do(lambda: self._services.__exit__(None, None, None))
        self._thread.shutdown()

    async def do(self, work: Callable[[], _T]) -> _T:
        """Run `work` on the site's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _start_services(self) -> None:
        self._services.__enter__()
        # Processes are killed here, machines are not: what is committed is in the kernel's hands and stays.
        with (self.postgres.folder / "postgresql.conf").open("a") as file:
            file.write("fsync = off\n")
        self.postgres.stop()
        self.postgres.start()
        migrate.upgrade(self.database_url)

    # -- processes

    @property
    def temporary(self) -> Path:
        """The folder for temporary files of all processes under test."""
        return self.folder / "tmp"

    def settings(self, *, far: bool) -> Settings:
        database, broker = self.database_url, self.broker_url
        if far:
            database = f"postgresql://postgres@127.0.0.1:{self.proxies['database'].port}/taskengine"
            parts = urlsplit(broker)
            broker = parts._replace(netloc=f":{parts.password}@127.0.0.1:{self.proxies['broker'].port}").geturl()
        return Settings(database_url=SecretStr(database), broker_url=SecretStr(broker), **self.options)

    async def start_worker(self, name: str, **variables: str) -> Child:
        """A worker that takes tasks; `variables` go into its environment."""
        child = await self._start(name, ["worker", TARGET], {}, variables)
        self.workers[name] = child
        await self.until_ready(child)
        return child

    async def start_front_end(self, name: str, **variables: str) -> Child:
        port = urlsplit(self.urls[name]).port if name in self.urls else free_port()
        child = await self._start(name, ["serve", TARGET], {"port": port}, variables)
        self.front_ends[name] = child
        await self.until_ready(child)
        self.urls[name] = f"http://127.0.0.1:{port}/mcp"
        return child

    async def _start(self, name: str, command: list[str], own: dict[str, Any], variables: dict[str, str]) -> Child:
        settings = self.settings(far=name.endswith("far"))
        settings = Settings(**{each: getattr(settings, each) for each in settings.model_fields_set} | own)
        kept = {
            each: value
            for each, value in environment(settings).items()
            if each not in {DATABASE_VARIABLE, BROKER_VARIABLE, AMQP_VARIABLE}
        }
        path = os.pathsep.join(filter(None, [variables.pop("PYTHONPATH", ""), kept["PYTHONPATH"]]))
        self._started += 1
        child = Child(
            name,
            [sys.executable, "-m", "taskengine", *command],
            self.folder / "logs" / f"{name}.log",
            env=kept | variables | {MARK: str(self.folder), "TMPDIR": str(self.temporary), "PYTHONPATH": path},
            cwd=ROOT,
        )
        await self.do(child.start)
        return child

    async def until_ready(self, child: Child) -> None:
        deadline = time.monotonic() + START_S
        while READY not in child.output():
            assert child.running, f"{child.name} ended with code {child.exit_code}:\n{child.output(30)}"
            assert time.monotonic() < deadline, f"{child.name} was not ready:\n{child.output(30)}"
            await asyncio.sleep(0.05)

    def live_urls(self) -> list[str]:
        """Of the front ends that run, and of all when none does."""
        live = [self.urls[name] for name, child in self.front_ends.items() if child.running and name in self.urls]
        return live or list(self.urls.values())

    async def revive(self) -> None:
        """Whatever has ended runs again."""
        dead = [name for name, child in self.workers.items() if not child.running]
        gone = [name for name, child in self.front_ends.items() if not child.running]
        await asyncio.gather(
            *(self.start_worker(name) for name in dead), *(self.start_front_end(name) for name in gone)
        )

    def worker_by_pid(self, pid: int) -> str | None:
        return next((name for name, child in self.workers.items() if child.running and child.pid == pid), None)

    def processes(self) -> list[psutil.Process]:
        """Everything that was started for this site or by what was, services aside."""
        ours = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    ours.append(process)
            except psutil.Error:
                continue
        return ours

    # -- services

    async def sql(self, statement: str, *arguments: Any, timeout_s: float = 30.0) -> list[asyncpg.Record]:
        """The rows, read beside the processes under test."""
        connection = await asyncpg.connect(
            self.database_url, timeout=timeout_s, server_settings={"application_name": "chaos"}
        )
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
        finally:
            await connection.close(timeout=5)
        return rows

    async def sql_soon(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """The same, however long Postgres is away."""
        while True:
            try:
                return await self.sql(statement, *arguments)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await asyncio.sleep(0.2)

    async def restart_postgres(self, down_s: float) -> None:
        """As by a power cut, and up again after `down_s`."""
        await self.do(self.postgres.kill)
        await asyncio.sleep(down_s)
        await self.do(self.postgres.start)
        self.accepts_since_s = time.time()

    async def restart_valkey(self, down_s: float) -> None:
        await self.do(self.valkey.kill)
        await asyncio.sleep(down_s)
        await self.do(self.valkey.start)

    def postgres_processes(self) -> list[psutil.Process]:
        pid = int((self.postgres.folder / "postmaster.pid").read_text().splitlines()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def valkey_process(self) -> psutil.Process:
        child = self.valkey._child
        assert child is not None
        return psutil.Process(child.pid)

    async def warm(self) -> None:
        """Each worker has a tool process to spare, and those it has had the time to load."""
        until = time.monotonic() + WARM_UP_S
        while time.monotonic() < until:
            born = [[each.create_time() for each in self._tool_processes(child.pid)] for child in self.workers.values()]
            if all(each and time.time() - max(each) > LOADED_S for each in born):
                return
            await asyncio.sleep(0.1)

    def _tool_processes(self, worker: int) -> list[psutil.Process]:
        try:
            children = psutil.Process(worker).children()
            return [child for child in children if "taskengine.execution.child" in child.cmdline()]
        except psutil.NoSuchProcess:
            return []

    async def settled(self) -> None:
        """Postgres has run for a lease: only then is a lost presence lock believed."""
        await asyncio.sleep(max(0.0, self.accepts_since_s + self.lease_s + 0.2 - time.time()))
