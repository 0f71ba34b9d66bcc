"""Requests in progress, by session and id, that their client may cancel, with or without a stream (L-CANC-10).

A client that gives up closes its stream and sends `notifications/cancelled`, in either order and to any front end. So
what goes on without its stream is known here for as long as it goes on, or until much else has come.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from taskengine.server.exchange import Exchange
from taskengine.server.legacy.turns import Turn
from taskengine.wire.jsonrpc import RequestId

__all__ = ["Key", "Requests", "Running", "fingerprint"]

_T = TypeVar("_T")

REMEMBERED = 4_096

Key = tuple[str, str]
"""A session and the fingerprint of a request's id: ids are looked up in their own session only (X-CANC-14)."""


class Running:
    """A request whose client waits for the answer on a stream."""

    def __init__(self, exchange: Exchange, on_cancel: Callable[[], None], turn: Turn) -> None:
        self.exchange = exchange
        self.turn = turn
        self._on_cancel = on_cancel

    async def cancel(self) -> None:
        """No response follows, where the form of the answer allows that."""
        if self.exchange.accepts.events:
            await self.exchange.leave()
        else:
            self.exchange.stop()
        self._on_cancel()


class Requests:
    def __init__(self) -> None:
        self._running: dict[Key, Running] = {}
        self._calls: OrderedDict[Key, Callable[[], None]] = OrderedDict()
        self._cancelled: OrderedDict[Key, None] = OrderedDict()

    @contextmanager
    def running(
        self, key: Key, exchange: Exchange, on_cancel: Callable[[], None], turn: Turn | None = None
    ) -> Iterator[Running]:
        """`turn` is that of a stream to which its client came back."""
        if turn is None:
            self._cancelled.pop(key, None)  # of an earlier request, whose client counts from the start again
        running = self._running[key] = Running(exchange, on_cancel, turn or Turn(announced=True))
        try:
            yield running
        finally:
            if self._running.get(key) is running:
                del self._running[key]

    def begin(self, key: Key, on_cancel: Callable[[], None]) -> None:
        """The call goes on when its stream ends."""
        _remember(self._calls, key, on_cancel)

    def end(self, key: Key) -> None:
        self._calls.pop(key, None)

    async def cancel(self, key: Key) -> None:
        """Harmless for what is not here (X-CANC-08)."""
        _remember(self._cancelled, key, None)
        on_cancel = self._calls.pop(key, None)
        running = self._running.get(key)
        if running is not None:
            await running.cancel()
        elif on_cancel is not None:
            on_cancel()

    def was_cancelled(self, key: Key) -> bool:
        """As far as is remembered: there is no stream to come back to."""
        return key in self._cancelled

    async def displace(self, key: Key, turn_id: str | None = None) -> None:
        """The client follows this request on another stream, that of `turn_id`: what is open of it here is closed, so
        that nothing is told twice (L-TRANS-18)."""
        running = self._running.get(key)
        if running is not None and (turn_id is None or running.turn.is_over(turn_id)):
            await running.exchange.leave()


def fingerprint(request_id: RequestId) -> str:
    """Short, and different for 1 and "1"."""
    return hashlib.sha256(json.dumps(request_id).encode()).hexdigest()


def _remember(known: OrderedDict[Key, _T], key: Key, value: _T) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > REMEMBERED:
        known.popitem(last=False)
