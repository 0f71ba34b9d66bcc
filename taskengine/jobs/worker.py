"""One worker: Celery's consumer on the main thread, the engine's event loop on another."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import uvloop
from celery import signals
from celery.platforms import SecurityWarning
from celery.worker import state as celery_state

from taskengine.engine import TaskEngine
from taskengine.errors import SettingsError
from taskengine.execution.runner import Runner
from taskengine.jobs import transport
from taskengine.jobs.app import is_sync, make_app
from taskengine.jobs.bell import Bell
from taskengine.jobs.janitor import Janitor
from taskengine.jobs.pool import ConsumerHandle, SlotPool
from taskengine.records import Doorbell
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.target import load_target
from taskengine.tool import SYNC_SUFFIX

__all__ = ["WorkerHost", "make_worker_app", "run_worker"]

logger = logging.getLogger("taskengine.jobs")


@signals.setup_logging.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _leave_logging_alone(**_: Any) -> None:
    """A receiver of this signal is what keeps Celery from setting levels and handlers of its own."""


class WorkerHost:
    """Joins the two threads. Implements `jobs.pool.Host`."""

    def __init__(
        self, engine: TaskEngine, target: str, settings: Settings, on_ready: Callable[[], None] | None = None
    ) -> None:
        self.settings = settings
        self.routes = _routes(engine, settings)
        self._engine = engine
        self._target = target
        self._on_ready = on_ready
        self._bell = Bell(settings)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._store: Store | None = None
        self._janitor: Janitor | None = None
        self._runner: Runner | None = None
        self._drained = False
        self.worn = False
        """The worker should start anew once it has stopped."""

    def start(self, pool: SlotPool) -> None:
        """Returns when the worker may claim; while the database is away it waits, and says so."""
        self._bell.start()
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(pool), self._loop).result()
        assert self._runner is not None
        waited = False
        while not self._runner.heartbeat.wait_ready(0.5 if waited else 5):
            if celery_state.should_stop is not None or celery_state.should_terminate is not None:
                return
            if not waited:
                logger.warning("waiting for the database and its schema: `taskengine doctor` tells more")
            waited = True
        if self._on_ready is not None:
            self._on_ready()

    async def _start(self, pool: SlotPool) -> None:
        self._store = await Store.open(self.settings)
        self._runner = Runner(
            self._engine,
            self._target,
            self.settings,
            self.routes,
            store=self._store,
            ring=self._bell.ring,
            freed=pool.freed,
            crowded=pool.crowded,
            worn=self._start_anew,
        )
        self._runner.start()
        self._janitor = Janitor(self._store, self._bell, self.settings)
        self._janitor.start()
        self._engine.on_tools_changed.append(self._announce_tools)

    def _start_anew(self) -> None:
        self.worn = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _announce_tools(self) -> None:
        assert self._store is not None
        asyncio.run_coroutine_threadsafe(self._store.changes.announce_tools(), self._loop)

    def offer(self, doorbells: Sequence[Doorbell], settled: Callable[[], None]) -> None:
        assert self._runner is not None
        self._loop.call_soon_threadsafe(self._runner.offer, doorbells, settled)

    def ring(self, doorbell: Doorbell) -> None:
        self._bell.ring(doorbell)

    def drain(self) -> None:
        if self._drained or not self._thread.is_alive():
            return
        self._drained = True
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._bell.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _stop(self) -> None:
        assert self._runner is not None
        assert self._janitor is not None
        assert self._store is not None
        await self._runner.drain()
        await self._janitor.stop()
        await self._store.close()


def make_worker_app(
    engine: TaskEngine, target: str, settings: Settings, on_ready: Callable[[], None] | None = None
) -> Any:
    """The Celery application of a worker that serves `engine`, for `run_worker` and `workers/celery_app.py`."""
    host = WorkerHost(engine, target, settings, on_ready)
    transport.install()
    app = make_app(settings, host.routes)
    app.taskengine_host = host
    app.steps["consumer"].add(ConsumerHandle)
    return app


def run_worker(target: str, settings: Settings, *, on_ready: Callable[[], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Call it on the main thread.

    A worker that async tools have worn out (see `execution/strays.py`) replaces its process by a new one of the same
    command and process id, so whoever watches over it notices nothing.
    Raises DeclarationError or SettingsError when `target` or the queues are wrong.
    """
    # Celery warns of root because of pickled messages; ours are JSON, and containers often run as root.
    warnings.simplefilter("ignore", SecurityWarning)
    app = make_worker_app(load_target(target), target, settings, on_ready)
    worker = app.Worker(
        hostname=f"{settings.namespace}@%h",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        task_events=False,
    )
    worker.start()
    if app.taskengine_host.worn:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the command we were started by
    return int(worker.exitcode or 0)


def _routes(engine: TaskEngine, settings: Settings) -> tuple[str, ...]:
    """The routes this worker serves: those of the chosen queues, or of all the tools."""
    every = engine.routes
    chosen = [route for route in every if not settings.queues or _queue_of(route) in settings.queues]
    unknown = sorted(set(settings.queues) - {_queue_of(route) for route in every})
    if unknown:
        names = ", ".join(sorted({_queue_of(route) for route in every})) or "none"
        raise SettingsError(f"TASKENGINE_QUEUES: no tool uses {', '.join(unknown)}; the tools' queues are {names}")
    if not settings.sync_slots:
        chosen = [route for route in chosen if not is_sync(route)]
    if not chosen:
        raise SettingsError("there is nothing to serve: no durable tool rides on the chosen queues")
    return tuple(chosen)


def _queue_of(route: str) -> str:
    return route.removesuffix(SYNC_SUFFIX)
