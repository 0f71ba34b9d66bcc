"""What a running call tells its client beside the answer, as far as it asked for it and in bearable amounts."""

from __future__ import annotations

import time
from typing import Any

from taskengine.clientlog import LEVELS
from taskengine.server.exchange import Exchange
from taskengine.wire import modern
from taskengine.wire.modern import Envelope

__all__ = ["Reporter"]

PROGRESS_PAUSE_S = 0.02
LOG_BURST = 200
LOG_RATE = 50.0


class Reporter:
    """Progress for a `progressToken` and log lines for a `logLevel`; without them nothing is sent (M-LOG-01)."""

    def __init__(self, exchange: Exchange, envelope: Envelope) -> None:
        self._exchange = exchange
        self._token = envelope.progress_token
        self._least = LEVELS.index(envelope.log_level) if envelope.log_level in LEVELS else len(LEVELS)
        self._last: float | None = None
        self._last_at = 0.0
        self._lines = float(LOG_BURST)
        self._lines_at = time.monotonic()

    @property
    def wants_progress(self) -> bool:
        return self._token is not None

    def wants(self, level: str) -> bool:
        return LEVELS.index(level) >= self._least

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Sent when it has grown (X-PROG-02), at most fifty times a second (X-PROG-04); the end is always sent."""
        if self._token is None or (self._last is not None and progress <= self._last):
            return
        now = time.monotonic()
        if now - self._last_at < PROGRESS_PAUSE_S and not (total is not None and progress >= total):
            return
        self._last, self._last_at = progress, now
        await self._exchange.notify(modern.progress_notification(self._token, progress, total, message))

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
        await self._exchange.notify(modern.message_notification(level, data, logger))
