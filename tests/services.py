"""The services the tests run on: embedded ones of this pytest process, or those named by `TASKENGINE_TEST_*`."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from taskengine.embedded import EmbeddedServices
from taskengine.store import migrate
from tests.planted import plant

DATABASE_VARIABLE = "TASKENGINE_TEST_DATABASE_URL"
BROKER_VARIABLE = "TASKENGINE_TEST_BROKER_URL"
AMQP_VARIABLE = "TASKENGINE_TEST_AMQP_URL"


@dataclass(frozen=True)
class Services:
    """`template` is the name of a migrated database that nobody connects to."""

    admin_url: str
    broker_url: str
    amqp_url: str | None
    template: str

    def database_url(self, name: str) -> str:
        """With a password, which the embedded PostgreSQL does not ask for, and no log may show."""
        parts = urlsplit(self.admin_url)._replace(path=f"/{name}")
        if parts.password is None:
            user, _, place = parts.netloc.rpartition("@")
            parts = parts._replace(netloc=f"{user or 'postgres'}:{plant('database-password')}@{place}")
        return parts.geturl()

    def create_database(self, *, migrated: bool = True) -> str:
        """The address of a new database of its own."""
        name = f"test_{secrets.token_hex(6)}"
        template = self.template if migrated else "template0"
        self.admin(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.database_url(name)

    def drop_database(self, url: str) -> None:
        name = urlsplit(url).path.removeprefix("/")
        self.admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def admin(self, statement: str) -> None:
        """Run one statement beside the tests' databases."""
        asyncio.run(_execute(self.admin_url, statement))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextmanager
def running_services(folder: Path) -> Iterator[Services]:
    """Embedded services over `folder` for those that no variable names; a migrated template; all gone afterwards."""
    given = {name: os.environ.get(name) for name in (DATABASE_VARIABLE, BROKER_VARIABLE, AMQP_VARIABLE)}
    with ExitStack() as stack:
        embedded: Any = None
        if not (given[DATABASE_VARIABLE] and given[BROKER_VARIABLE]):
            embedded = stack.enter_context(EmbeddedServices(folder, durable=False))
        services = Services(
            admin_url=given[DATABASE_VARIABLE] or embedded.database_url,
            broker_url=given[BROKER_VARIABLE] or embedded.broker_url,
            amqp_url=given[AMQP_VARIABLE] or None,
            template=f"template_{secrets.token_hex(6)}",
        )
        services.admin(f'CREATE DATABASE "{services.template}" TEMPLATE template0')
        stack.callback(services.drop_database, services.database_url(services.template))
        migrate.upgrade(services.database_url(services.template))
        yield services


_INVARIANTS = {
    "a status and phase that do not go together": """
        SELECT id FROM tasks WHERE (status, phase) NOT IN (
            ('working', 'queued'), ('working', 'running'), ('input_required', 'waiting'),
            ('working', 'waiting'), ('completed', 'done'), ('failed', 'done'), ('cancelled', 'done'))""",
    "a terminal task that holds a worker": "SELECT id FROM tasks WHERE phase = 'done' AND worker_id IS NOT NULL",
    "a settled task with an open question": """
        SELECT DISTINCT t.id FROM tasks t JOIN inputs i ON i.task_id = t.id
        WHERE t.phase = 'done' AND i.response IS NULL""",
    "a task that waits for nothing": """
        SELECT id FROM tasks t WHERE phase = 'waiting' AND wake_at IS NULL AND wake_open IS NULL
        AND NOT EXISTS (SELECT 1 FROM inputs i WHERE i.task_id = t.id AND i.response IS NULL)""",
    "a task that does not wait and yet has what it waits for": """
        SELECT id FROM tasks WHERE phase <> 'waiting' AND (wake_at IS NOT NULL OR wake_open IS NOT NULL)""",
    "a task that goes on with a question open": """
        SELECT DISTINCT t.id FROM tasks t JOIN inputs i ON i.task_id = t.id
        WHERE t.phase IN ('queued', 'running') AND i.response IS NULL
        AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.task_id = t.id)""",
    "a call in the journal whose task is not there": """
        SELECT DISTINCT j.task_id AS id FROM journal j JOIN tasks p ON p.id = j.task_id AND p.phase <> 'done'
        WHERE j.child_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tasks c WHERE c.id = j.child_id)""",
    "a task whose caller does not know it": """
        SELECT c.id FROM tasks c JOIN tasks p ON p.id = c.parent WHERE p.phase <> 'done' AND c.phase <> 'done'
        AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.task_id = p.id AND j.child_id = c.id)""",
    "an entry from an attempt that never was": """
        SELECT t.id FROM tasks t JOIN journal j ON j.task_id = t.id WHERE j.attempt > t.attempt""",
    "an answer from an attempt that never was": """
        SELECT t.id FROM tasks t JOIN inputs i ON i.task_id = t.id WHERE i.attempt > t.attempt""",
    "a lost attempt that was counted and not recorded, or the other way round": """
        SELECT id FROM tasks t WHERE crashes <> (SELECT count(*) FROM losses l WHERE l.task_id = t.id)""",
    "a note on the end of a run that was not cancelled": """
        SELECT id FROM tasks WHERE status <> 'cancelled' AND (stopped_at IS NOT NULL OR stopper IS NOT NULL)""",
    "a task that ended before it began": "SELECT id FROM tasks WHERE ended_at < created_at",
}
"""What is true of every database at every moment; the statements find what would break it."""
_BROKEN = " UNION ALL ".join(
    f"SELECT '{name}' AS name, id FROM ({statement}) AS broken" for name, statement in _INVARIANTS.items()
)
"""All of them in one question."""


async def broken_invariants(url: str) -> list[str]:
    """One sentence per broken invariant; none for a database that has no tables of ours."""
    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval("SELECT to_regclass('tasks')") is None:
            return []
        return await broken_in(connection)
    finally:
        await connection.close()


async def broken_in(connection: asyncpg.Connection[Any]) -> list[str]:
    """The same over a connection that is there."""
    found: dict[str, list[str]] = {}
    for row in await connection.fetch(_BROKEN):
        found.setdefault(row["name"], []).append(row["id"])
    return [f"{name}: {', '.join(ids)}" for name, ids in found.items()]
