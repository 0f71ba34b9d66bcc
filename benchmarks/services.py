"""The services that are measured on: those that the variables of the tests name, else embedded ones.

What is given may serve others too: everything made there has a name of its own and is gone afterwards. It must run on
this machine, since what it costs is part of the figures.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from redis import Redis

from benchmarks.machine import Machine
from taskengine.embedded import EmbeddedServices
from taskengine.store import migrate
from tests.services import BROKER_VARIABLE, DATABASE_VARIABLE

__all__ = ["STATISTICS", "Services", "execute", "namespace", "running_services"]

STATISTICS = "pg_stat_statements"
_TOLD = ("fsync", "synchronous_commit", "autovacuum", "shared_buffers")
_VERSIONS = {"valkey": "valkey_version", "redis": "redis_version"}


@dataclass
class Services:
    """PostgreSQL and a broker, and the processes that they are."""

    admin_url: str
    """Of a database beside which others are made."""
    broker_url: str
    run: str
    """A word that nobody else uses: what it begins, or is part of, is ours."""
    postgres: Machine = field(init=False)
    broker: Machine = field(init=False)
    postgres_name: str = field(init=False)
    """What it is and its version, as in "PostgreSQL 15.20"."""
    broker_name: str = field(init=False)
    _databases: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        version, pid = asyncio.run(_server(self.admin_url))
        self.postgres_name = f"PostgreSQL {version.split()[0]}"
        self.postgres = _local(pid, "postgres", DATABASE_VARIABLE)
        with Redis.from_url(self.broker_url) as client:
            told: Any = client.info()
        name = str(told.get("server_name", "redis"))
        self.broker_name = f"{name.capitalize()} {told[_VERSIONS[name]]}"
        self.broker = _local(int(told["process_id"]), name, BROKER_VARIABLE)

    @property
    def described(self) -> tuple[str, str]:
        """What both are, with those settings of PostgreSQL that figures depend on most."""
        ((*values,),) = self.sql(f"SELECT {', '.join(f'current_setting({each!r})' for each in _TOLD)}")
        settings = ", ".join(f"{name} {value}" for name, value in zip(_TOLD, values, strict=True))
        return f"{self.postgres_name} ({settings})", self.broker_name

    def sql(self, statement: str, *values: Any, url: str | None = None, timeout_s: float = 600) -> list[Any]:
        """The rows of one statement. Not to be called on a running event loop."""
        return asyncio.run(execute(url or self.admin_url, statement, *values, timeout_s=timeout_s))

    def database(self) -> str:
        """The address of a fresh, migrated database."""
        name = f"{self.run}_{len(self._databases) + 1}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0")
        url = urlsplit(self.admin_url)._replace(path=f"/{name}").geturl()
        self._databases.append(url)
        migrate.upgrade(url)
        return url

    def drop(self, url: str) -> None:
        self.sql(f"DROP DATABASE IF EXISTS {namespace(url)} WITH (FORCE)")

    def count_statements(self) -> None:
        """Raises SystemExit when this PostgreSQL does not; a loaded library is the server's own decision."""
        ((loaded,),) = self.sql("SELECT current_setting('shared_preload_libraries')")
        if STATISTICS not in loaded:
            raise SystemExit(
                f"{self.postgres_name} of {DATABASE_VARIABLE} does not count statements: set shared_preload_libraries ="
                f" '{STATISTICS}' and restart it, or leave the variable out to measure on an embedded one"
            )

    def clean(self) -> None:
        """Our databases, queues and keys are gone."""
        for url in self._databases:
            self.drop(url)
        with Redis.from_url(self.broker_url) as client:
            for key in client.scan_iter(match=f"*{self.run}*", count=1000):
                client.delete(key)


def namespace(url: str) -> str:
    """A database's name, which serves as the prefix of its queues as well."""
    return urlsplit(url).path.strip("/")


@contextmanager
def running_services(folder: Path, *, statements: bool = False) -> Iterator[Services]:
    """Embedded ones keep their data in `folder`. With `statements` the server has `pg_stat_statements` loaded."""
    given = {name: os.environ.get(name) for name in (DATABASE_VARIABLE, BROKER_VARIABLE)}
    with ExitStack() as stack:
        embedded: Any = None
        if not all(given.values()):
            embedded = stack.enter_context(EmbeddedServices(folder / "services"))
            if statements and not given[DATABASE_VARIABLE]:
                setting = f"ALTER SYSTEM SET shared_preload_libraries = '{STATISTICS}'"
                asyncio.run(execute(embedded.database_url, setting))
                embedded.postgres.stop()
                embedded.postgres.start()
        services = Services(
            given[DATABASE_VARIABLE] or embedded.database_url,
            given[BROKER_VARIABLE] or embedded.broker_url,
            run=f"bench_{secrets.token_hex(5)}",
        )
        if statements:
            services.count_statements()
        stack.callback(services.clean)
        yield services


async def execute(url: str, statement: str, *values: Any, timeout_s: float = 600) -> list[Any]:
    """The rows of one statement."""
    connection = await asyncpg.connect(url, command_timeout=timeout_s)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


async def _server(url: str) -> tuple[str, int]:
    """Its version and its process, of which each session's is a child; 0 when that is not one of this machine."""
    connection = await asyncpg.connect(url)
    try:
        version, pid = await connection.fetchrow("SELECT current_setting('server_version'), pg_backend_pid()")
        return version, _parent(pid)  # while the session lasts
    finally:
        await connection.close()


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _local(pid: int, name: str, variable: str) -> Machine:
    """The process, if it is one of this machine and what it should be. Raises SystemExit."""
    try:
        found = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        found = ""
    if not found.startswith(name):
        raise SystemExit(
            f"the {name} of {variable} is not a process of this machine, so that its CPU cannot be counted: "
            "start one here, or leave the variable out to measure on an embedded one"
        )
    return Machine(pid)
