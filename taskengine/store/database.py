"""One process's way to Postgres: short statements, transactions, and their failures in one class.

Statements come as SQLAlchemy builds them and are run by asyncpg (see `statements`). A statement outside a transaction
is one round trip and commits by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Executable, Integer, bindparam, exists, func, literal_column, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from taskengine.errors import EngineError, StoreUnavailable
from taskengine.settings import Settings
from taskengine.store.pool import Pool
from taskengine.store.sealing import Sealing
from taskengine.store.statements import Prepared, compiled, prepared

__all__ = ["Database", "Row", "Rows", "Transaction", "deadlocked", "driver_url", "held_up", "reason", "unavailable"]

_T = TypeVar("_T")

CONNECT_TIMEOUT_S = 5
COMMAND_TIMEOUT_S = 30
POOL_TIMEOUT_S = 5
AGAIN_AFTER_S = (0.02, 0.1)
IDLE_IN_TRANSACTION_S = 5
"""A client that stands still in the middle of a transaction holds locks; after this time Postgres ends its session."""
_BEGIN = f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s'"
"""In one message, and for this transaction alone: so it costs no round trip, and works behind a transaction pooler."""
LOOK_S = 1.0
BLIND_S = 5.0
"""After this time a session that cannot be looked at counts as blocked."""

_PLANNING = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}
"""Each statement is made to be found by an index, whatever its values, and is planned once per session.

Left to itself, PostgreSQL takes some for better planned anew at each execution, which costs more than executing them;
keeps a plan from when a table was nearly empty; and compiles what it believes to be expensive.
"""

# SQLSTATE classes after which the same statement may succeed later: connection, resources, operator intervention,
# read-only standby, idle in a transaction, serialisation, deadlock, lock timeout.
# Besides what an operator has to do first.
_PASSING = ("08", "53", "57", "25006", "25P03", "40001", "40P01", "55P03")
# Of these, what one of several statements may have met by itself: a serialisation failure, a deadlock, a lock that was
# not to be had, a statement that was cancelled for its time.
_HELD_UP = {"40001", "40P01", "55P03", "57014"}
_TO_DO = {
    "42P01": "its schema is missing or old: run `taskengine migrate`",
    "42703": "its schema is old: run `taskengine migrate`",
    "3D000": "there is no such database on the server: create it",
    "28P01": "it refuses the password",
    "28000": "it refuses the user",
}


def driver_url(url: str) -> URL:
    """The address for SQLAlchemy's asyncpg dialect, for migrations; a Unix socket directory may stand in `?host=`.

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
    original = _original(error)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(original, asyncpg.InterfaceError) and isinstance(original, ValueError):
        return False  # asyncpg refuses an argument: it will do so again
    if isinstance(original, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return True
    return _sqlstate(error).startswith(_PASSING) or _sqlstate(error) in _TO_DO


def reason(error: BaseException) -> str:
    """A few words for people, without addresses or secrets."""
    if _sqlstate(error) in _TO_DO:
        return _TO_DO[_sqlstate(error)]
    return type(_original(error)).__name__


def deadlocked(error: BaseException) -> bool:
    """It was the victim of a deadlock, and has changed nothing."""
    return _sqlstate(error) == "40P01"


def held_up(error: BaseException) -> bool:
    """By what others do: of several statements that went together, some might have been done alone."""
    cause = error.__cause__
    return cause is not None and (isinstance(cause, Blocked) or _sqlstate(cause) in _HELD_UP)


def _sqlstate(error: BaseException) -> str:
    return str(getattr(_original(error), "sqlstate", None) or "")


def _original(error: BaseException) -> BaseException:
    """The driver's error inside SQLAlchemy's, which only migrations meet."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    return error.orig.__cause__ or error.orig


class Blocked(TimeoutError):
    """Statements have waited long for what another session has locked."""


_PID = bindparam("pid", type_=Integer)
_IS_BLOCKED = prepared(
    select(
        (func.cardinality(func.pg_blocking_pids(_PID)) > 0).label("blocked"),
        exists(select(literal_column("1")).select_from(func.pg_stat_get_activity(_PID))).label("known"),
    )
)


class Row(asyncpg.Record):  # type: ignore[misc]  # asyncpg has no types
    """One row: a mapping whose values are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Rows(list[Any]):
    """What a statement returned."""

    def one_or_none(self) -> Any:
        """The only row, None when there is none."""
        if not self:
            return None
        (row,) = self
        return row

    def one(self) -> Any:
        """The only row, which must be there."""
        (row,) = self
        return row

    def scalar_one_or_none(self) -> Any:
        """The first value of the only row, None when there is none."""
        row = self.one_or_none()
        return None if row is None else row[0]

    def scalar_one(self) -> Any:
        """The first value of the only row, which must be there."""
        (row,) = self
        return row[0]


class Transaction:
    """Statements on one connection that commit together."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, statement: Executable | Prepared, values: Mapping[str, Any] | None = None) -> Rows:
        sql, arguments = _text(statement, values or {})
        return Rows(await self._connection.fetch(sql, *arguments))

    async def execute_many(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """An INSERT, once for each of `rows`, in one round trip; all have the same members."""
        columns = list(rows[0])
        texts = [compiled(statement, row, columns) for row in rows]
        await self._connection.executemany(texts[0][0], [arguments for _, arguments in texts])


class Database:
    """The connections of one process, made for the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.database_url.get_secret_value()
        self.sealing = Sealing(settings.key_ring())
        """How the payloads of this database are stored; for the store's nouns."""
        self.audits = settings.audit
        """Whether what changes a task is recorded with it."""
        self._cache = {} if settings.prepared_statements else {"statement_cache_size": 0}
        self._planning = _PLANNING
        self._size = settings.database_pool
        self._pool = Pool(self._connect, self._size, POOL_TIMEOUT_S)

    async def _connect(self) -> Any:
        planning = self._planning
        try:
            return await self._connected()
        except asyncpg.ProtocolViolationError:
            if not planning:
                raise
            self._planning = {}  # a pooler lets no client set these: it goes without
            return await self._connected()

    async def _connected(self) -> Any:
        return await asyncpg.connect(
            self.url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings={"application_name": "taskengine", "timezone": "UTC", **self._planning},
            record_class=Row,
            **self._cache,
        )

    async def run(self, statement: Executable | Prepared, values: Mapping[str, Any] | None = None) -> Rows:
        """Execute one statement that commits by itself. Raises StoreUnavailable."""
        sql, arguments = _text(statement, values or {})
        return Rows(await self._on_one(lambda connection: connection.fetch(sql, *arguments)))

    async def run_many(
        self, statement: Prepared, groups: Sequence[Sequence[Mapping[str, Any]]], patience_s: float | None = None
    ) -> Rows:
        """Execute it for all of these values, in one round trip and one commit; the rows of all, in their order unless
        it is done together. Each group sees what those before it did.

        When one is refused, none is done; and so it is when they wait for a lock longer than `patience_s`, as nearly
        as that can be seen. Raises StoreUnavailable.
        """
        sql, executions = statement.executions([group for group in groups if group])
        if not executions:
            return Rows()

        async def work(connection: Any) -> Any:
            if len(executions) == 1:
                many = connection.fetch(sql, *executions[0])
            else:
                many = connection.fetchmany(sql, executions)
            return await (many if patience_s is None else self._unless_blocked(connection, many, patience_s))

        return Rows(await self._on_one(work))

    async def _unless_blocked(self, connection: Any, work: Awaitable[_T], patience_s: float) -> _T:
        """What `work` on the connection gives. Raises Blocked."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        doing = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({doing}, timeout=patience_s))[0]:
                blocked = await self._is_blocked(connection.get_server_pid())
                if not doing.done() and (loop.time() - began > BLIND_S if blocked is None else blocked):
                    raise Blocked
            return doing.result()
        finally:
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})

    async def _is_blocked(self, pid: int) -> bool | None:
        """Whether the session waits for another's lock; None when that is not known: there is no connection to ask
        by, or the session is that of a pooler."""
        try:
            async with asyncio.timeout(LOOK_S):
                seen = (await self.run(_IS_BLOCKED, {"pid": pid})).one()
        except (StoreUnavailable, TimeoutError):
            return None
        return bool(seen.blocked) if seen.known else None

    async def _on_one(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        """A connection that Postgres closed while it was idle (a restart) is replaced and the work tried again: nothing
        had been sent, so nothing was done twice. All that were idle then may have been."""
        try:
            for _ in range(self._size):
                try:
                    return await self._once(work)
                except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                    if not _was_closed_while_idle(error):
                        raise
            return await self._once(work)
        except Exception as error:
            if unavailable(error):
                raise StoreUnavailable(reason(error)) from error
            raise

    async def _take(self) -> Any:
        """A connection. One that is not to be had in time is no statement that took too long."""
        try:
            return await self._pool.take()
        except TimeoutError as error:
            raise ConnectionError("no connection in time") from error

    async def _once(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        connection = await self._take()
        try:
            done = await work(connection)
        except BaseException as error:
            if isinstance(error, asyncpg.PostgresError) and not unavailable(error):
                self._pool.give_back(connection)
            else:  # cancelled, out of time, cut off: whatever it was doing, nobody waits for it
                self._pool.drop(connection)
            raise
        self._pool.give_back(connection)
        return done

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Several statements that commit together. Raises StoreUnavailable, also from the commit.

        A process that is frozen or lost in between keeps its locks for `IDLE_IN_TRANSACTION_S` at most, and nothing of
        it is committed.
        """
        try:
            connection = await self._take()
            try:
                await connection.execute(_BEGIN)
                yield Transaction(connection)
                await connection.execute("COMMIT")
            except (asyncpg.PostgresError, EngineError):
                await self._roll_back(connection)
                raise
            except BaseException:
                self._pool.drop(connection)
                raise
            self._pool.give_back(connection)
        except Exception as error:
            if unavailable(error):
                raise StoreUnavailable(reason(error)) from error
            raise

    async def _roll_back(self, connection: Any) -> None:
        try:
            await connection.execute("ROLLBACK")
        except BaseException as error:
            self._pool.drop(connection)
            if not isinstance(error, Exception):
                raise
        else:
            self._pool.give_back(connection)

    async def twice(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do `work`, a transaction, and again when its connection was closed while idle, or it met a deadlock.

        After a moment: whoever waited for what the victim of a deadlock had locked is to have it first.
        """
        for pause_s in AGAIN_AFTER_S:
            try:
                return await work()
            except StoreUnavailable as error:
                cause = error.__cause__  # the victim of a deadlock has changed nothing
                if cause is None or not (_was_closed_while_idle(cause) or deadlocked(cause)):
                    raise
            await asyncio.sleep(pause_s)
        return await work()

    async def close(self) -> None:
        await self._pool.close()


def _text(statement: Executable | Prepared, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
    if isinstance(statement, Prepared):
        return statement.sql, statement.arguments(values)
    return compiled(statement, values)


def _was_closed_while_idle(error: BaseException) -> bool:
    """Also while its end is still being read: the driver is not ready for anything then, and says so."""
    if isinstance(error, asyncpg.InternalClientError):
        return "another operation (2) is in progress" in str(error)  # 2: it reads on after an error
    return isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error)
