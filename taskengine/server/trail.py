"""What a front end has for the audit log that no write of the store records: what was read, listed and refused.

A request only notes it; twice a second what was noted is stored, the same deed of the same caller as one entry that
says how often. While the database is away it is kept, and a stop waits for it. A process that is killed takes the last
half second with it. The memory for it is bounded: past `MOST` different deeds, those that follow are counted by caller
and action, without their tasks, and past as many again by action alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from taskengine.errors import KeyReused, StoreUnavailable, TaskNotFound
from taskengine.records import TaskRecord
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
        why = next((_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS), None)
        if why is not None:
            self.note(actor, "refuse", task_id if isinstance(task_id, str) else None, detail=why)

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
        """Remember it for the next flush; nothing is waited for."""
        if not self._on:
            return
        key: Key = (actor, action, None if task_id is None else task_id[:128], tool, detail)
        if key not in self._noted and len(self._noted) >= MOST:
            key = (actor, action, None, None, TOO_MANY)
            if key not in self._noted and len(self._noted) >= 2 * MOST:
                key = (UNKNOWN, action, None, None, TOO_MANY)
        times, since = self._noted.get(key, (0, time.monotonic()))
        self._noted[key] = times + 1, since
        self._some.set()
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush_for_ever(), name="audit")

    async def stop(self) -> None:
        """Store what is left. What cannot be stored in time is said in the log, entry by entry."""
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
            self._flushing = None
        until = time.monotonic() + LAST_TRIES_S
        while self._noted and time.monotonic() < until:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                    await self._flush()
            except (StoreUnavailable, TimeoutError) as error:
                logger.warning("%d entries of the audit log wait: %s", len(self._noted), error)
                await asyncio.sleep(min(RETRY_S, max(0.0, until - time.monotonic())))
        if not self._noted:
            return
        logger.error("%d entries of the audit log are stored nowhere but here:", len(self._noted))
        for (actor, action, task_id, tool, detail), (times, _) in self._noted.items():
            logger.error("%s by %s: task %s, tool %s, %s, times %d", action, actor, task_id, tool, detail, times)

    async def _flush_for_ever(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(EVERY_S)
            try:
                await self._flush()
            except StoreUnavailable as error:
                logger.warning("%d entries of the audit log wait: %s", len(self._noted), error)
                await asyncio.sleep(RETRY_S)
            except Exception:
                logger.exception("the audit log cannot be written; it is tried again")
                await asyncio.sleep(RETRY_S)

    async def _flush(self) -> None:
        noted, self._noted = self._noted, {}
        self._some.clear()
        now = time.monotonic()
        deeds = [Deed(*key, times=times, age_s=now - since) for key, (times, since) in noted.items()]
        try:
            await self._store().audit.add(deeds)
        except BaseException:  # a cancelled flush may have been stored: rather twice than not at all
            for key, (times, since) in noted.items():
                later = self._noted.get(key, (0, since))
                self._noted[key] = times + later[0], since
            self._some.set()
            raise
