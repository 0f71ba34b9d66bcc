"""The periodic repairs, run inside every worker: dead workers, lost doorbells, retention.

Each chore is a statement of the store that takes its rows with SKIP LOCKED, so any number of janitors may run. A chore
that fails is tried again at its next turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from taskengine.content import encode_json
from taskengine.errors import StoreUnavailable
from taskengine.jobs.bell import Bell, BrokerUnavailable
from taskengine.points import point
from taskengine.settings import Settings
from taskengine.store import Store

__all__ = ["Janitor"]

logger = logging.getLogger("taskengine.jobs")

SECOND = timedelta(seconds=1)
UNHEARD_S = 2.0
"""A task that nobody claimed this long after its doorbell may have lost it."""
RING_BATCH = 1000
SWEEP_BATCH = 1000
AUDIT_BATCH = 5000
ORPHANS_EVERY = 10
"""Turns between looks for tasks whose holder is not even registered, which a claim hardly leaves behind."""
BETWEEN_BATCHES_S = 0.05
LEAST_NAP_S = 0.02
EXPIRED = {"code": -31001, "message": "Nobody answered the task's questions in time"}


class Janitor:
    def __init__(self, store: Store, bell: Bell, settings: Settings) -> None:
        self._store = store
        self._bell = bell
        self._settings = settings
        self._tasks: list[asyncio.Task[None]] = []
        self._turn = 0

    def start(self) -> None:
        chores: list[tuple[Callable[[], Awaitable[None]], timedelta]] = [
            (self.bury, SECOND),
            (self.relay, SECOND),
            (self.wake, timedelta(0)),
            (self.wake_parents, SECOND),
            (self.cancel_orphans, SECOND),
            (self.free, 2 * SECOND),
            (self.extend, 5 * SECOND),
            (self.sweep, 10 * SECOND),
            (self.expire, 60 * SECOND),
            (self.forget, 60 * SECOND),
        ]
        for chore, interval in chores:
            self._tasks.append(asyncio.get_running_loop().create_task(self._repeat(chore, interval)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, chore: Callable[[], Awaitable[None]], interval: timedelta) -> None:
        while True:
            try:
                await chore()
            except (StoreUnavailable, BrokerUnavailable) as error:
                logger.debug("%s waits: %s", chore.__name__, error)
                await asyncio.sleep(1)
            except Exception:
                logger.exception("%s failed; it is tried again", chore.__name__)
                await asyncio.sleep(1)
            await asyncio.sleep(interval.total_seconds())

    async def bury(self) -> None:
        """Find dead workers and make their tasks due again."""
        lease_s = self._settings.lease.total_seconds()
        self._turn += 1
        if not await self._store.workers.look(lease_s) and self._turn % ORPHANS_EVERY:
            return
        reaped = await self._store.workers.reap(lease_s, self._settings.max_crashes)
        if reaped.workers:
            point("bury.committed")
        for worker in reaped.workers:
            logger.warning("worker %s is dead", worker)
        for doorbell in reaped.doorbells:
            logger.warning("task %s lost attempt %d with its worker", doorbell.task_id, doorbell.attempt - 1)
            self._bell.ring(doorbell)
        for task_id in reaped.failed:
            logger.error("task %s failed: it lost too many attempts", task_id)

    async def relay(self) -> None:
        """Ring again for tasks that wait although their doorbell is not in the broker.

        A long queue is not a lost one: only what Postgres has more than the broker is rung, so a backlog of any length
        is not rung twice.
        """
        due = await self._store.upkeep.due(UNHEARD_S)
        if not due:
            return
        depths = await asyncio.to_thread(self._bell.depths, tuple(due))
        for route, waiting in due.items():
            missing = min(waiting - depths[route], RING_BATCH)
            if missing > 0:
                again = await self._store.upkeep.ring_again(route, UNHEARD_S, missing)
                point("relay.committed")
                for doorbell in again:
                    self._bell.ring(doorbell)

    async def wake(self) -> None:
        """Make tasks due whose time has come, and wait for the next; it is looked for once a second at least."""
        left = await self._store.waits.due_in_s()
        if left is not None and left <= 0:
            for doorbell in await self._store.waits.wake_due():
                self._bell.ring(doorbell)
            left = LEAST_NAP_S
        await asyncio.sleep(SECOND.total_seconds() if left is None else min(max(left, LEAST_NAP_S), 1))

    async def wake_parents(self) -> None:
        """The same for tasks whose children have ended or ask something; their workers do it as well, and sooner."""
        for doorbell in await self._store.waits.wake_parents():
            self._bell.ring(doorbell)

    async def cancel_orphans(self) -> None:
        """Cancel tasks whose caller has ended."""
        await self._store.children.cancel_orphans()

    async def free(self) -> None:
        """Make tasks due that a limit held back and that has room now; the workers that end one do it as well."""
        for doorbell in await self._store.limits.free_all():
            self._bell.ring(doorbell)

    async def extend(self) -> None:
        """Keep the retention of live tasks ahead of them."""
        await self._store.upkeep.extend()

    async def sweep(self) -> None:
        """Delete expired tasks, batch by batch, with room for others between."""
        swept = SWEEP_BATCH
        while swept == SWEEP_BATCH:
            swept = await self._store.upkeep.sweep(SWEEP_BATCH)
            await asyncio.sleep(BETWEEN_BATCHES_S)

    async def expire(self) -> None:
        """Fail tasks whose questions nobody answered within the longest retention."""
        await self._store.upkeep.expire(self._settings.max_ttl.total_seconds(), encode_json(EXPIRED))

    async def forget(self) -> None:
        """Drop sessions and letters that are past their time, and old entries of the audit log."""
        await self._store.sessions.sweep()
        swept = AUDIT_BATCH
        while swept == AUDIT_BATCH:
            swept = await self._store.audit.sweep(self._settings.audit_retention.total_seconds(), AUDIT_BATCH)
            await asyncio.sleep(BETWEEN_BATCHES_S)
