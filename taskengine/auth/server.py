"""One authorization server: where its keys and its introspection are, found out once and kept."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from taskengine.auth.config import Issuer
from taskengine.auth.discovery import Endpoints, discover
from taskengine.auth.fetch import Fetcher
from taskengine.auth.keys import PAUSE_S, KeySet
from taskengine.errors import IssuerUnavailable

__all__ = ["AuthorizationServer"]

KEPT_S = 3_600.0


class AuthorizationServer:
    def __init__(self, config: Issuer, fetcher: Fetcher) -> None:
        self.config = config
        self.keys = KeySet(config.issuer, self._fetch_keys)
        self._fetcher = fetcher
        self._endpoints: Endpoints | None = None
        self._found_at = self._tried_at = -float("inf")
        self._trouble: IssuerUnavailable | None = None
        self._finding = asyncio.Lock()

    async def close(self) -> None:
        await self.keys.close()

    async def introspection_url(self) -> str:
        """Raises IssuerUnavailable."""
        url = self.config.introspection_url or (await self._metadata()).introspection
        if url is None:
            raise IssuerUnavailable(self.config.issuer, "its metadata names no introspection: set introspection_url")
        return url

    async def _fetch_keys(self) -> dict[str, Any]:
        url = self.config.jwks_url or (await self._metadata()).keys
        if url is None:
            raise IssuerUnavailable(self.config.issuer, "its metadata names no keys: set jwks_url")
        return await self._fetcher.get(url)

    async def _metadata(self) -> Endpoints:
        """What the server said of itself within the last hour; what it said before, while it cannot be asked."""
        async with self._finding:
            now = time.monotonic()
            if self._endpoints is not None and now - self._found_at < KEPT_S:
                return self._endpoints
            if now - self._tried_at >= PAUSE_S:
                self._tried_at = now
                try:
                    self._endpoints = await discover(self._fetcher, self.config.issuer)
                    self._found_at, self._trouble = now, None
                except IssuerUnavailable as error:
                    self._trouble = error
            if self._endpoints is not None:
                return self._endpoints
            assert self._trouble is not None, "what was tried either came or failed"
            raise self._trouble
