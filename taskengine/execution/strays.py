"""Async tools that ignore their cancellation: what a worker does about runs that it cannot take out of its event loop.

Their attempts are over for everybody else. A stray keeps its slot, so that no more runs at once than may; it is
cancelled again every second, and each call of its context ends it. The only process that could be replaced is the
worker itself, which is worn then: it starts anew as soon as nothing else runs in it, so that no other task is touched.
When strays hold half of the async slots, it does not wait any longer: it drains as for a deploy, and starts anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

__all__ = ["Strays"]

logger = logging.getLogger("taskengine.execution")

CANCEL_EVERY_S = 1.0


class Strays:
    """`others` counts the attempts that run here; `worn` is called once, when the worker should start anew."""

    def __init__(self, slots: int, others: Callable[[], int], worn: Callable[[], None]) -> None:
        self._most = max(1, slots // 2)
        self._others = others
        self._worn = worn
        self._left = asyncio.Event()
        self._said = False
        self.count = 0

    async def outlast(self, stray: asyncio.Task[Any]) -> None:
        """Returns when the stray has ended, or the worker leaves it behind."""
        self.count += 1
        try:
            while not stray.done() and not self._left.is_set():
                self.look()
                stray.cancel()
                left = asyncio.ensure_future(self._left.wait())
                await asyncio.wait({stray, left}, timeout=CANCEL_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                left.cancel()
        finally:
            self.count -= 1

    def look(self) -> None:
        """Whether it is time to start anew."""
        if self.count and not self._said and (self.count >= self._most or not self._others()):
            self._said = True
            logger.error(
                "%d async tools go on after their cancellation: the worker starts anew to be rid of them", self.count
            )
            self._worn()

    def leave(self) -> None:
        """The worker stops: wait for none of them."""
        self._left.set()
