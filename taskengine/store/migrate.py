"""Migrations: the same Alembic scripts from a checkout (`migrations/`) and from an installed wheel.

Two runs at once take turns on an advisory lock; a run that needs a table lock gives up after two seconds rather than
hold up the traffic that runs meanwhile. What takes long on a large table holds no such lock (`build_index`).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskengine.errors import StoreUnavailable
from taskengine.store.database import driver_url, reason, unavailable

__all__ = ["VERSION_TABLE", "build_index", "downgrade", "head", "is_behind", "scripts", "sql", "unlocked", "upgrade"]

VERSION_TABLE = "taskengine_schema"
_LOCK = 0x7461736B  # "task"
LOCK_TIMEOUT = "2s"
TURN_S = 0.2
"""How often a run looks whether the one before it is over."""


def scripts() -> Path:
    """The folder of the migration scripts."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def head() -> str:
    """The revision this code needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def is_behind(revision: str | None) -> bool:
    """Whether a database at `revision` (None: never migrated) lacks what this code needs.

    One that this code has never heard of is a newer version's: during a deploy the schema comes first, and the front
    ends of the version before it must stay in service until they are replaced.
    """
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return revision is None or (revision in known and revision != head())


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database up to `revision`. Raises StoreUnavailable. Not to be called on a running event loop."""
    asyncio.run(_run(url, lambda config: command.upgrade(config, revision)))


def downgrade(url: str, revision: str) -> None:
    """Take the database back to `revision` ("base": nothing of ours is left). Raises StoreUnavailable."""
    asyncio.run(_run(url, lambda config: command.downgrade(config, revision)))


def sql(revision: str = "head") -> str:
    """The statements of an upgrade from nothing, for those who run them by hand."""
    config = _config()
    config.output_buffer = io.StringIO()
    command.upgrade(config, revision, sql=True)
    return config.output_buffer.getvalue()


def build_index(name: str, table: str, columns: Sequence[Any], **options: Any) -> None:
    """For a step of a migration: the index is there, and the table was written to meanwhile. Call it last in the step.

    What the step did before is committed: all of it must bear being done again, for the build may be interrupted. One
    that was leaves an index behind which is not valid; that is dropped. The build waits for transactions that are
    older than it, without holding up anybody. As SQL text it is an ordinary build, for that starts with no tables.
    """
    if op.get_context().as_sql:
        op.create_index(name, table, list(columns), **options)
        return
    with unlocked():
        op.execute("SET lock_timeout = 0")  # nobody queues behind what it waits for
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.create_index(name, table, list(columns), postgresql_concurrently=True, **options)
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")


@contextmanager
def unlocked() -> Iterator[None]:
    """For the end of a step of a migration: its alterations are committed, so a statement that reads or writes a whole
    table in here keeps nobody waiting. All of the step must bear being done again."""
    context = op.get_context()
    if context.as_sql:
        yield
        return
    with context.autocommit_block():
        yield


def _config() -> Config:
    config = Config()
    # Percent signs are Alembic's interpolation; the folder may have them.
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    return config


async def _run(url: str, action: Callable[[Config], None]) -> None:
    engine = create_async_engine(driver_url(url), poolclass=NullPool, connect_args={"dsn": url, "timeout": 5})

    def migrate(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        action(config)

    try:
        async with engine.connect() as lock:
            await lock.execution_options(isolation_level="AUTOCOMMIT")
            # It asks again and again rather than wait in the statement: who waits in one has a snapshot, the build of
            # an index waits for that, and the two would wait for each other.
            while not await lock.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):  # noqa: ASYNC110
                await asyncio.sleep(TURN_S)
            async with engine.connect() as connection:
                await connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
                await connection.commit()
                await connection.run_sync(migrate)
                await connection.commit()
    except Exception as error:
        # The end of an `autocommit_block` hides what broke the connection within it.
        hidden = error.__context__ if isinstance(error, PendingRollbackError) else None
        if unavailable(hidden or error):
            raise StoreUnavailable(reason(hidden or error)) from error
        raise
    finally:
        await engine.dispose()
