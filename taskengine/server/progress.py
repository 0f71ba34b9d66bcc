"""What a running call tells its client beside the answer, as far as it asked for it and in bearable amounts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from taskengine.clientlog import LEVELS
from taskengine.wire import modern

__all__ = ["Reporter"]

PROGRESS_PAUSE_S = 0.02
LOG_BURST = 200
LOG_RATE = 50.0


class Listening(Protocol):
    """Whoever is told; an exchange, most of the time."""

    async def notify(self, message: Mapping[str, Any]) -> None: ...


class Wanted(Protocol):
    """What the request asked to be told."""

    @property
    def progress_token(self) -> str | int | None: ...

    @property
    def log_level(self) -> str | None: ...


class Wire(Protocol):
    """How a revision words it."""

    @property
    def progress_notification(self) -> Callable[[str | int, float, float | None, str | None], dict[str, Any]]: ...

    @property
    def message_notification(self) -> Callable[[str, Any, str | None], dict[str, Any]]: ...


class Reporter:
    """Progress for a `progressToken` and log lines for a `logLevel`; without them nothing is sent (M-LOG-01)."""

    def __init__(self, exchange: Listening, wanted: Wanted, wire: Wire = modern, *, told: float | None = None) -> None:
        """`told` is the progress that the client knows of already. The level of `wanted` may change meanwhile."""
        self._exchange = exchange
        self._wire = wire
        self._wanted = wanted
        self._token = wanted.progress_token
        self._last = told
        self._last_at = 0.0
        self._lines = float(LOG_BURST)
        self._lines_at = time.monotonic()

    @property
    def wants_progress(self) -> bool:
        return self._token is not None

    def wants(self, level: str) -> bool:
        least = self._wanted.log_level
        return least in LEVELS and LEVELS.index(level) >= LEVELS.index(least)

    def told_elsewhere(self, progress: float) -> None:
        """Another stream told so much: this one, if it goes on, tells what comes after (X-PROG-02)."""
        self._last = progress if self._last is None else max(self._last, progress)

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Sent when it has grown (X-PROG-02), at most fifty times a second (X-PROG-04); the end is always sent."""
        if self._token is None or (self._last is not None and progress <= self._last):
            return
        now = time.monotonic()
        if now - self._last_at < PROGRESS_PAUSE_S and not (total is not None and progress >= total):
            return
        self._last, self._last_at = progress, now
        await self._exchange.notify(self._wire.progress_notification(self._token, progress, total, message))

    async def log(self, level: str, data: Any, logger: str | None) -> None:
        """Sent at or above the level asked for; a tool that floods loses lines (X-LOG-10)."""
        if not self.wants(level):
            return
        now = time.monotonic()
        self._lines = min(LOG_BURST, self._lines + (now - self._lines_at) * LOG_RATE)
        self._lines_at = now
        if self._lines < 1:
            return
        self._lines -= 1
        await self._exchange.notify(self._wire.message_notification(level, data, logger))
