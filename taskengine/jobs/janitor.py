"""The periodic repairs, run inside every worker: dead workers, lost doorbells, timers, retention.

One statement a second asks what there is to do, and a chore begins only when there is something. Each chore is a
statement of the store that takes its rows with SKIP LOCKED, so any number of janitors may run. A chore that fails is
tried again when the next look finds its work still there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from taskengine.content import encode_json
from taskengine.errors import StoreUnavailable
from taskengine.jobs.bell import Bell, BrokerUnavailable
from taskengine.points import point
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.upkeep import Due

__all__ = ["Janitor"]

logger = logging.getLogger("taskengine.jobs")

LOOK_S = 1.0
UNHEARD_S = 2.0
"""A task that nobody claimed this long after its doorbell may have lost it."""
RING_BATCH = 1000
SWEEP_BATCH = 25
"""Deleted in about 2 ms, so that it ends before Postgres's other sessions wait for a core. (Of 500, polls waited 3 ms
longer at the 99th percentile.)"""
BEHIND_BATCH = 500
BEHIND_S = 600.0
"""When for so long no sweep has come to the last of what had expired, they are behind, and take the large batches until
one has."""
SWEEP_PAUSE_S = 0.01
"""Between two batches at least; one that takes longer is followed by as long a pause."""
AUDIT_BATCH = 5000
AUDIT_PAUSE_S = 0.05
THOROUGH_EVERY = 10
"""Looks between those for tasks whose holder is not even registered, which a claim hardly leaves behind."""
FREE_EVERY_S = 2.0
EXTEND_EVERY_S = 5.0
SWEEP_EVERY_S = 10.0
SELDOM_S = 60.0
LEAST_NAP_S = 0.02
AWAY_FROM = 2 / 3
BACK_WITHIN = 1 / 2
"""Of the lease. Who has not reached Postgres for `AWAY_FROM` may not have been the only one. Those others have stopped
their attempts and are about to hand them back, once a renewal that hangs has given up: they are not dead, and nobody is
buried for `BACK_WITHIN`."""
EXPIRED = {"code": -31001, "message": "Nobody answered the task's questions in time"}


class Janitor:
    def __init__(self, store: Store, bell: Bell, settings: Settings) -> None:
        self._store = store
        self._bell = bell
        self._settings = settings
        self._loops: list[asyncio.Task[None]] = []
        self._chores: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._looks = 0
        self._behind_since: float | None = None
        """Since when what had expired has not been swept to the last."""
        self._looked_at = time.monotonic()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._loops = [loop.create_task(work) for work in (self._look_for_ever(), self._work_seldom())]

    async def stop(self) -> None:
        ending = [*self._loops, *self._chores.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _look_for_ever(self) -> None:
        while True:
            await self._try("look", self._look)
            await asyncio.sleep(LOOK_S)

    async def _work_seldom(self) -> None:
        while True:
            await self._try("expire", self.expire)
            await self._try("forget", self.forget)
            await asyncio.sleep(SELDOM_S)

    async def _look(self) -> None:
        self._looks += 1
        lease_s = self._settings.lease.total_seconds()
        due = await self._store.upkeep.look(lease_s, UNHEARD_S, thorough=self._looks % THOROUGH_EVERY == 0)
        looked_at, self._looked_at = self._looked_at, time.monotonic()
        if not due.expired:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._looked_at
        if self._looked_at - looked_at > LOOK_S + lease_s * AWAY_FROM:
            self._not_before["bury"] = self._looked_at + lease_s * BACK_WITHIN
        for name, chore, wanted, pause_s in self._list(due):
            if wanted and name not in self._chores and time.monotonic() >= self._not_before.get(name, 0.0):
                self._not_before[name] = time.monotonic() + pause_s
                self._chores[name] = asyncio.get_running_loop().create_task(self._do(name, chore))

    def _list(self, due: Due) -> tuple[tuple[str, Callable[[], Awaitable[None]], bool, float], ...]:
        """Every chore, whether there is work for it, and how long after its start it may begin again."""
        return (
            ("bury", self.bury, due.dead or due.held_by_nobody, 0.0),
            ("relay", self.relay, due.unheard, 0.0),
            ("wake", self.wake, due.wake_in_s is not None and due.wake_in_s <= LOOK_S, 0.0),
            ("wake_parents", self.wake_parents, due.parents, 0.0),
            ("cancel_orphans", self.cancel_orphans, due.children, 0.0),
            ("free", self.free, due.blocked, FREE_EVERY_S),
            ("extend", self.extend, due.ending, EXTEND_EVERY_S),
            ("sweep", self.sweep, due.expired, SWEEP_EVERY_S),
        )

    async def _do(self, name: str, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._try(name, chore)
        finally:
            del self._chores[name]

    @staticmethod
    async def _try(name: str, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await chore()
        except (StoreUnavailable, BrokerUnavailable) as error:
            logger.debug("%s waits: %s", name, error)
        except Exception:
            logger.exception("%s failed; it is tried again", name)

    async def bury(self) -> None:
        """Find dead workers and make their tasks due again."""
        reaped = await self._store.workers.reap(self._settings.lease.total_seconds(), self._settings.max_crashes)
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
        """Make tasks due whose time has come, one after the other, until the next is further away than a look."""
        left = await self._store.waits.due_in_s()
        while left is not None and left <= LOOK_S:
            if left > 0:
                await asyncio.sleep(max(left, LEAST_NAP_S))
            for doorbell in await self._store.waits.wake_due():
                self._bell.ring(doorbell)
            await asyncio.sleep(LEAST_NAP_S)
            left = await self._store.waits.due_in_s()

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
        """Delete expired tasks, batch by batch, at most half of the time."""
        until, full = None, True
        while full:
            started = time.monotonic()
            behind = self._behind_since is not None and started - self._behind_since > BEHIND_S
            most = BEHIND_BATCH if behind else SWEEP_BATCH
            batch = await self._store.upkeep.sweep(most, until)
            until, full = batch.until, batch.tasks == most
            if 0 < batch.tasks < most:  # of none, another worker may be sweeping
                self._behind_since = None
            await asyncio.sleep(max(SWEEP_PAUSE_S, time.monotonic() - started))

    async def expire(self) -> None:
        """Fail tasks whose questions nobody answered within the longest retention."""
        await self._store.upkeep.expire(self._settings.max_ttl.total_seconds(), encode_json(EXPIRED))

    async def forget(self) -> None:
        """Drop sessions and letters that are past their time, and old entries of the audit log."""
        await self._store.sessions.sweep()
        swept = AUDIT_BATCH
        while swept == AUDIT_BATCH:
            swept = await self._store.audit.sweep(self._settings.audit_retention.total_seconds(), AUDIT_BATCH)
            await asyncio.sleep(AUDIT_PAUSE_S)
