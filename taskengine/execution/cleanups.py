"""After a cancel: run the tool's `on_cancel`, and say on the task how its run ended.

The worker that ran the task does it, in the slot that the run had. A cancelled task whose function had begun and that
nobody held just then (it waited for an answer or for another attempt), or whose worker died, is taken up by any worker
that has the tool. So an `on_cancel` runs at least once: it must bear running twice, like the tool itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from taskengine.cleanup import clean_up_async
from taskengine.durations import describe
from taskengine.errors import StoreUnavailable
from taskengine.execution.processes import ProcessDied, ToolProcesses
from taskengine.records import Claim
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.tool import Tool

__all__ = ["CLEANED", "Cleanups"]

logger = logging.getLogger("taskengine.execution")

_T = TypeVar("_T")
LOOK_EVERY_S = 1.0
RETRY_S = (0.5, 1.0, 2.0, 4.0)
CLEANED = "cleaned up"


class Cleanups:
    def __init__(self, store: Store, settings: Settings, processes: ToolProcesses) -> None:
        self._store = store
        self._processes = processes
        self._limit = settings.cleanup_limit
        # Twice what the stop and the cleanup may take, and some more: later than that, nobody is at it.
        self._patience_s = 2 * (settings.cancel_grace + settings.cleanup_limit).total_seconds() + 60

    async def after_stop(self, tool: Tool, claim: Claim, how: str) -> None:
        """The attempt is over. If that was because its task was cancelled, clean up and say so. Raises nothing.

        `how` is what happened to the tool, for the task's message.
        """
        stopped, task_id, attempt = time.monotonic(), claim.task_id, claim.attempt
        try:
            if not await _patiently(lambda: self._store.stops.begin(task_id, attempt, claim.worker_id)):
                return
            then = await self._clean_up(tool, task_id, attempt, claim.arguments)
            since_s = time.monotonic() - stopped
            await _patiently(
                lambda: self._store.stops.note(task_id, attempt, how, f", {then}" if then else "", since_s)
            )
        except StoreUnavailable as error:  # the row stays open: whoever looks later takes it up
            logger.warning("task %s: what came of its cancel was not stored: %s", task_id, error)
        except Exception:
            logger.exception("task %s: what came of its cancel was not stored", task_id)

    async def look_for_ever(self, tools: Mapping[str, Tool], worker_id: Callable[[], str]) -> None:
        """Clean up after cancelled tasks of these tools that no worker held, one at a time; until cancelled itself."""
        ours = {name: tool for name, tool in tools.items() if tool.durable and tool.on_cancel is not None}
        while ours:
            await asyncio.sleep(LOOK_EVERY_S)
            if not (holder := worker_id()):
                continue
            try:
                for found in await self._store.stops.take(holder, list(ours), self._patience_s):
                    tool = ours[found.tool]
                    then = await self._clean_up(tool, found.task_id, found.attempt, found.arguments)
                    await self._store.stops.note(found.task_id, found.attempt, then)
            except StoreUnavailable as error:
                logger.debug("cleaning up waits: %s", error)
            except Exception:
                logger.exception("cleaning up failed; it is tried again")

    async def _clean_up(self, tool: Tool, task_id: str, attempt: int, arguments: Mapping[str, Any]) -> str:
        """What came of `on_cancel`, in a few words; empty for a tool without."""
        if tool.on_cancel is None:
            return ""
        if tool.is_async:
            work = clean_up_async(tool.on_cancel, tool.cancelled(task_id, attempt, arguments))
        else:
            work = self._in_process(tool.name, task_id, attempt, arguments)
        job = asyncio.get_running_loop().create_task(work, name=f"on_cancel of task {task_id} ({tool.name})")
        try:
            await asyncio.wait({job}, timeout=self._limit.total_seconds())
        finally:
            if not job.done():
                job.cancel()
                await asyncio.wait({job}, timeout=1)
        if not job.done() or job.cancelled():
            problem: str | None = f"its cleanup was stopped after {describe(self._limit)}"
        elif isinstance(error := job.exception(), ProcessDied):
            problem = f"its cleanup's process died: {error.loss.cause}"
        else:
            problem = job.result()
        if problem is not None:
            logger.error("task %s (%s) was cancelled, and %s", task_id, tool.name, problem)
        return problem or CLEANED

    async def _in_process(self, tool: str, task_id: str, attempt: int, arguments: Mapping[str, Any]) -> str | None:
        process = await self._processes.take()
        try:
            return await process.clean_up(tool, task_id, attempt, arguments)
        finally:
            await self._processes.give_back(process)


async def _patiently(write: Callable[[], Awaitable[_T]]) -> _T:
    for pause_s in RETRY_S:
        try:
            return await write()
        except StoreUnavailable:
            await asyncio.sleep(pause_s)
    return await write()
