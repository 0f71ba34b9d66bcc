"""Migrations: the same Alembic scripts from a checkout (`migrations/`) and from an installed wheel.

Two runs at once take turns on an advisory lock; a run that needs a table lock gives up after two seconds rather than
hold up the traffic that runs meanwhile.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskengine.errors import StoreUnavailable
from taskengine.store.database import driver_url, reason, unavailable

__all__ = ["VERSION_TABLE", "downgrade", "head", "is_behind", "scripts", "sql", "upgrade"]

VERSION_TABLE = "taskengine_schema"
_LOCK = 0x7461736B  # "task"


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
            await lock.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            async with engine.connect() as connection:
                await connection.execute(text("SET lock_timeout = '2s'"))
                await connection.commit()
                await connection.run_sync(migrate)
                await connection.commit()
    except Exception as error:
        if unavailable(error):
            raise StoreUnavailable(reason(error)) from error
        raise
    finally:
        await engine.dispose()
