"""How often an owner may do something, counted for all front ends together on the broker's Redis.

Where that is away, each front end counts for itself (see `shared`). The counting is the `limits` library's: a sliding
window. Whoever asks often is counted a few ahead in one script, by twice as many each time that those were used up at
once: up to a fiftieth of his rate, which a front end that he leaves keeps back from him.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.storage.redis import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from taskengine.server.shared import Away, Shared, digest

__all__ = ["Rates"]

AHEAD_S = 5.0
"""For how long what was counted ahead may be used."""
AHEAD_SHARE = 50
AHEAD_MOST = 64
MOST_OWNERS = 10_000


@dataclass(slots=True)
class _Ahead:
    """What an owner was counted for and has not used."""

    size: int
    left: int
    until: float


class Rates:
    def __init__(self, shared: Shared) -> None:
        self._redis = shared
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._ahead: OrderedDict[tuple[RateLimitItem, str, str], _Ahead] = OrderedDict()
        self._shared: SlidingWindowCounterRateLimiter | None = None
        if shared.pool is not None:
            options: dict[str, Any] = {"connection_pool": shared.pool}
            url = f"async+{shared.url}"
            storage = RedisStorage(url, implementation="redispy", key_prefix=shared.prefix, **options)
            self._shared = SlidingWindowCounterRateLimiter(storage)

    async def hit(self, rate: RateLimitItem, what: str, owner: str) -> float | None:
        """Count one more of `what`. None when it is within the rate, else the seconds after which one may be."""
        key = (rate, what, digest(owner))
        now = time.monotonic()
        before = self._ahead.get(key)
        quick = before is not None and now < before.until
        if before is not None and quick and before.left:
            before.left -= 1
            return None
        most = max(1, min(AHEAD_MOST, rate.amount // AHEAD_SHARE))
        size = min(most, 2 * before.size) if before is not None and quick else 1
        if before is not None and size > 1:
            before.until = 0.0  # those that come meanwhile are counted one by one
        retry_s = await self._count(*key, size)
        if retry_s is not None and size > 1:
            size, retry_s = 1, await self._count(*key, 1)
        held = self._ahead.get(key)
        left = held.left if held is not None and now < held.until else 0
        if retry_s is None and (size > 1 or not left):
            self._ahead[key] = _Ahead(size, size - 1 + left, now + AHEAD_S)
            self._ahead.move_to_end(key)
            if len(self._ahead) > MOST_OWNERS:
                self._ahead.popitem(last=False)
        return retry_s

    async def _count(self, rate: RateLimitItem, what: str, name: str, many: int) -> float | None:
        if self._shared is not None:
            try:
                return await self._redis.ask(partial(_hit, self._shared, rate, what, name, many))
            except Away:
                pass
        return await _hit(self._own, rate, what, name, many)


async def _hit(
    limiter: SlidingWindowCounterRateLimiter, rate: RateLimitItem, what: str, name: str, many: int
) -> float | None:
    if await limiter.hit(rate, what, name, cost=many):
        return None
    window = await limiter.get_window_stats(rate, what, name)
    # A window that slides lets one more pass sooner than at its end.
    return max(1.0, math.ceil((window.reset_time - time.time()) / max(1, rate.amount)))
