"""How often an owner may do something, counted for all front ends together on the broker's Redis.

Where the broker is RabbitMQ, or Redis is away, each front end counts for itself: a limiter must not be what makes calls
fail. The counting is the `limits` library's: a sliding window, one script per hit.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from typing import Any
from urllib.parse import urlsplit

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.storage.redis import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from taskengine.settings import Settings

__all__ = ["Rates"]

logger = logging.getLogger("taskengine.server")

PATIENCE_S = 1.0
"""How long a call waits for Redis."""
CONNECTIONS = 4
"""A hit takes part of a millisecond: many calls at once had better wait for these than open more."""
AWAY_S = 5.0
"""How long Redis is left alone after it did not answer."""


class Rates:
    """Made for the event loop that uses it; nothing is connected before the first hit."""

    def __init__(self, settings: Settings) -> None:
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._pool: BlockingConnectionPool | None = None
        self._away_until = 0.0
        url = settings.broker_url.get_secret_value()
        if urlsplit(url).scheme.startswith("redis"):
            self._pool = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=PATIENCE_S,
                socket_timeout=PATIENCE_S,
                socket_connect_timeout=PATIENCE_S,
            )
            prefix = f"{settings.namespace}:limits"
            options: dict[str, Any] = {"connection_pool": self._pool}
            storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix=prefix, **options)
            self._shared = SlidingWindowCounterRateLimiter(storage)

    async def hit(self, rate: RateLimitItem, what: str, owner: str) -> float | None:
        """Count one more of `what`. None when it is within the rate, else the seconds after which one may be."""
        name = hashlib.sha256(owner.encode()).hexdigest()[:32]  # whatever an owner is called, a key has no room for it
        if self._shared is not None and time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await _hit(self._shared, rate, what, name)
            except (RedisError, OSError, TimeoutError) as error:
                if time.monotonic() >= self._away_until:  # the first of many that have waited
                    logger.warning("each front end counts rates for itself: Redis is away (%s)", type(error).__name__)
                self._away_until = time.monotonic() + AWAY_S
        return await _hit(self._own, rate, what, name)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.disconnect()


async def _hit(limiter: SlidingWindowCounterRateLimiter, rate: RateLimitItem, what: str, name: str) -> float | None:
    if await limiter.hit(rate, what, name):
        return None
    window = await limiter.get_window_stats(rate, what, name)
    # A window that slides lets one more pass sooner than at its end.
    return max(1.0, math.ceil((window.reset_time - time.time()) / max(1, rate.amount)))
