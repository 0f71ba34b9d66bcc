"""`subscriptions/listen`: a stream of changed tasks and of changes of the tool list, until one side ends it.

Changes of a task that follow each other faster than they can be sent come together in one notification, so the
backlog of a stream is never more than its tasks (M-SUB-18). Nothing is replayed (M-SUB-14). Outcomes may be large and
a client slow: few of them are in memory at a time, however many tasks there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.records import TaskRecord
from taskengine.server.call import Call
from taskengine.server.exchange import Exchange
from taskengine.server.ids import is_task_id
from taskengine.wire import modern
from taskengine.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, RpcError

__all__ = ["listen"]

MAX_TASKS = 1_000
"""Most tasks of one stream."""
MAX_STREAMS = 10_000
"""Most open requests of one front end that a further subscription may join."""
READS_AT_ONCE = 4
"""Most tasks whose outcomes and questions one stream has in memory together."""
RETRY_S = 1.0
Read = Callable[[Iterable[str], str], Awaitable[Mapping[str, TaskRecord]]]
_WHOLE = {Status.WORKING, Status.CANCELLED}
"""Of a task that stands so, its head is all there is to report."""


async def listen(call: Call, exchange: Exchange) -> Any:
    """Acknowledge, report, and give the last result when the server ends it: it stops, or nothing can follow.

    Raises RpcError -32602 for a malformed filter and -32021 for `taskIds` without the extension (M-TASK-72).
    """
    wants_tools, task_ids = _read_filter(call)
    if call.service.open_exchanges > MAX_STREAMS:
        raise RpcError(INTERNAL_ERROR, "Too many open streams: close some, or poll with tasks/get")
    await call.service.budgets.acting(call.caller)
    exchange.end_after(call.caller.stream_s)
    try:
        async with call.service.budgets.stream(call.caller):
            await _report(call, exchange, wants_tools, task_ids)
    except asyncio.CancelledError:
        if exchange.disconnected:
            raise
    return modern.listen_result(call.request.id, call.service.meta)


def _read_filter(call: Call) -> tuple[bool, list[str] | None]:
    wanted = call.mapping("notifications")
    task_ids = wanted.get("taskIds")
    if task_ids is None:
        return wanted.get("toolsListChanged") is True, None
    call.needs_tasks()
    if not isinstance(task_ids, list) or not all(isinstance(task_id, str) for task_id in task_ids):
        raise RpcError(INVALID_PARAMS, "params.notifications.taskIds must be a list of strings")
    if len(task_ids) > MAX_TASKS:
        raise RpcError(INVALID_PARAMS, f"A stream reports on {MAX_TASKS} tasks at most: open another for the rest")
    return wanted.get("toolsListChanged") is True, list(dict.fromkeys(task_ids))


async def _report(call: Call, exchange: Exchange, wants_tools: bool, task_ids: list[str] | None) -> None:
    """Returns when nothing more can follow (A-21); a filter of which nothing is honoured stays open (M-SUB-08)."""
    changes = call.service.store.changes
    async with changes.watch_tools() as tools, changes.watch() as tasks:
        honoured: dict[str, Any] = {"toolsListChanged": True} if wants_tools else {}
        heads: Mapping[str, TaskRecord] = {}
        if task_ids is not None:
            possible = [task_id for task_id in task_ids if is_task_id(task_id)]
            for task_id in possible:
                tasks.add(task_id)
            heads = await call.service.store.tasks.heads(possible, call.caller.owner)
            honoured["taskIds"] = [task_id for task_id in task_ids if task_id in heads]
            call.service.trail.missing(call.caller.owner, [task_id for task_id in task_ids if task_id not in heads])
        subscription = call.request.id
        await exchange.notify(modern.acknowledged(subscription, honoured))

        async def report_tasks() -> None:
            reported = _Reported(call, exchange)
            alive = await reported.begin(heads)
            while alive:
                changed = alive & await tasks.next()
                if changed:
                    alive -= changed
                    alive |= await reported.follow(changed)

        async def report_tools() -> None:
            while True:
                if await tools.next():
                    await exchange.notify(modern.tools_changed_notification(subscription))

        reports = [report_tasks()] if task_ids is not None else []
        if wants_tools:
            reports.append(report_tools())
        if not reports:
            await asyncio.Event().wait()
        await _all(reports)


class _Reported:
    """What the stream has said of each task, so that nothing is said twice."""

    def __init__(self, call: Call, exchange: Exchange) -> None:
        self._subscription = call.request.id
        self._tasks, self._trail, self._owner = call.service.store.tasks, call.service.trail, call.caller.owner
        self._exchange = exchange
        self._seen: dict[str, datetime] = {}

    async def begin(self, heads: Mapping[str, TaskRecord]) -> set[str]:
        """Report these; the ids of those that can change again."""
        alive = await self._report(head for head in heads.values() if head.status in _WHOLE)
        rest = [head.id for head in heads.values() if head.status not in _WHOLE]
        for first in range(0, len(rest), READS_AT_ONCE):
            few = rest[first : first + READS_AT_ONCE]
            alive |= await self._report((await self._read(self._tasks.get_many, few)).values())
        return alive

    async def follow(self, changed: Collection[str]) -> set[str]:
        """The same for tasks that have changed. A few are one read."""
        if len(changed) <= READS_AT_ONCE:
            return await self._report((await self._read(self._tasks.get_many, changed)).values())
        return await self.begin(await self._read(self._tasks.heads, changed))

    async def _report(self, records: Iterable[TaskRecord]) -> set[str]:
        alive: set[str] = set()
        for record in records:
            if self._seen.get(record.id) != record.updated_at:
                self._seen[record.id] = record.updated_at
                await self._exchange.notify(modern.task_notification(self._subscription, record))
                self._trail.read(self._owner, record)
            if not record.terminal:
                alive.add(record.id)
        return alive

    async def _read(self, read: Read, task_ids: Collection[str]) -> Mapping[str, TaskRecord]:
        """The tasks as they are now; a database that is away is waited for."""
        while True:
            try:
                return await read(task_ids, self._owner)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)


async def _all(reports: Iterable[Any]) -> None:
    running = [asyncio.create_task(report) for report in reports]
    try:
        await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
