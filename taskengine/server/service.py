"""What the requests of one front end share: the store, the bell, the sealer, and the end of all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

from taskengine import bridge
from taskengine.engine import TaskEngine
from taskengine.errors import EngineError, StoreUnavailable, TaskNotFound
from taskengine.jobs.bell import Bell
from taskengine.server.authorization import Guard
from taskengine.server.budgets import Budgets
from taskengine.server.caller import Caller
from taskengine.server.exchange import Exchange
from taskengine.server.request_state import Sealer
from taskengine.server.trail import Trail
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.tool import Tool
from taskengine.wire import modern

__all__ = ["Service"]

logger = logging.getLogger("taskengine.server")

WILDCARD_ADDRESSES = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
MAX_THREADS = 64
STOP_SHARE = 0.8
"""Of the grace: what is left then is for the last bytes."""
CANCEL_TRIES = 5
CANCEL_PAUSE_S = 1.0


class Service:
    """Starts on the event loop of its first request or of the application's lifespan, whichever comes first."""

    def __init__(self, engine: TaskEngine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.meta = modern.identity(engine)
        self.handles = bridge.offered(settings)
        """The engine's own tools, which serve hosts that know no tasks; none where they are hidden."""
        self.allowed_hosts = _allowed_hosts(settings)
        self.guard = Guard(engine, settings)
        self.bell = Bell(settings)
        self.budgets = Budgets(settings)
        """What each caller may have of this front end, and of all of them."""
        self.trail = Trail(lambda: self.store, on=settings.audit)
        """What is read, listed and refused, for the audit log."""
        self.sealer = Sealer(settings, self._shared_secret)
        self.stopping = False
        """The front end ends: it is not ready any more, and no client's absence means that its call is cancelled."""
        self.threads = asyncio.Semaphore(MAX_THREADS)
        """Room for `def` tools that make no task."""
        self.on_stop: list[Callable[[], None]] = []
        """Called once at the end, when no request is open any more."""
        self._store: Store | None = None
        self._starting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exchanges: set[Exchange] = set()
        self._patient: set[Exchange] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Service:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def started(self) -> bool:
        return self._store is not None

    @property
    def store(self) -> Store:
        assert self._store is not None, "the service has not been started"
        return self._store

    def ttl_of(self, tool: Tool) -> timedelta:
        """How long from its creation a task of this tool is kept."""
        return min(tool.ttl or self.settings.ttl, self.settings.max_ttl)

    async def start(self) -> None:
        """Ready for requests; again is harmless. A database or broker that is away may come later."""
        async with self._starting:
            if self._store is None:
                self.stopping = False
                self._loop = asyncio.get_running_loop()
                self._store = await Store.open(self.settings)
                self.bell.start()
                self.engine.on_tools_changed.append(self._tools_changed)

    def drain(self) -> None:
        """Begin to stop: subscriptions end now, other open requests within `shutdown_grace` (M-SUB-11).

        For whoever runs the HTTP server, before it waits for open requests.
        """
        if self.stopping:
            return
        self.stopping = True
        for exchange in self._exchanges - self._patient:
            exchange.stop()
        if self._loop is not None:
            self._loop.call_later(self.settings.shutdown_grace.total_seconds() * STOP_SHARE, self._stop_exchanges)

    async def stop(self) -> None:
        """End what is open and close the services."""
        self.drain()
        self._stop_exchanges()
        await self.guard.close()
        async with self._starting:
            if self._store is None:
                return
            with suppress(ValueError):
                self.engine.on_tools_changed.remove(self._tools_changed)
            for function in self.on_stop:
                function()
            if self._background:
                await asyncio.wait(self._background, timeout=CANCEL_PAUSE_S)
            await self.trail.stop()
            await asyncio.to_thread(self.bell.stop)
            await self.budgets.close()
            await self._store.close()
            self._store = None

    @contextmanager
    def attending(self, exchange: Exchange, *, patient: bool) -> Iterator[None]:
        """`exchange` is told when the front end stops: at once, or after the grace when it is `patient`."""
        self._exchanges.add(exchange)
        if patient:
            self._patient.add(exchange)
        try:
            yield
        finally:
            self._exchanges.discard(exchange)
            self._patient.discard(exchange)

    @property
    def open_exchanges(self) -> int:
        return len(self._exchanges)

    def cancel_abandoned(self, task_id: str, caller: Caller) -> None:
        """Cancel a synchronous call whose client has gone, in the background (A-33)."""
        if not self.stopping:
            self._spawn(self._cancel(task_id, caller))

    def bridges(self, tool: Tool) -> bool:
        """Whether a call of this tool, by a client without tasks, may end with a task that the handle tools serve."""
        return tool.durable and tool.bridge and bool(self.handles)

    @property
    def listed_tools(self) -> list[Tool]:
        """All tools as any client may see them: the application's in their order, then the engine's own."""
        own = [bridge.listed(tool) if self.bridges(tool) else tool for tool in self.engine.tools.values()]
        return [*own, *self.handles.values()]

    async def announce_tools(self) -> None:
        """Tell the listening clients of all front ends; a database that is away keeps them uninformed."""
        try:
            await self.store.changes.announce_tools()
        except StoreUnavailable as error:
            logger.warning("a change of the tools could not be announced: %s", error)

    async def _shared_secret(self) -> bytes:
        return await self.store.keys.secret()

    async def _cancel(self, task_id: str, caller: Caller) -> None:
        for _ in range(CANCEL_TRIES):
            try:
                await self.store.tasks.cancel(task_id, caller.owner)
            except TaskNotFound:
                return  # it was never committed
            except EngineError as error:
                logger.warning("task %s of a client that has gone is not cancelled yet: %s", task_id, error)
                await asyncio.sleep(CANCEL_PAUSE_S)
            else:
                logger.info("task %s cancelled: the client of its synchronous call has gone", task_id)
                return

    def _tools_changed(self) -> None:
        """Called by the engine, in whatever thread changed it."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: self._spawn(self.announce_tools()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _stop_exchanges(self) -> None:
        for exchange in list(self._exchanges):
            exchange.stop()


def _allowed_hosts(settings: Settings) -> Collection[str]:
    """Names that Host and Origin may have beside the local ones: those allowed, and the address listened on."""
    own = set() if settings.host in WILDCARD_ADDRESSES else {settings.host.lower()}
    return frozenset({host.lower() for host in settings.allowed_hosts} | own)
