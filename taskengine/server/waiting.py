"""Waiting for a task on behalf of a client that does not poll. Neutral of any wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.records import TaskRecord
from taskengine.server.service import Service
from taskengine.store.changes import Watch

__all__ = ["Report", "follow"]

Report = Callable[[TaskRecord], Awaitable[None]]
"""Tells the client how far the task is."""

LOOK_AGAIN_S = 30.0
RETRY_S = 0.5
LONGEST_OUTAGE_S = 30.0


async def follow(
    service: Service,
    owner: str,
    record: TaskRecord,
    watch: Watch,
    *,
    within_s: float | None = None,
    report: Report | None = None,
) -> TaskRecord:
    """The task once it no longer works, or as it was last seen when the time is over.

    A database that is away for a while is waited for; a wait without a limit then raises StoreUnavailable.
    """
    loop = asyncio.get_running_loop()
    until = None if within_s is None else loop.time() + within_s
    while record.status is Status.WORKING:
        if report is not None:
            await report(record)
        left = LOOK_AGAIN_S if until is None else min(LOOK_AGAIN_S, until - loop.time())
        if left <= 0:
            break
        await watch.next(left)
        outage_ends = loop.time() + LONGEST_OUTAGE_S if until is None else min(loop.time() + LONGEST_OUTAGE_S, until)
        while True:
            try:
                record = await service.store.tasks.get(record.id, owner)
            except StoreUnavailable:
                if loop.time() < outage_ends:
                    await asyncio.sleep(RETRY_S)
                    continue
                if until is None:
                    raise
            break
    return record
