"""What a front end has for the audit log that no write of the store records: what was read, listed and refused.

A request only notes it; twice a second what was noted is stored, the same deed of the same caller as one entry that
says how often. While the database is away it is kept, and a stop waits for it. A process that is killed takes the last
half second with it. What the database refuses, though it is there, goes to the log entry by entry: tried again it would
keep back all that follows. The memory for it is bounded: past `MOST` different deeds, those that follow are counted by
caller and action, without their tasks, and past as many again by action alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from taskengine.errors import KeyReused, LimitReached, StoreUnavailable, TaskNotFound
from taskengine.records import TaskRecord
from taskengine.server.ids import is_task_id
from taskengine.server.request_state import RequestStateError
from taskengine.store import Store
from taskengine.store.audit import Deed

__all__ = ["UNKNOWN", "Trail"]

logger = logging.getLogger("taskengine.audit")

UNKNOWN = "unknown"
"""Whoever sent a request that says nothing true of its sender."""
MOST = 10_000
EVERY_S = 0.5
RETRY_S = 1.0
LAST_TRIES_S = 5.0
TOO_MANY = "too many to tell apart"

_REFUSALS: dict[type[BaseException], str] = {
    TaskNotFound: "no such task of this caller",
    KeyReused: "an idempotency key of another call",
    RequestStateError: "a request state that was changed, is another's, or is too old",
}
MOST_IDS = 20
"""Of the tasks that one request asked for in vain, so many have an entry of their own."""

_T = TypeVar("_T")
Key = tuple[str, str, str | None, str | None, str | None]


class Trail:
    """Used on one event loop. With `on` False it notes nothing."""

    def __init__(self, store: Callable[[], Store], *, on: bool) -> None:
        self._store = store
        self._on = on
        self._noted: dict[Key, tuple[int, float]] = {}
        self._flushing: asyncio.Task[None] | None = None
        self._some = asyncio.Event()

    def read(self, actor: str, record: TaskRecord) -> None:
        """What the task ended with goes to its owner. A status alone is nobody's business: most requests are polls."""
        if self._on and (record.result is not None or record.error is not None):
            self.note(actor, "read", record.id, record.tool)

    def refused(self, actor: str, error: BaseException, task_id: object = None) -> None:
        """The request was refused for what its sender may not do; any other error is none of ours."""
        if isinstance(error, LimitReached):  # without the task: who comes too often may name a new one each time
            self.note(actor, "refuse", detail=f"more than it may have: {error.limit}")
            return
        why = next((_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS), None)
        if why is not None:
            self.note(actor, "refuse", task_id if isinstance(task_id, str) else None, detail=why)

    def missing(self, actor: str, task_ids: Sequence[str]) -> None:
        """The request asked for these tasks too, which its sender does not have."""
        why = _REFUSALS[TaskNotFound]
        for task_id in task_ids[:MOST_IDS]:
            self.note(actor, "refuse", task_id, detail=why)
        if len(task_ids) > MOST_IDS:
            self._count((_storable(actor), "refuse", None, None, why), len(task_ids) - MOST_IDS)

    async def watching(self, actor: str, work: Awaitable[_T], params: Mapping[str, Any] | None) -> _T:
        """What `work` gives, or what it raises, noted where it is a refusal of a request with these params."""
        try:
            return await work
        except Exception as error:
            self.refused(actor, error, (params or {}).get("taskId"))
            raise

    def note(
        self,
        actor: str,
        action: str,
        task_id: str | None = None,
        tool: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Remember it for the next flush; nothing is waited for. An id that no task can have is left out: it may be
        anything that a client has written."""
        known = task_id if task_id is not None and is_task_id(task_id) else None
        self._count((_storable(actor), action, known, tool and _storable(tool), detail and _storable(detail)), 1)

    def _count(self, key: Key, times: int) -> None:
        if not self._on:
            return
        action = key[1]
        if key not in self._noted and len(self._noted) >= MOST:
            key = (key[0], action, None, None, TOO_MANY)
            if key not in self._noted and len(self._noted) >= 2 * MOST:
                key = (UNKNOWN, action, None, None, TOO_MANY)
        before, since = self._noted.get(key, (0, time.monotonic()))
        self._noted[key] = before + times, since
        self._some.set()
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(
                self._flush_for_ever(), name="audit", context=contextvars.Context()
            )

    async def stop(self) -> None:
        """Store what is left. What cannot be stored in time is said in the log, entry by entry."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
            self._flushing = None
        until = time.monotonic() + LAST_TRIES_S
        while self._noted and time.monotonic() < until:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                    await self._flush()
            except Exception as error:  # whatever it is, the rest of the front end is to be stopped too
                logger.warning("%d entries of the audit log wait: %s", len(self._noted), error)
                await asyncio.sleep(min(RETRY_S, max(0.0, until - time.monotonic())))
        if self._noted:
            _say(self._noted)

    async def _flush_for_ever(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(EVERY_S)
            try:
                await self._flush()
            except (StoreUnavailable, TimeoutError) as error:
                logger.warning("%d entries of the audit log wait: %s", len(self._noted), error)
                await asyncio.sleep(RETRY_S)

    async def _flush(self) -> None:
        """Store what is noted, or say it in the log where it is refused. Raises StoreUnavailable and TimeoutError, with
        all of it kept."""
        noted, self._noted = self._noted, {}
        self._some.clear()
        now = time.monotonic()
        deeds = [Deed(*key, times=times, age_s=now - since) for key, (times, since) in noted.items()]
        try:
            await self._store().audit.add(deeds)
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, StoreUnavailable | TimeoutError):
                logger.exception("the audit log takes none of %d entries", len(noted))
                _say(noted)
                return
            # A cancelled flush may have been stored: rather twice than not at all.
            for key, (times, since) in noted.items():
                later = self._noted.get(key, (0, since))
                self._noted[key] = times + later[0], since
            self._some.set()
            raise


def _storable(text: str) -> str:
    """The text with what PostgreSQL has no place for replaced: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _say(noted: Mapping[Key, tuple[int, float]]) -> None:
    logger.error("%d entries of the audit log are stored nowhere but here:", len(noted))
    for (actor, action, task_id, tool, detail), (times, _) in noted.items():
        logger.error("%s by %s: task %s, tool %s, %s, times %d", action, actor, task_id, tool, detail, times)
