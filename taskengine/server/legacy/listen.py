"""The GET stream of a session: changes of its tasks and of the tool list, until either side ends it.

Only the session's latest stream is served, at whichever front end it is (L-TRANS-18). An event's place in the stream is
the time of the latest change told, so whoever comes back is told of what changed since. Progress of a task is told here
as long as no stream waits for its result, which would tell it then (L-TASK-38, L-TASK-47).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.records import TaskRecord
from taskengine.server.caller import Caller
from taskengine.server.exchange import Exchange
from taskengine.server.legacy.front import Front
from taskengine.server.legacy.session import HANDSHAKE_S, Session
from taskengine.server.legacy.streams import Labelled
from taskengine.server.legacy.turns import TELLING, Tellers, Turn
from taskengine.store.changes import ToolsWatch, Watch
from taskengine.store.sessions import Notice
from taskengine.wire import legacy

__all__ = ["listen"]

MAX_TASKS = 1_000
LOOK_AGAIN_S = 30.0
RETRY_S = 1.0
REPLACED = "replaced"
"""What a stream is told when a newer one comes here."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


async def listen(front: Front, caller: Caller, session: Session, exchange: Exchange, framing: Labelled) -> None:
    """Returns when the session ended or has a newer stream; the exchange is closed then."""
    stream = _Stream(front, caller, session, exchange, framing)
    changes = front.service.store.changes
    await exchange.open_stream()
    before = front.listeners.get(session.id)
    front.listeners[session.id] = stream.heard
    try:
        if before is not None:
            before(Notice(session.id, REPLACED, ""))
        async with changes.watch_tools() as tools, changes.watch() as tasks:
            await front.tell(session, "stream", stream.turn.id)
            await stream.run(tasks, tools)
    finally:
        if front.listeners.get(session.id) == stream.heard:
            del front.listeners[session.id]
        await exchange.part(for_good=stream.is_over)


class _Stream:
    def __init__(self, front: Front, caller: Caller, session: Session, exchange: Exchange, framing: Labelled) -> None:
        self.turn = Turn()
        self._front = front
        self._caller = caller
        self._session = session
        self._exchange = exchange
        self._framing = framing
        self._over = asyncio.Event()
        self._ready = asyncio.Event()
        self._told_elsewhere: set[str] = set()
        self._progress: dict[str, float] = {}
        self._tasks: Watch | None = None
        self._seen: dict[str, tuple[Status, str | None]] = {}

    @property
    def is_over(self) -> bool:
        """There is nothing to come back for: the session ended, or it has a newer stream."""
        return self._over.is_set()

    def heard(self, notice: Notice) -> None:
        match notice.kind:
            case "ended" | "replaced":
                self._over.set()
            case "stream" if self.turn.is_over(notice.detail):
                self._over.set()
            case "ready":
                self._ready.set()
            case kind if kind == TELLING:
                task_id, told = Tellers.told(notice.detail)
                (self._told_elsewhere.add if told else self._told_elsewhere.discard)(task_id)
            case "task" if self._tasks is not None and len(self._tasks.ids) < MAX_TASKS:
                self._tasks.add(notice.detail)
                self._tasks.mark(notice.detail)

    async def run(self, tasks: Watch, tools: ToolsWatch) -> None:
        self._tasks = tasks
        running = [
            asyncio.create_task(work)
            for work in (self._over.wait(), self._report_tasks(tasks), self._report_tools(tools))
        ]
        try:
            done, _ = await asyncio.wait(running, timeout=self._session.left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self._over.set()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _report_tools(self, tools: ToolsWatch) -> None:
        while True:
            if await tools.next():
                await self._until_ready()
                await self._exchange.notify(legacy.tools_changed_notification())

    async def _until_ready(self) -> None:
        """Nothing is said before the handshake is over (L-LIFE-06)."""
        if not self._front.knows_ready(self._session):
            with suppress(TimeoutError):
                async with asyncio.timeout(HANDSHAKE_S):
                    await self._ready.wait()

    async def _report_tasks(self, tasks: Watch) -> None:
        since = EPOCH + self._framing.position * MICROSECOND if self._framing.position else None
        while True:
            try:
                records = await self._front.service.store.tasks.of_session(
                    self._session.id, self._caller.owner, since, MAX_TASKS
                )
                break
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
        for record in records:
            if not record.terminal:
                tasks.add(record.id)
            if since is None or record.updated_at <= since:
                self._seen[record.id] = record.status, record.status_message
            if record.progress is not None:
                self._progress[record.id] = record.progress
        await self._report(sorted(records, key=lambda record: record.updated_at))
        while True:
            changed = await tasks.next(LOOK_AGAIN_S)
            if changed:
                await self._report(await self._read(changed))

    async def _read(self, task_ids: Iterable[str]) -> list[TaskRecord]:
        ids = list(task_ids)
        while True:
            try:
                found = await self._front.service.store.tasks.heads(ids, self._caller.owner)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return sorted(found.values(), key=lambda record: record.updated_at)

    async def _report(self, records: Iterable[TaskRecord]) -> None:
        for record in records:
            await self._report_progress(record)
            now = record.status, record.status_message
            if self._seen.get(record.id) == now:
                continue
            self._seen[record.id] = now
            self._framing.position = max(self._framing.position, (record.updated_at - EPOCH) // MICROSECOND)
            await self._exchange.notify(legacy.status_notification(record))
            if record.terminal and self._tasks is not None:
                self._tasks.drop(record.id)
                self._progress.pop(record.id, None)
                self._told_elsewhere.discard(record.id)

    async def _report_progress(self, record: TaskRecord) -> None:
        """What has grown, for the token of the call that made the task, until it ends (L-TASK-47, L-PROG-08)."""
        if record.progress is None or record.progress_token is None or record.terminal:
            return
        if record.progress <= self._progress.get(record.id, -math.inf):
            return
        self._progress[record.id] = record.progress
        if record.id in self._told_elsewhere:
            return
        told = legacy.progress_notification(
            record.progress_token, record.progress, record.progress_total, record.progress_message
        )
        await self._exchange.notify(legacy.about(told, record.id))
