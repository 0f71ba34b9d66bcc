"""The connections of one process to Postgres: opened when they are needed, lent one statement or transaction at a time.

asyncpg has a pool of its own, whose care (a reset of the session at each return, a proxy around each connection) costs
more than a read by primary key. Nothing here leaves anything behind in a session, so nothing has to be reset; a
connection that did anything unusual is closed instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

__all__ = ["Pool"]

CLOSE_S = 2.0


class Pool:
    def __init__(self, connect: Callable[[], Awaitable[Any]], size: int, timeout_s: float) -> None:
        """At most `size` connections; whoever waits for one longer than `timeout_s` gets a TimeoutError."""
        self._connect = connect
        self._size = size
        self._timeout_s = timeout_s
        self._open = 0
        self._closed = False
        self._idle: list[Any] = []
        """The one used last is lent next, so that no more are kept busy than are needed."""
        self._all: set[Any] = set()
        """Those that are not closed yet, the lent ones among them."""
        self._came_back = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def take(self) -> Any:
        """A connection that is open as far as is known. Raises what `connect` raises, and TimeoutError."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._all.discard(connection)
            self._open -= 1
        if self._open >= self._size:
            connection = await self._wait()
            if connection is not None:
                return connection
        else:
            self._open += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._leave()
            raise
        if self._closed:  # meanwhile: nobody would close it any more
            connection.terminate()
            self._leave()
            raise ConnectionError("the pool is closed")
        self._all.add(connection)
        return connection

    def give_back(self, connection: Any) -> None:
        """The connection is fit for the next; one that was closed is forgotten."""
        if connection.is_closed() or self._closed:
            self.drop(connection)
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def drop(self, connection: Any) -> None:
        """Close a connection of which it is not known in what state it is; what it was doing is cancelled."""
        self._all.discard(connection)
        self._came_back.set()
        if connection.is_closed():
            self._leave()
            return
        closing = asyncio.get_running_loop().create_task(_close(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closed_one)

    async def close(self) -> None:
        """Idle connections are closed properly, and those that come back within `CLOSE_S`; the rest is cut off."""
        self._closed = True
        idle, self._idle = self._idle, []
        self._open -= len(idle)
        await asyncio.gather(*(_close(connection) for connection in idle))
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._still_open():
                    self._came_back.clear()
                    await self._came_back.wait()
        for connection in self._still_open():
            connection.terminate()
        await asyncio.gather(*self._closing)

    def _still_open(self) -> set[Any]:
        self._all = {connection for connection in self._all if not connection.is_closed()}
        return self._all

    def _closed_one(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        self._leave()

    async def _wait(self) -> Any:
        """A connection that was given back, or None: room for a new one, which is counted already."""
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():  # it was given in the same moment
                if waiter.result() is None:
                    self._leave()
                else:
                    self.give_back(waiter.result())
            raise

    def _leave(self) -> None:
        """One connection less: whoever waits may open another in its place."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._open -= 1


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=CLOSE_S)
    except BaseException as error:  # it is gone all the same
        connection.terminate()
        if not isinstance(error, Exception):
            raise
