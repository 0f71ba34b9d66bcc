"""Waiting for changes without asking all the time, and without a database connection per waiter.

One listening session per process feeds every waiter. Once a second one batched query looks at all watched tasks, so
a lost notification costs a second; with nobody waiting, nothing is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from sqlalchemy import ARRAY, DateTime, Text, and_, any_, bindparam, func, literal_column, select

from taskengine.errors import StoreUnavailable
from taskengine.store import channels
from taskengine.store.database import Database
from taskengine.store.listener import Listener
from taskengine.store.sessions import Notice
from taskengine.store.statements import prepared
from taskengine.store.tables import tasks

__all__ = ["Changes", "ToolsWatch", "Watch"]

logger = logging.getLogger("taskengine.store")

LOOK_S = 1.0
LONGEST_COMMIT_S = 30
"""A change shows at most this long after the time that it writes: as long as a statement may take."""

_now = select(func.clock_timestamp().label("now")).subquery()
_LOOK = prepared(
    select(_now.c.now, tasks.c.id, tasks.c.updated_at).select_from(
        _now.outerjoin(
            tasks,
            and_(
                tasks.c.id == any_(bindparam("ids", type_=ARRAY(Text))),
                tasks.c.updated_at
                > bindparam("since", type_=DateTime(timezone=True))
                - literal_column(f"interval '{LONGEST_COMMIT_S} s'"),
            ),
        )
    )
)
"""What changed among thousands of watched tasks, without reading the others to the end."""


class Watch:
    """The changed tasks among those watched, collected until asked for."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._changed: set[str] = set()
        self._ready = asyncio.Event()
        self.ids: set[str] = set()

    def add(self, task_id: str) -> None:
        self.ids.add(task_id)
        self._changes.attach(task_id, self)

    def drop(self, task_id: str) -> None:
        self.ids.discard(task_id)
        self._changes.detach(task_id, self)

    def mark(self, task_id: str) -> None:
        self._changed.add(task_id)
        self._ready.set()

    async def next(self, timeout_s: float | None = None) -> set[str]:
        """Ids changed since the last call; waits for the first up to `timeout_s`, then returns an empty set."""
        # `wait_for` of Python 3.11 loses a cancellation that comes together with what is waited for.
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return set()
        changed, self._changed = self._changed, set()
        self._ready.clear()
        return changed


class ToolsWatch:
    def __init__(self) -> None:
        self._ready = asyncio.Event()

    def mark(self) -> None:
        self._ready.set()

    async def next(self, timeout_s: float | None = None) -> bool:
        """Whether the list of tools changed since the last call; waits up to `timeout_s` for it."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return False
        self._ready.clear()
        return True


class Changes:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._watches: dict[str, set[Watch]] = {}
        self._seen: dict[str, datetime] = {}
        self._looked_at = datetime(1970, 1, 1, tzinfo=UTC)
        """The last look, by the clock of the database."""
        self._tools: set[ToolsWatch] = set()
        self._listener = Listener(
            database.url,
            {channels.TASKS: self._mark, channels.SESSIONS: self._pass_on, channels.TOOLS: self._mark_tools},
            self._mark_all,
        )
        self.on_notice: list[Callable[[Notice], None]] = []
        """Called for each notice to a session, once this process listens; one that is lost is not repeated."""
        self._hearing = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def hear(self) -> None:
        """Listen, as if something were watched; what is told from now on is heard, unless the database is away."""
        self.listen()
        with contextlib.suppress(TimeoutError):  # without a session yet, announcements would pass unheard
            async with asyncio.timeout(LOOK_S):
                await self._hearing.wait()

    def listen(self) -> None:
        """Listen from the first watch on: a process that watches nothing holds no session for it."""
        if self._looking is None:
            self._listener.start()
            self._looking = asyncio.get_running_loop().create_task(self._look_for_ever(), name="changes")

    async def stop(self) -> None:
        await self._listener.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None

    @asynccontextmanager
    async def watch(self, task_ids: Iterable[str] = ()) -> AsyncIterator[Watch]:
        """Changes after entering are seen: enter first, then read the state, then wait."""
        self.listen()
        watch = Watch(self)
        for task_id in task_ids:
            watch.add(task_id)
        try:
            yield watch
        finally:
            for task_id in watch.ids:
                self.detach(task_id, watch)

    @asynccontextmanager
    async def watch_tools(self) -> AsyncIterator[ToolsWatch]:
        await self.hear()
        watch = ToolsWatch()
        self._tools.add(watch)
        try:
            yield watch
        finally:
            self._tools.discard(watch)

    async def announce_tools(self) -> None:
        """Tell every process's clients that the list of tools changed."""
        await self._database.run(select(func.pg_notify(channels.TOOLS, "")))

    def attach(self, task_id: str, watch: Watch) -> None:
        self._watches.setdefault(task_id, set()).add(watch)

    def detach(self, task_id: str, watch: Watch) -> None:
        watches = self._watches.get(task_id, set())
        watches.discard(watch)
        if not watches:
            self._watches.pop(task_id, None)
            self._seen.pop(task_id, None)

    def _mark(self, task_id: str) -> None:
        for watch in self._watches.get(task_id, ()):
            watch.mark(task_id)

    def _mark_tools(self, _payload: str) -> None:
        for watch in self._tools:
            watch.mark()

    def _pass_on(self, payload: str) -> None:
        notice = Notice.parse(payload)
        if notice is not None:
            for function in list(self.on_notice):
                function(notice)

    def _mark_all(self) -> None:
        """The session that hears is new: whatever was told before it came may have been missed."""
        if self._hearing.is_set():
            self._mark_tools("")
        self._hearing.set()
        for task_id in list(self._watches):
            self._mark(task_id)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._watches:
                continue
            try:
                await self._look()
            except StoreUnavailable as error:
                logger.debug("could not look for changes: %s", error)
            except Exception:  # every waiter of this process counts on it
                logger.exception("could not look for changes; it is tried again")

    async def _look(self) -> None:
        rows = await self._database.run(_LOOK, {"ids": list(self._watches), "since": self._looked_at})
        for row in rows:
            self._looked_at = row.now
            task_id, updated_at = row.id, row.updated_at
            if task_id in self._watches and self._seen.get(task_id) != updated_at:
                self._seen[task_id] = updated_at
                self._mark(task_id)
