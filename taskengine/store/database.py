"""One process's way to Postgres: the pool, short statements, transactions, and their failures in one class."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import CursorResult, Executable
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from taskengine.errors import StoreUnavailable
from taskengine.settings import Settings
from taskengine.store.sealing import Sealing

__all__ = ["Database", "driver_url", "reason", "unavailable"]

_T = TypeVar("_T")

CONNECT_TIMEOUT_S = 5
COMMAND_TIMEOUT_S = 30
POOL_TIMEOUT_S = 5

# SQLSTATE classes after which the same statement may succeed later: connection, resources, operator intervention,
# read-only standby, serialisation, deadlock, lock timeout.
# Besides what an operator has to do first.
_PASSING = ("08", "53", "57", "25006", "40001", "40P01", "55P03")
_TO_DO = {
    "42P01": "its schema is missing or old: run `taskengine migrate`",
    "3D000": "there is no such database on the server: create it",
    "28P01": "it refuses the password",
    "28000": "it refuses the user",
}


def driver_url(url: str) -> URL:
    """The address for SQLAlchemy's asyncpg dialect; a Unix socket directory may stand in `?host=`.

    Other options (`sslmode=require`) are left out, since SQLAlchemy would take each for a keyword of
    `asyncpg.connect`: give `connect_args={"dsn": url}` as well, and asyncpg reads them.
    """
    address = make_url(url)
    query = {name: value for name, value in address.query.items() if name in {"host", "port"}}
    return address.set(drivername="postgresql+asyncpg", query=query)


def unavailable(error: BaseException) -> bool:
    """Whether `error` says that Postgres cannot be had now, rather than that a statement is wrong."""
    if isinstance(error, OSError | TimeoutError | PoolTimeout | InterfaceError | OperationalError):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else error
    original = getattr(cause, "__cause__", None) or cause
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(original, OSError | TimeoutError | asyncpg.InterfaceError):
        return True
    return _sqlstate(error).startswith(_PASSING) or _sqlstate(error) in _TO_DO


def reason(error: BaseException) -> str:
    """A few words for people, without addresses or secrets."""
    if _sqlstate(error) in _TO_DO:
        return _TO_DO[_sqlstate(error)]
    original = getattr(error, "orig", None) or error
    return type(getattr(original, "__cause__", None) or original).__name__


def _sqlstate(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(getattr(getattr(original, "__cause__", None) or original, "sqlstate", None) or "")


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except Exception as error:
        if unavailable(error):
            raise StoreUnavailable(reason(error)) from error
        raise


class Database:
    """The pool of one process, made for the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.database_url.get_secret_value()
        self.sealing = Sealing(settings.key_ring())
        """How the payloads of this database are stored; for the store's nouns."""
        self.audits = settings.audit
        """Whether what changes a task is recorded with it."""
        self._engine: AsyncEngine = create_async_engine(
            driver_url(self.url),
            pool_size=settings.database_pool,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_use_lifo=True,
            hide_parameters=True,  # an error that is logged must not quote what is stored
            connect_args={
                "dsn": self.url,
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": COMMAND_TIMEOUT_S,
                "server_settings": {"application_name": "taskengine", "timezone": "UTC"},
            },
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def run(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute one statement that commits by itself. Raises StoreUnavailable.

        A connection that Postgres closed while it was idle (a restart) is replaced and the statement tried again
        once: it had not been sent whole, so nothing was done twice.
        """
        async with _translated():
            try:
                return await self._run(statement, parameters)
            except DBAPIError as error:
                if not _was_closed_while_idle(error):
                    raise
                return await self._run(statement, parameters)

    async def _run(self, statement: Executable, parameters: Any) -> CursorResult[Any]:
        # One crossing between async and SQLAlchemy's sync core instead of three (connect, execute, close): a poll
        # costs 0.36 ms of CPU this way and 0.59 ms the other.
        def work() -> CursorResult[Any]:
            with self._autocommit.sync_engine.connect() as connection:
                return connection.execute(statement, parameters)

        result: CursorResult[Any] = await greenlet_spawn(work)
        return result

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Several statements that commit together. Raises StoreUnavailable, also from the commit."""
        async with _translated(), self._engine.begin() as connection:
            yield connection

    async def twice(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do `work`, a transaction, and once more when its connection was closed while idle, or it met a deadlock."""
        try:
            return await work()
        except StoreUnavailable as error:
            cause = error.__cause__  # the victim of a deadlock has changed nothing
            if not (isinstance(cause, DBAPIError) and (_was_closed_while_idle(cause) or _sqlstate(cause) == "40P01")):
                raise
            return await work()

    async def close(self) -> None:
        await self._engine.dispose()


def _was_closed_while_idle(error: DBAPIError) -> bool:
    original = getattr(error.orig, "__cause__", None) or error.orig
    return isinstance(original, asyncpg.InterfaceError) and "connection is closed" in str(original)
