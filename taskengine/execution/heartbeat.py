"""The worker's sign of life, on a thread and an event loop of its own.

It keeps the lease and the presence lock while the main loop is busy, hears of cancelled tasks, and stops the worker's
attempts when the lease can no longer be vouched for: at two thirds of it by this process's own clock, so that they
have ended before anybody else may take their tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from taskengine.errors import StoreUnavailable
from taskengine.settings import Settings
from taskengine.store import Store, channels
from taskengine.store.listener import Listener
from taskengine.store.presence import hold_presence

__all__ = ["Heart", "Heartbeat"]

logger = logging.getLogger("taskengine.execution")

RENEWALS_PER_LEASE = 5
FENCE_AT = 2 / 3
LOOK_WITHIN_S = 1.5
"""How often it looks at what it holds, however long the lease: a cancel whose notice was lost is found by that."""
TRIES_PER_LEASE = 50
"""While one that still runs cannot be renewed, and the database refuses at once: an outage that ends just in time must
not cost the attempts for a pause."""
STALL_WARNING_S = 3.0
HAND_BACK_S = 1.0
STRAY_AFTER_S = 1.0


class Heart(Protocol):
    """What the heartbeat watches over. All but `running` and `busy_with` are called from the heartbeat's thread."""

    def running(self) -> frozenset[tuple[str, int]]:
        """The (task, attempt) pairs claimed for the present worker id."""

    def busy_with(self) -> str: ...

    def taken_away(self, attempts: frozenset[tuple[str, int]], looked: float) -> None:
        """The store no longer gives these to this worker, by a look that began at `looked` (monotonic)."""

    def fence(self) -> None:
        """The lease is over, or nearly: stop everything that runs."""

    def over(self, worker_id: str) -> bool:
        """Nothing runs any more of what was claimed for this worker id, which was fenced."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run on the main loop."""


class Heartbeat:
    def __init__(self, settings: Settings, routes: tuple[str, ...], heart: Heart) -> None:
        self._settings = settings.model_copy(update={"database_pool": 2})
        self._lease_s = settings.lease.total_seconds()
        self._routes = routes
        self._heart = heart
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name="heartbeat", daemon=True)
        self._renewed_at = 0.0
        self._wake: Callable[[], object] | None = None
        """Makes the heartbeat's loop look whether it shall stop."""
        self._ticked_at = time.monotonic()
        self._strays: dict[tuple[str, int], float] = {}
        """What is held here and run by nobody, and when that was first seen."""
        self._missed = ""
        """Why the last beat did not find the store; empty when it did."""
        self._fenced: list[str] = []
        """The names before the present one under which there may still be tasks."""
        self.worker_id = ""
        """The name under which this process holds attempts; empty while it may claim nothing."""

    def start(self) -> None:
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether the worker is registered, after waiting up to `timeout_s` for it."""
        return self._ready.wait(timeout_s)

    def stop(self) -> None:
        """Leave: the lock falls and the registration goes."""
        self._stopping.set()
        if self._wake is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended already
                self._wake()
        self._thread.join(10)

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        store = await Store.open(self._settings)
        heard, present = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            heard.set()
            present.set()

        self._wake = lambda: loop.call_soon_threadsafe(wake)
        presence_key = secrets.randbits(62) if self._settings.presence_lock else None

        async def prepare(connection: Any) -> None:
            if presence_key is not None:
                await hold_presence(connection, presence_key)
            present.set()

        def on_worker(payload: str) -> None:
            if payload == self.worker_id:
                heard.set()

        url = self._settings.database_url.get_secret_value()
        listener = Listener(url, {channels.WORKERS: on_worker}, prepare=prepare)
        listener.start()
        watchdogs = [asyncio.create_task(watch) for watch in (self._watch_main_loop(), self._watch_lease())]
        try:
            if not self._stopping.is_set():
                await present.wait()
            while not self._stopping.is_set():
                reached = await self._beat(store, presence_key)
                await self._hand_back(store)
                heard.clear()
                if not self._stopping.is_set():
                    often = RENEWALS_PER_LEASE if reached or not self.worker_id else TRIES_PER_LEASE
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(self._lease_s / often, LOOK_WITHIN_S)):
                            await heard.wait()
            await self._hand_back(store)
            if self.worker_id:
                with contextlib.suppress(StoreUnavailable):
                    await store.workers.leave(self.worker_id)
        finally:
            for watchdog in watchdogs:
                watchdog.cancel()
            await listener.stop()
            await store.close()

    async def _beat(self, store: Store, presence_key: int | None) -> bool:
        """Whether the store could be had. What nobody thought of counts as had: it is tried again at the usual pace."""
        try:
            async with asyncio.timeout(self._lease_s * FENCE_AT / 2):
                await self._renew(store, presence_key)
        except (StoreUnavailable, TimeoutError) as error:
            told, self._missed = self._missed, str(error) or type(error).__name__
            if told != self._missed:
                logger.warning("the lease was not renewed: %s", self._missed)
            return False
        except Exception:  # without a heartbeat this worker would go on as a zombie
            logger.exception("the lease was not renewed; it is tried again")
        self._missed = ""
        return True

    async def _renew(self, store: Store, presence_key: int | None) -> None:
        """The lease runs from now, that of a new name where there is none. Raises StoreUnavailable."""
        started, worker_id = time.monotonic(), self.worker_id
        ours, held = self._heart.running(), frozenset[tuple[str, int]]()
        if not worker_id:
            await self._register(store, presence_key)
        elif (renewed := await store.workers.renew(worker_id, self._lease_s)) is not None:
            held = renewed
        else:
            logger.error("this worker was declared dead: its attempts are stopped, it starts again as a new one")
            self._fence()
            return
        if worker_id and not self.worker_id:  # fenced while the renewal was under way
            return
        self._renewed_at = started
        await self._compare(store, ours, held, started)

    async def _hand_back(self, store: Store) -> None:
        """Resign, with an end: a row that somebody has locked must not keep this worker from its lease."""
        try:
            async with asyncio.timeout(HAND_BACK_S):
                await self._resign(store)
        except (StoreUnavailable, TimeoutError) as error:
            logger.debug("what was stopped is not handed back yet: %s", error)
        except Exception:
            logger.exception("what was stopped is not handed back yet; it is tried again")

    async def _resign(self, store: Store) -> None:
        """Give back what ran here when the lease could not be renewed: it was stopped, which is no fault of a task.

        What does not end (a deaf async tool) is left to the lease: only its end says that others may begin.
        """
        for fenced in [each for each in self._fenced if self._heart.over(each)]:
            self._fenced.remove(fenced)  # an error that nobody thought of must not keep this worker from registering
            try:
                released = await store.workers.resign(fenced)
            except (StoreUnavailable, asyncio.CancelledError):
                self._fenced.append(fenced)
                raise
            if released:
                logger.warning("%d tasks whose attempts were stopped are handed back", released)

    async def _watch_lease(self) -> None:
        """Stop everything in time also while a renewal hangs."""
        while True:
            left = self._renewed_at + self._lease_s * FENCE_AT - time.monotonic() if self.worker_id else 0.0
            await asyncio.sleep(max(left, self._lease_s / 50))
            if self.worker_id and time.monotonic() - self._renewed_at > self._lease_s * FENCE_AT:
                logger.error("the lease could not be renewed in time: all attempts are stopped")
                self._fence()

    async def _compare(
        self, store: Store, ours: frozenset[tuple[str, int]], held: frozenset[tuple[str, int]], looked: float
    ) -> None:
        """What ran here before the store was asked, at `looked`, and what it then said, must be the same.

        An attempt the store has given elsewhere is stopped. A claim that was committed although its answer was lost
        is held by this worker and run by nobody: when that stays so although the main loop runs, which may only have
        been kept from taking the answer, it is handed back.
        """
        if ours - held:
            self._heart.taken_away(ours - held, looked)
        now = time.monotonic()
        self._strays = {stray: self._strays.get(stray, now) for stray in held - self._heart.running() - ours}
        for (task_id, attempt), seen_at in self._strays.items():
            if self._ticked_at > seen_at + STRAY_AFTER_S:
                logger.warning("task %s attempt %d is held here and run by nobody: handed back", task_id, attempt)
                await store.attempts.hand_back(task_id, attempt, self.worker_id)

    async def _register(self, store: Store, presence_key: int | None) -> None:
        worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        await store.workers.register(
            worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=self._routes,
            presence_key=presence_key,
            lease_s=self._lease_s,
        )
        self.worker_id = worker_id
        self._ready.set()

    def _fence(self) -> None:
        if self.worker_id:
            self._fenced.append(self.worker_id)
        self.worker_id = ""
        self._ready.clear()
        self._heart.fence()

    async def _watch_main_loop(self) -> None:
        """Name the tool that keeps the main loop from running: every other async tool waits for it."""
        warned = False
        while True:
            self._heart.call_soon(self._tick)
            await asyncio.sleep(1)
            stalled = time.monotonic() - self._ticked_at
            if stalled > STALL_WARNING_S and not warned:
                warned = True
                logger.warning(
                    "the event loop has not run for %.0f s; an async tool blocks it: %s",
                    stalled,
                    self._heart.busy_with(),
                )
            elif stalled < STALL_WARNING_S:
                warned = False

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()
