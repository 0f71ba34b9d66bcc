"""How many streams an owner has open, counted for all front ends together on the broker's Redis.

Each open stream is an entry in the sorted set of its owner, whose score is when it runs out, by the clock of Redis. The
front end that has the stream renews it, and takes it out at the end; the entries of one that was killed run out. Where
Redis is away, each front end counts its own (see `shared`), and says what it has when Redis is back.

A stream may have a name: while the next of that name takes its place, perhaps at another front end, both are one. A
third is none any more: whoever opens it before the first has ended does not mean to take its place.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from redis.asyncio import Redis

from taskengine.server.shared import Away, Shared, digest

__all__ = ["Streams", "TooMany"]

logger = logging.getLogger("taskengine.server")

LASTS_S = 30.0
"""How long an entry counts that nobody renews."""
RENEW_S = 10.0
RENEWED_AT_ONCE = 100
OF_ONE_NAME = 2

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "
# `mine` is the score that a front end has given an entry last: with another one it is somebody else's by now, of the
# same name. So scores always differ.
_ENTER = f"""{_NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local found = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not found and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
local mine = math.max(now + ARGV[2], (tonumber(found or 0)) + 1)
redis.call('ZADD', KEYS[1], string.format('%d', mine), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
return mine"""
_RENEW = f"""{_NOW}
local found = redis.call('ZSCORE', KEYS[1], ARGV[1])
if found and tonumber(found) > now and tonumber(found) ~= tonumber(ARGV[3]) then return tonumber(ARGV[3]) end
local mine = math.max(now + ARGV[2], (tonumber(found or 0)) + 1)
redis.call('ZADD', KEYS[1], string.format('%d', mine), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
return mine"""
_LEAVE = """
local found = redis.call('ZSCORE', KEYS[1], ARGV[1])
if found and tonumber(found) == tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0"""


class TooMany(Exception):
    """The owner has as many open as it may."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most


class _Entry:
    """One open stream of this front end."""

    def __init__(self, key: str, name: str) -> None:
        self.key, self.name = key, name
        self.mine = 0
        """0 as long as Redis does not know it."""
        self.entered = False
        """It is open: before, Redis is being asked whether it may be."""
        self.over = False


class Streams:
    """Of one front end."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._redis: Redis | None = None if shared.pool is None else Redis(connection_pool=shared.pool)
        if self._redis is not None:
            self._enter, self._renew, self._leave = map(self._redis.register_script, (_ENTER, _RENEW, _LEAVE))
        self._open: dict[str, set[_Entry]] = {}
        """By the key of the owner."""
        self._renewing: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self, owner: str, most: int, name: str | None = None) -> AsyncIterator[None]:
        """A stream that stays open meanwhile; `most` may be. Raises TooMany."""
        key = f"{self._shared.prefix}:streams:{digest(owner)}"
        entry = _Entry(key, secrets.token_hex(16) if name is None else digest(name))
        here = self._open.setdefault(key, set())
        if name is not None and sum(each.name == entry.name for each in here) >= OF_ONE_NAME:
            raise TooMany(most)
        here.add(entry)
        try:
            if not await self._enters(entry, most):
                raise TooMany(most)
            entry.entered = True
            if self._redis is not None and self._renewing is None:
                self._renewing = asyncio.get_running_loop().create_task(
                    self._renew_for_ever(), name="streams", context=contextvars.Context()
                )
            yield
        finally:
            here.discard(entry)
            if not here:
                self._open.pop(key, None)
            entry.over = True
            if entry.mine:
                leaving = asyncio.get_running_loop().create_task(self._leaves(entry))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
                await asyncio.shield(leaving)

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
            self._renewing = None
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _enters(self, entry: _Entry, most: int) -> bool:
        if self._redis is not None:
            with suppress(Away):
                entry.mine = await self._ask(self._enter, entry, int(LASTS_S * 1000), most)
                return entry.mine > 0
        return len({each.name for each in self._open[entry.key]}) <= most

    async def _leaves(self, entry: _Entry) -> None:
        with suppress(Away):  # then it runs out
            await self._ask(self._leave, entry, entry.mine)

    async def _ask(self, script: Any, entry: _Entry, *values: int) -> int:
        return int(await self._shared.ask(lambda: script(keys=[entry.key], args=[entry.name, *values])))

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._renew_all()
            except Exception:  # every stream of this front end counts on it
                logger.exception("open streams could not be renewed; it is tried again")

    async def _renew_all(self) -> None:
        entries = [entry for here in self._open.values() for entry in here if entry.entered]
        for first in range(0, len(entries), RENEWED_AT_ONCE):
            some = entries[first : first + RENEWED_AT_ONCE]
            with suppress(Away):
                scores = await self._shared.ask(partial(self._renewed, some))
                for entry, mine in zip(some, scores, strict=True):
                    entry.mine = int(mine)
                    if entry.over:  # it has ended since
                        await self._leaves(entry)

    async def _renewed(self, entries: list[_Entry]) -> list[Any]:
        assert self._redis is not None
        async with self._redis.pipeline(transaction=False) as pipeline:
            for entry in entries:
                values: list[str | int] = [entry.name, int(LASTS_S * 1000), entry.mine]
                await self._renew(keys=[entry.key], args=values, client=pipeline)
            return await pipeline.execute()
