"""Calls made straight through the store and the bell, for tests of workers without a front end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from taskengine.engine import TaskEngine
from taskengine.jobs.bell import Bell
from taskengine.records import NewTask, TaskRecord
from taskengine.settings import Settings
from taskengine.store import Store
from tests.apps.app import engine

OWNER = "ann"
PATIENCE_S = 60


class Calls:
    def __init__(self, store: Store, bell: Bell, app: TaskEngine = engine) -> None:
        self.store = store
        self.bell = bell
        self.engine = app

    async def submit(self, name: str, *, ring: bool = True, **arguments: Any) -> str:
        tool = self.engine.get_tool(name)
        assert tool is not None
        new = NewTask(
            id=f"tsk_{secrets.token_urlsafe(24)}",
            owner=OWNER,
            tool=name,
            queue=tool.route,
            arguments=arguments,
            capabilities={"elicitation": {}},
            ttl_ms=3_600_000,
            poll_interval_ms=30_000,
        )
        record, doorbell = await self.store.tasks.create(new)
        assert doorbell is not None
        if ring:
            self.bell.ring(doorbell)
        return record.id

    async def answer(self, task_id: str, **responses: Any) -> None:
        doorbell = await self.store.inputs.answer(task_id, OWNER, responses)
        if doorbell is not None:
            self.bell.ring(doorbell)

    async def until(self, task_id: str, reached: Callable[[TaskRecord], bool]) -> TaskRecord:
        """The record once `reached` holds for it."""
        async with asyncio.timeout(PATIENCE_S), self.store.changes.watch([task_id]) as watch:
            while True:
                record = await self.store.tasks.get(task_id, OWNER)
                if reached(record):
                    return record
                await watch.next(1)

    async def end(self, task_id: str) -> TaskRecord:
        return await self.until(task_id, lambda record: record.terminal)

    async def call(self, name: str, **arguments: Any) -> TaskRecord:
        return await self.end(await self.submit(name, **arguments))


@asynccontextmanager
async def calls_on(settings: Settings, app: TaskEngine = engine) -> AsyncIterator[Calls]:
    store, bell = await Store.open(settings), Bell(settings)
    bell.start()
    try:
        yield Calls(store, bell, app)
    finally:
        bell.stop()
        await store.close()
