"""The broker's Redis, for what front ends count together.

Where the broker is RabbitMQ, or Redis is away, each front end counts for itself: a limit must not be what makes
requests fail.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from taskengine.settings import Settings

__all__ = ["Away", "Shared", "digest"]

logger = logging.getLogger("taskengine.server")

PATIENCE_S = 1.0
"""How long a request waits for Redis."""
CONNECTIONS = 4
"""A count takes part of a millisecond: many requests at once had better wait for these than open more."""
AWAY_S = 5.0
"""How long Redis is left alone after it did not answer."""

_T = TypeVar("_T")


class Away(Exception):
    """There is no Redis, or it does not answer: count here."""


class Shared:
    """Made for the event loop that uses it; nothing is connected before the first question."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.broker_url.get_secret_value()
        self.prefix = f"{settings.namespace}:limits"
        self.pool: BlockingConnectionPool | None = None
        """None where the broker is no Redis."""
        self._away_until = 0.0
        if urlsplit(self.url).scheme.startswith("redis"):
            self.pool = BlockingConnectionPool.from_url(
                self.url,
                max_connections=CONNECTIONS,
                timeout=PATIENCE_S,
                socket_timeout=PATIENCE_S,
                socket_connect_timeout=PATIENCE_S,
            )

    async def ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """What Redis says, within `PATIENCE_S`. Raises Away."""
        if self.pool is None or time.monotonic() < self._away_until:
            raise Away
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await question()
        except (RedisError, OSError, TimeoutError) as error:
            if time.monotonic() >= self._away_until:  # the first of many that have waited
                logger.warning("each front end counts for itself: Redis is away (%s)", type(error).__name__)
            self._away_until = time.monotonic() + AWAY_S
            raise Away from None

    async def close(self) -> None:
        if self.pool is not None:
            await self.pool.disconnect()


def digest(name: str) -> str:
    """Of whatever an owner or a stream is called: a key has no room for it."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
