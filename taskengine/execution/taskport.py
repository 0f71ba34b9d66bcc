"""What a running tool asks of its attempt: reports, questions, the journal, and waiting.

Most waits end the attempt. One that may be short (an answer, a call of another tool) is stored the same way, and then
the attempt lingers: for a moment nobody else may claim the task, and if what it waits for comes, it takes its claim
back and goes on where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from taskengine.calling import Outcome
from taskengine.calls import DEEPEST, too_deep
from taskengine.durations import milliseconds
from taskengine.errors import (
    AttemptReleased,
    ClaimLost,
    DeclarationError,
    ProtocolError,
    Signal,
    StoreUnavailable,
    Suspended,
    TaskCancelled,
    TaskNotFound,
)
from taskengine.execution.guard import guarding
from taskengine.execution.handover import HandedOver, Renew
from taskengine.execution.recorder import Recorder
from taskengine.execution.reports import Reports
from taskengine.identity import AccessToken
from taskengine.lifecycle import LONGEST_POLL, TERMINAL, Status
from taskengine.points import point
from taskengine.port import IN_PLACE
from taskengine.records import Answered, ChildState, Claim, Doorbell, Entry, NewTask, Question, Wait
from taskengine.replay import check_replay
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.tool import Tool

__all__ = ["GivenUp", "Stop", "TaskPort"]

logger = logging.getLogger("taskengine.execution")

_T = TypeVar("_T")
RETRY_S = (0.2, 0.5, 1.0, 2.0)
UNWINDS_WITHIN_S = 5.0
"""How long the function of an attempt that has ended to wait may take over its `finally` blocks."""
TOO_MANY_QUESTIONS = -31012
LINGER_LOOK_S = 0.1
"""How often an attempt that lingers looks whether its slot is needed."""


class Stop(StrEnum):
    """Why the engine ends a running attempt."""

    CANCELLED = "cancelled"  # the store no longer gives it to this worker
    FENCED = "fenced"  # the worker's lease could not be renewed
    TIMEOUT = "timeout"  # the tool's own limit of running time
    DRAIN = "drain"  # the worker stops and the grace is over


class TaskPort:
    """Implements `Port` and `DurablePort`."""

    in_place = IN_PLACE

    def __init__(
        self,
        claim: Claim,
        tool: Tool,
        *,
        store: Store,
        settings: Settings,
        ring: Callable[[Doorbell], None],
        find: Callable[[str], Tool | None],
        may_linger: Callable[[], bool],
        renew: Renew | None,
    ) -> None:
        """`find` knows the tools that may be called; `may_linger` tells whether nobody needs this attempt's slot;
        `renew` gives another token for one that expires."""
        self.claim = claim
        self.task_id: str | None = claim.task_id
        self.attempt = claim.attempt
        self.capabilities: Mapping[str, Any] = claim.capabilities
        self.first: Mapping[str, Mapping[str, Any]] = claim.first
        self.caller = claim.caller
        self.answers: Mapping[str, Answered] = claim.answers
        self.journal: Mapping[str, Entry] = claim.journal
        self.draining = False
        self.parked = False
        """The store has it as waiting, and nobody as its holder, while it lingers for what it waits for."""
        self._parking = False
        """It may be so already: the write is on its way."""
        self.unheld = False
        """It ran while the store did not have it as held, or was refused a write: a cancel may not have been told."""
        self._blank_until = 0.0
        """What the store said before this time (monotonic) of who holds the task proves nothing."""
        self.stray: asyncio.Task[Outcome] | None = None
        """The run of an async tool that did not end when it was told to."""
        self._handed_over = HandedOver(claim, store, renew)
        self._find = find
        self._may_linger = may_linger
        self._recorder = Recorder()
        self._alive = {entry.child_id for entry in claim.journal.values() if _lives(entry)}
        """The tasks it called that had not ended when the journal was read."""
        self._above: int | None = None
        self._began = time.monotonic()
        self._paused_at: float | None = None
        """Since when it lingers; also while it reads what came, once the store has it as held again."""
        self._paused_s = 0.0
        """How long it lingered: waiting is not running."""
        self._tool = tool
        self._store = store
        self._settings = settings
        self._ring = ring
        self._reports = Reports(store, claim, settings.max_log_lines)
        self._stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()

    def stop(self, reason: Stop) -> None:
        """End the attempt from outside. The first reason counts."""
        if not self._stop.done():
            self._stop.set_result(reason)

    def missed(self, looked: float) -> None:
        """The store did not have it as held here, in a look that began at `looked` (monotonic): it is stopped.

        Unless it parked or lingered since, which looks the same from there. If it was taken away as well, it finds
        that out when it writes, or the next look does.
        """
        if not self._parking and not self.parked and self._blank_until <= looked:
            self.stop(Stop.CANCELLED)

    @property
    def cancelled(self) -> bool:
        return self._stop.done() and self._stop.result() is Stop.CANCELLED

    def __str__(self) -> str:
        return f"task {self.claim.task_id} ({self.claim.tool}) attempt {self.attempt}"

    # -- Port

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._leave_if_over()
        self._reports.progress(progress, total, message)

    async def log(self, level: str, data: Any, logger: str | None) -> None:
        self._leave_if_over()
        self._reports.log(level, data, logger)

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        self._leave_if_over()
        while missing := tuple(question for question in questions if question.key not in self.answers):
            await self.park(Wait(missing, message="Waiting for answers"), (), linger=True)
        for question in questions:
            check_replay(self.answers[question.key].question, question)
        return {question.key: self.answers[question.key].response for question in questions}

    @guarding
    async def tools_changed(self) -> None:
        self._leave_if_over()
        await self._store.changes.announce_tools()

    # -- DurablePort

    @property
    def durable(self) -> TaskPort:
        return self

    def clock(self) -> datetime:
        return self.claim.now + timedelta(seconds=time.monotonic() - self._began)

    @guarding
    async def record(self, entry: Entry) -> None:
        await self._or_over(lambda: self._recorder.record(self._record, entry))
        self._leave_if_over()

    @guarding
    async def call(self, entry: Entry, arguments: Mapping[str, Any]) -> Entry:
        self._leave_if_over()
        tool = self._find(entry.name)
        if tool is None:
            raise DeclarationError(f"There is no tool {entry.name!r} to call: is it declared on this engine?")
        if not tool.durable:
            raise DeclarationError(
                f'{entry.name} has task="forbidden" and makes no task to wait for: call its function in a step'
            )
        tool.check_arguments(arguments)
        if await self._depth() >= DEEPEST:
            raise too_deep(entry.name)
        assert entry.child_id is not None
        child = self._child_of(tool, entry.child_id, arguments)
        await self._or_over(lambda: self._recorder.record(self._record, entry, child))
        self._alive.add(child.id)
        return replace(entry, child=ChildState(child.id, tool.name, Status.WORKING))

    async def _depth(self) -> int:
        """How many tasks stand above this one, by their calls."""
        if self._above is None:
            self._above = 0
            if self.claim.parent is not None:
                self._above = await self._persistently(lambda: self._store.children.depth(self.claim.task_id, DEEPEST))
        return self._above

    def _child_of(self, tool: Tool, child_id: str, arguments: Mapping[str, Any]) -> NewTask:
        return NewTask(
            id=child_id,
            owner=self.claim.owner,
            tool=tool.name,
            queue=tool.route,
            arguments=arguments,
            capabilities=self.capabilities,
            ttl_ms=milliseconds(min(tool.ttl or self._settings.ttl, self._settings.max_ttl)),
            poll_interval_ms=max(1, milliseconds(tool.poll_interval or LONGEST_POLL)),
            parent=self.claim.task_id,
            priority=tool.priority,
            slots=tool.slots(self.claim.owner, arguments),
            caller=self.claim.caller,
            token=self._handed_over.held if tool.token else None,
            sensitive=tool.sensitive,
        )

    @guarding
    async def park(self, wait: Wait, entries: Sequence[Entry], *, linger: bool) -> None:
        most = self._settings.max_questions
        if wait.questions and len(self.answers) + len(wait.questions) > most:
            raise ProtocolError(
                TOO_MANY_QUESTIONS, f"A task asks {most} questions at most (max_questions), and this is one more"
            )
        await self._reports.close()
        linger_s = self._settings.linger.total_seconds() if linger and self._may_linger() else 0.0
        if self.draining:
            linger_s = 0.0
        self._parking = True
        try:
            doorbell = await self._or_over(
                lambda: self._persistently(
                    lambda: self._store.waits.park(
                        self.claim,
                        message=wait.message,
                        entries=entries,
                        questions=wait.questions,
                        wake_at=wait.due,
                        wake_open=None if wait.children is None else max(0, len(self._alive) - wait.children),
                        linger_s=linger_s,
                    )
                )
            )
            # From here on it has ended, or it lingers; it is left to unwind, and a tool that does not is stopped later.
            self._blank_until = time.monotonic() + UNWINDS_WITHIN_S
            if wait.questions and self.claim.parent is not None:
                await self._wake(self.claim.parent)
            if linger_s and await self._linger(linger_s, ready=doorbell is not None):
                return
        finally:
            self._parking = False
        if doorbell is not None:
            self._ring(doorbell)
        raise Suspended

    @guarding
    async def give_up(self, entry: Entry, keys: Sequence[str]) -> None:
        found = await self._or_over(
            lambda: self._persistently(lambda: self._store.waits.give_up(self.claim, entry, keys))
        )
        self.answers = {**self.answers, **found}

    @guarding
    async def answer_child(self, child_id: str, responses: Mapping[str, Mapping[str, Any]]) -> None:
        with contextlib.suppress(TaskNotFound):
            doorbell = await self._persistently(
                lambda: self._store.inputs.answer(child_id, self.claim.owner, responses)
            )
            if doorbell is not None:
                self._ring(doorbell)

    @guarding
    async def withdraw(self, child_id: str) -> None:
        await self._or_over(lambda: self._persistently(lambda: self._store.waits.withdraw(self.claim, child_id)))

    @guarding
    async def token(self, valid_for: timedelta) -> AccessToken:
        self._leave_if_over()
        return await self._or_over(lambda: self._handed_over.token(valid_for))

    async def _record(self, entries: Sequence[Entry], children: Sequence[NewTask]) -> None:
        for doorbell in await self._persistently(lambda: self._store.journal.record(self.claim, entries, children)):
            self._ring(doorbell)

    async def _or_over(self, write: Callable[[], Awaitable[_T]]) -> _T:
        """What the write gives; an attempt that has lost its claim is over, and no tool may catch that."""
        try:
            return await write()
        except ClaimLost as lost:
            self.unheld = True
            raise Suspended from lost

    async def _linger(self, seconds: float, *, ready: bool) -> bool:
        """Whether what it waits for came within this time, and the attempt goes on where it is."""
        until = time.monotonic() + seconds
        self._pause()
        try:
            async with self._store.changes.watch([self.claim.task_id]) as watch:
                while True:
                    if ready and await self._taken_back():
                        return True
                    left = until - time.monotonic()
                    if left <= 0 or self.draining or self._stop.done() or not self._may_linger():
                        return False
                    ready = bool(await watch.next(min(left, LINGER_LOOK_S)))
                    if ready and await self._cancelled_meanwhile():
                        self.stop(Stop.CANCELLED)
        finally:
            self._go_on()

    async def _taken_back(self) -> bool:
        waits = self._store.waits
        try:
            ran_ms = await waits.take_back(self.claim)
            if ran_ms is None:
                return False
            # Held again, by the store's word, while the journal is being read.
            self.parked = self.unheld = False
            self._blank_until = time.monotonic()
            self.answers = await waits.answers(self.claim.task_id)
            self.journal = await self._store.journal.load(self.claim.task_id)
        except StoreUnavailable as error:  # held here and run by nobody, perhaps: the heartbeat finds it
            logger.warning("%s: %s while it waited in place", self, error)
            return False
        self._alive = {entry.child_id for entry in self.journal.values() if _lives(entry)}
        self._reports = Reports(self._store, self.claim, self._settings.max_log_lines)
        return True

    async def _cancelled_meanwhile(self) -> bool:
        claim = self.claim
        try:
            return await self._store.stops.begin(claim.task_id, claim.attempt, claim.worker_id)
        except StoreUnavailable:
            return False

    def _pause(self) -> None:
        self.parked = self.unheld = True
        self._paused_at = time.monotonic()

    def _go_on(self) -> None:
        if self.parked:
            self._blank_until = time.monotonic() + UNWINDS_WITHIN_S
        self.parked = False
        assert self._paused_at is not None
        self._paused_s += time.monotonic() - self._paused_at
        self._paused_at = None

    async def _wake(self, parent: str) -> None:
        try:
            for doorbell in await self._store.waits.wake_parent(parent):
                self._ring(doorbell)
        except StoreUnavailable as error:
            logger.debug("%s: its caller is woken later: %s", self, error)

    def _leave_if_over(self) -> None:
        """Nearly every call of the context begins with this: an attempt that has no future ends there."""
        if self.stray is not None:
            raise TaskCancelled
        if self.draining:
            raise AttemptReleased

    def _time_left_s(self) -> float | None:
        if self._tool.timeout is None:
            return None
        if self._paused_at is not None:  # waiting is not running
            return LINGER_LOOK_S
        ran = self.claim.ran_ms / 1000 + time.monotonic() - self._began - self._paused_s
        return self._tool.timeout.total_seconds() - ran

    async def _persistently(self, write: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a write while the database is away: the work is done and must not be lost.

        Ends when the attempt is fenced, which the lease does in time. A write that had been committed although its
        answer was lost is refused when repeated (ClaimLost), which is the end all the same.
        """
        tries = 0
        while True:
            try:
                done = await write()
                point("write.committed")
            except StoreUnavailable as error:
                if self._stop.done() and self._stop.result() is Stop.FENCED:
                    raise GivenUp from error
                logger.warning("%s: %s; trying again", self, error)
                await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1
            else:
                return done


class GivenUp(Signal):
    """The attempt was fenced while the database was away."""


def _lives(entry: Entry) -> bool:
    return entry.child is not None and entry.child.status not in TERMINAL
