"""How often an owner may do something, counted for all front ends together on the broker's Redis.

Where that is away, each front end counts for itself (see `shared`). The counting is the `limits` library's: a sliding
window, one script per hit.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.storage.redis import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from taskengine.server.shared import Away, Shared, digest

__all__ = ["Rates"]


class Rates:
    def __init__(self, shared: Shared) -> None:
        self._redis = shared
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        if shared.pool is not None:
            options: dict[str, Any] = {"connection_pool": shared.pool}
            url = f"async+{shared.url}"
            storage = RedisStorage(url, implementation="redispy", key_prefix=shared.prefix, **options)
            self._shared = SlidingWindowCounterRateLimiter(storage)

    async def hit(self, rate: RateLimitItem, what: str, owner: str) -> float | None:
        """Count one more of `what`. None when it is within the rate, else the seconds after which one may be."""
        name = digest(owner)
        if self._shared is not None:
            try:
                return await self._redis.ask(partial(_hit, self._shared, rate, what, name))
            except Away:
                pass
        return await _hit(self._own, rate, what, name)


async def _hit(limiter: SlidingWindowCounterRateLimiter, rate: RateLimitItem, what: str, name: str) -> float | None:
    if await limiter.hit(rate, what, name):
        return None
    window = await limiter.get_window_stats(rate, what, name)
    # A window that slides lets one more pass sooner than at its end.
    return max(1.0, math.ceil((window.reset_time - time.time()) / max(1, rate.amount)))
