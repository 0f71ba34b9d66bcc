"""Calls of tools without tasks that run in this process, kept for clients that come back to their streams.

Those that go on are all kept. Those that ended are kept for a while, and as many as fit into some memory.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Protocol

from taskengine.server.exchange import Exchange
from taskengine.server.legacy.streams import Labelled

__all__ = ["Run", "Runs"]

KEPT_S = 120.0
KEPT_BYTES = 64 << 20


class Run(Protocol):
    """A call that goes on here whoever listens."""

    @property
    def id(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes that are kept of it, roughly."""
        ...

    def cancel(self) -> None: ...

    async def outcome(self) -> Any:
        """Its result, once it has ended. Raises what it ended with."""
        ...

    async def serve(self, exchange: Exchange, framing: Labelled) -> Any: ...


class Runs:
    def __init__(self) -> None:
        self._going: dict[str, Run] = {}
        self._ended: OrderedDict[str, Run] = OrderedDict()

    def __len__(self) -> int:
        return len(self._going) + len(self._ended)

    def get(self, run_id: str) -> Run | None:
        return self._going.get(run_id) or self._ended.get(run_id)

    def begin(self, run: Run) -> None:
        self._going[run.id] = run

    def end(self, run: Run) -> None:
        """It ended; its client may still come back for the rest."""
        if self._going.pop(run.id, None) is None:
            return
        self._ended[run.id] = run
        while sum(each.size for each in self._ended.values()) > KEPT_BYTES:
            self._ended.popitem(last=False)
        asyncio.get_running_loop().call_later(KEPT_S, self._ended.pop, run.id, None)

    def forget(self, run_id: str) -> None:
        """Its client has everything."""
        self._going.pop(run_id, None)
        self._ended.pop(run_id, None)

    def cancel_all(self) -> None:
        for run in list(self._going.values()):
            run.cancel()
