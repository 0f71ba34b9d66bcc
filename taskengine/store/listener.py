"""One session that LISTENs for a whole process, connected again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

__all__ = ["Listener"]

logger = logging.getLogger("taskengine.store")

RECONNECT_S = 0.2
CHECK_S = 5.0


class Listener:
    """Calls each channel's function with the payload, and `connected` after every connection: some may be missed.

    `prepare(connection)` makes the fresh session ready before it listens.
    """

    def __init__(
        self,
        url: str,
        channels: dict[str, Callable[[str], None]],
        connected: Callable[[], None] | None = None,
        *,
        prepare: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self._url = url
        self._channels = channels
        self._connected = connected
        self._prepare = prepare
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="listener")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        failing = False
        while True:
            started = time.monotonic()
            connection = None
            try:
                connection = await asyncpg.connect(
                    self._url, timeout=5, server_settings={"application_name": "taskengine listener"}
                )
                if failing:
                    logger.info("listening for changes again")
                failing = False
                await self._listen(connection)
            except Exception as error:  # whatever it is: without this session a worker has no presence
                if not failing:
                    logger.warning("the session that listens for changes broke (%s)", type(error).__name__)
                failing = True
            finally:
                if connection is not None:
                    connection.terminate()
            # At once after a session that had lasted: a presence lock must not be missed for a second.
            if time.monotonic() - started < RECONNECT_S:
                await asyncio.sleep(RECONNECT_S)

    async def _listen(self, connection: Any) -> None:
        broken = asyncio.Event()
        connection.add_termination_listener(lambda _: broken.set())

        def heard(_connection: Any, _pid: int, channel: str, payload: str) -> None:
            self._channels[channel](payload)

        if self._prepare is not None:
            await self._prepare(connection)
        for channel in self._channels:
            await connection.add_listener(channel, heard)
        if self._connected is not None:
            self._connected()
        while not broken.is_set():
            try:
                await asyncio.wait_for(broken.wait(), CHECK_S)
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=CHECK_S)  # a half-open session answers nothing
