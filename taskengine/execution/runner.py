"""A worker's event loop: claims what the doorbells name and runs it, async tools here, sync tools in processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from taskengine.engine import TaskEngine
from taskengine.errors import ClaimLost, StoreUnavailable, Unreadable
from taskengine.execution.attempt import DRAIN_STOP_S, Attempt, Stop
from taskengine.execution.cleanups import Cleanups
from taskengine.execution.heartbeat import Heartbeat
from taskengine.execution.processes import ToolProcesses
from taskengine.execution.strays import Strays
from taskengine.points import point
from taskengine.records import Claim, Doorbell
from taskengine.settings import Settings
from taskengine.store import Store

__all__ = ["Runner"]

logger = logging.getLogger("taskengine.execution")

SETTLE_S = 0.005
"""Celery hears so much later that a message is done with: its thread would keep the interpreter from the attempts that
are just beginning."""
READY_WITHIN_S = 2.0
WARM_AFTER_S = 2.0
UNREGISTERED_S = 1.0
"""How long a worker that may claim nothing keeps a doorbell before it rings it for others."""


class Runner:
    """Made and used on one event loop; the methods of `Heart` may be called from the heartbeat's thread."""

    def __init__(
        self,
        engine: TaskEngine,
        target: str,
        settings: Settings,
        routes: tuple[str, ...],
        *,
        store: Store,
        ring: Callable[[Doorbell], None],
        freed: Callable[[str], None],
        crowded: Callable[[str], tuple[str, ...]],
        worn: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._store = store
        self._ring = ring
        self._freed = freed
        self._crowded = crowded
        self._loop = asyncio.get_running_loop()
        self._processes = ToolProcesses(target, settings.sync_slots)
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._draining = False
        self._outlasted: list[str] = []
        """Under which worker ids the strays were claimed."""
        self._strays = Strays(settings.async_slots, lambda: len(self._attempts), worn)
        self._cleaning: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self._tools = tuple(name for name, tool in engine.tools.items() if tool.durable)
        self.heartbeat = Heartbeat(settings, routes, self)

    def start(self) -> None:
        """Begin to register. A process for sync tools starts when that is done, or with the first call."""
        self.heartbeat.start()
        if any(tool.durable and not tool.is_async for tool in self._engine.tools.values()):
            self._warming = self._loop.create_task(self._warm())
        cleanups = Cleanups(self._store, self._settings, self._processes)
        self._cleaning = self._loop.create_task(
            cleanups.look_for_ever(self._engine.tools, lambda: "" if self._draining else self.heartbeat.worker_id)
        )

    async def _warm(self) -> None:
        """Some time after the registration: what starts beside it would only keep the worker from its first claims."""
        await asyncio.to_thread(self.heartbeat.wait_ready, READY_WITHIN_S)
        await asyncio.sleep(WARM_AFTER_S)
        await self._processes.warm()

    def offer(self, doorbells: Sequence[Doorbell], settled: Callable[[], None]) -> None:
        """Claim the attempts the doorbells name and run them; `settled` is called soon after every claim is decided.

        A worker whose slots are full hears no doorbells (`crowded` then tells the routes that share them): whenever
        one of its slots comes free it takes what has waited longest. Otherwise the slot is given back (`freed`).
        """
        undecided = len(doorbells)

        def decided() -> None:
            nonlocal undecided
            undecided -= 1
            if not undecided:
                self._loop.call_later(SETTLE_S, settled)

        for doorbell in doorbells:
            self._keep(self._take(doorbell, decided))

    async def drain(self) -> None:
        """Claim nothing more; end every attempt at its next context call, and past the grace wherever it is.

        Their tasks are due again, elsewhere, with nothing held against them.
        """
        self._draining = True
        logger.info("draining: nothing more is claimed, %d attempts are to end", len(self._attempts))
        self._strays.leave()
        for attempt in self._attempts.values():
            attempt.draining = True
        await self._until_idle(self._settings.drain_grace.total_seconds())
        for attempt in list(self._attempts.values()):
            attempt.stop(Stop.DRAIN)
        await self._until_idle(DRAIN_STOP_S + 2)
        for work in (self._cleaning, self._warming):
            if work is not None:
                work.cancel()
                await asyncio.wait({work}, timeout=1)
        await asyncio.to_thread(self.heartbeat.stop)
        await self._processes.close()

    async def _until_idle(self, timeout_s: float) -> None:
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=timeout_s)

    async def _take(self, doorbell: Doorbell, decided: Callable[[], None]) -> None:
        try:
            try:
                claim = await self._claim(doorbell)
            finally:
                decided()
            while claim is not None or (claim := await self._claim_next(doorbell.queue)) is not None:
                await self._run(claim)
                claim = None
        finally:
            self._freed(doorbell.queue)

    async def _claim(self, doorbell: Doorbell) -> Claim | None:
        """None for a doorbell that is late or repeated, or that must be rung again: the relay does that."""
        worker_id = self.heartbeat.worker_id
        if self._draining:
            self._ring(doorbell)
            return None
        if not worker_id:  # cut off from the database: another worker may not be
            self._loop.call_later(UNREGISTERED_S, self._ring, doorbell)
            return None
        point("claim.asked")
        try:
            # What is due first, which need not be what the doorbell names: turns are fair, and the broker's order is
            # not. For what was passed over another doorbell is on its way.
            claim = await self._store.attempts.claim_next((doorbell.queue,), worker_id, self._tools)
            point("claim.committed")
        except StoreUnavailable as error:
            logger.warning("task %s was not claimed: %s", doorbell.task_id, error)
            return None
        except Unreadable as error:  # held, and run by nobody: the heartbeat hands it back, for a worker with the key
            logger.warning("task %s cannot be run here: %s", doorbell.task_id, error)
            return None
        return claim

    async def _claim_next(self, route: str) -> Claim | None:
        """What has waited longest, for a slot that has come free while all were taken."""
        routes, worker_id = self._crowded(route), self.heartbeat.worker_id
        if self._draining or not worker_id or not routes:
            return None
        try:
            return await self._store.attempts.claim_next(routes, worker_id, self._tools)
        except StoreUnavailable as error:
            logger.warning("nothing was claimed: %s", error)
            return None
        except Unreadable as error:
            logger.warning("what was claimed cannot be run here: %s", error)
            return None

    async def _run(self, claim: Claim) -> None:
        tool = self._engine.get_tool(claim.tool)
        if tool is None or not tool.durable:
            await self._refuse(claim)
            return
        attempt = Attempt(
            claim,
            tool,
            store=self._store,
            settings=self._settings,
            processes=self._processes,
            ring=self._ring,
            find=self._engine.get_tool,
            renew=self._engine.token_renewal,
            may_linger=lambda: not self._crowded(claim.queue),
        )
        attempt.draining = self._draining
        if claim.worker_id != self.heartbeat.worker_id:
            attempt.stop(Stop.FENCED)
        key = (claim.task_id, claim.attempt)
        self._attempts[key] = attempt
        point("attempt.begins")
        try:
            await attempt.run()
        finally:
            stray = attempt.stray
            if stray is not None:
                self._outlasted.append(claim.worker_id)
            del self._attempts[key]
            self._strays.look()
            await self._free(claim)
        if stray is not None:
            await self._strays.outlast(stray)
            if stray.done():
                self._outlasted.remove(claim.worker_id)

    async def _free(self, claim: Claim) -> None:
        """Its place under its limits is the next one's; the janitor gives it away where this fails."""
        if claim.limits:
            try:
                for doorbell in await self._store.limits.free(claim.limits):
                    self._ring(doorbell)
            except StoreUnavailable as error:
                logger.warning("the limits of task %s are looked at later: %s", claim.task_id, error)

    async def _refuse(self, claim: Claim) -> None:
        """A rolling deploy: this worker's code does not have the tool. The relay tries again until one has it."""
        logger.warning("this worker has no tool %r for task %s: it is left to another", claim.tool, claim.task_id)
        try:
            await self._store.attempts.release(claim)
        except (ClaimLost, StoreUnavailable) as error:
            logger.warning("task %s was not handed back (%s): the lease does it", claim.task_id, error)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        job = self._loop.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    # -- Heart

    def running(self) -> frozenset[tuple[str, int]]:
        run = {key for key, attempt in self._attempts.copy().items() if not attempt.parked}
        return frozenset(run | self._store.attempts.loading.copy())

    def busy_with(self) -> str:
        return (
            ", ".join(sorted({claim.tool for claim in (each.claim for each in list(self._attempts.values()))})) or "-"
        )

    def taken_away(self, attempts: frozenset[tuple[str, int]], looked: float) -> None:
        self.call_soon(lambda: self._missed(attempts, looked))

    def fence(self) -> None:
        self.call_soon(self._stop_all)

    def over(self, worker_id: str) -> bool:
        running = {attempt.claim.worker_id for attempt in self._attempts.copy().values()}
        return worker_id not in running and worker_id not in self._outlasted

    def call_soon(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            logger.debug("the main loop is closed")

    def _missed(self, attempts: frozenset[tuple[str, int]], looked: float) -> None:
        for key in attempts:
            if key in self._attempts:
                self._attempts[key].missed(looked)

    def _stop_all(self) -> None:
        # Also those that linger: they would take back what was theirs under a name that is no longer renewed.
        for attempt in self._attempts.values():
            attempt.stop(Stop.FENCED)
