"""Journal entries on their way to the store: what comes while a write is under way goes with the next one.

So a function that does one thing after the other pays one statement for each, and one that does a thousand side by side
pays a few for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from taskengine.records import Entry, NewTask

__all__ = ["Recorder"]

BATCH = 500

Write = Callable[[Sequence[Entry], Sequence[NewTask]], Awaitable[None]]


class Recorder:
    """Of one attempt, whose way to write comes with each entry: kept, it would make both a circle."""

    def __init__(self) -> None:
        self._entries: list[tuple[Entry, NewTask | None, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, write: Write, entry: Entry, child: NewTask | None = None) -> None:
        """It is stored when this returns. Raises what the write raised."""
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        self._entries.append((entry, child, stored))
        if self._writer is None:
            self._writer = loop.create_task(self._write_all(write))
        await asyncio.shield(stored)

    async def _write_all(self, write: Write) -> None:
        try:
            while self._entries:
                batch, self._entries = self._entries[:BATCH], self._entries[BATCH:]
                error: BaseException | None = None
                try:
                    await write([entry for entry, _, _ in batch], [child for _, child, _ in batch if child is not None])
                except asyncio.CancelledError:
                    raise
                except BaseException as raised:  # signals are for those who wait
                    error = raised
                for _, _, stored in batch:
                    if error is None:
                        stored.set_result(None)
                    else:
                        stored.set_exception(error)
                        stored.exception()  # whoever waited may have been cancelled
        finally:
            self._writer = None
