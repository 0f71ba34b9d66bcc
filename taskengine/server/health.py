"""`/healthz` and `/readyz`, for whoever starts, watches and routes to front ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import cache

from starlette.requests import Request
from starlette.responses import JSONResponse

from taskengine.server.service import Service
from taskengine.store import migrate

__all__ = ["Health"]

logger = logging.getLogger("taskengine.server")

TIMEOUT_S = 3.0


class Health:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def healthz(self, _: Request) -> JSONResponse:
        """200: the process serves, whatever becomes of what it needs."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> JSONResponse:
        """200 when the database, its schema and the broker are as they should be, else 503 with what is not."""
        if not self._service.started:
            await self._service.start()
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "database": self._database,
            "schema": self._schema,
            "broker": self._broker,
        }
        found = dict(zip(checks, await asyncio.gather(*map(_answer, checks.items())), strict=True))
        ready = all(answer == "ok" for answer in found.values()) and not self._service.stopping
        status = "stopping" if self._service.stopping else "ready" if ready else "not ready"
        return JSONResponse({"status": status, "checks": found}, 200 if ready else 503)

    async def _database(self) -> str:
        await self._service.store.health()
        return "ok"

    async def _schema(self) -> str:
        revision = await self._service.store.schema_revision()
        if not _is_behind(revision):
            return "ok"
        return (
            f"the database is at {revision or 'nothing'}, this version needs {migrate.head()}: run taskengine migrate"
        )

    async def _broker(self) -> str:
        await asyncio.to_thread(self._service.bell.check, TIMEOUT_S)
        return "ok"


async def _answer(check: tuple[str, Callable[[], Awaitable[str]]]) -> str:
    name, look = check
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await look()
    except Exception as error:
        logger.warning("not ready: %s: %s", name, str(error) or type(error).__name__)
        return "not available"


@cache
def _is_behind(revision: str | None) -> bool:
    return migrate.is_behind(revision)
