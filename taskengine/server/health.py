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
KEPT_S = 1.0
"""How long an answer is given again. Anybody may ask, as often as he likes: it must not cost more than this."""


class Health:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._looking: asyncio.Task[dict[str, str]] | None = None
        self._good_until = 0.0

    async def healthz(self, _: Request) -> JSONResponse:
        """200: the process serves, whatever becomes of what it needs."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> JSONResponse:
        """200 when the database, its schema and the broker are as they should be, else 503 with what is not; as of a
        second ago at most."""
        if not self._service.started:
            await self._service.start()
        found = await self._found()
        ready = all(answer == "ok" for answer in found.values()) and not self._service.stopping
        status = "stopping" if self._service.stopping else "ready" if ready else "not ready"
        return JSONResponse({"status": status, "checks": found}, 200 if ready else 503)

    async def _found(self) -> dict[str, str]:
        """One look for all who ask at a time; whoever goes away meanwhile ends it for nobody else."""
        loop = asyncio.get_running_loop()
        looking = self._looking
        if looking is None or looking.get_loop() is not loop or (looking.done() and loop.time() >= self._good_until):
            looking = self._looking = loop.create_task(self._look(), name="health")
        return await asyncio.shield(looking)

    async def _look(self) -> dict[str, str]:
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "database": self._database,
            "schema": self._schema,
            "broker": self._broker,
        }
        try:
            return dict(zip(checks, await asyncio.gather(*map(_answer, checks.items())), strict=True))
        finally:
            self._good_until = asyncio.get_running_loop().time() + KEPT_S

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
