"""One attempt at one task: from the claim to its end, whatever ends it.

the tool returned or raised     -> completed or failed
it asked and the answer is not there -> the questions are stored, the attempt is over (Suspended)
the worker drains               -> the task is due again, elsewhere (AttemptReleased)
its process died                -> the task is due again, or fails after too many losses
it was cancelled or superseded  -> nothing is written: the store has moved on
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

from taskengine.calling import Outcome, call_async, outcome_of_message
from taskengine.content import encode_json
from taskengine.durations import describe
from taskengine.errors import (
    AttemptReleased,
    ClaimLost,
    InvalidArguments,
    MissingCapability,
    Signal,
    StoreUnavailable,
    Suspended,
    TaskCancelled,
)
from taskengine.execution.processes import ProcessDied, ToolProcess, ToolProcesses
from taskengine.execution.reports import Reports
from taskengine.questions import missing_capabilities
from taskengine.records import Claim, Doorbell, Question
from taskengine.replay import check_replay
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.tool import Tool

__all__ = ["Attempt", "Stop"]

logger = logging.getLogger("taskengine.execution")

_T = TypeVar("_T")
RETRY_S = (0.2, 0.5, 1.0, 2.0)
INTERNAL_ERROR = -32603


class Stop(StrEnum):
    """Why the engine ends a running attempt."""

    CANCELLED = "cancelled"  # the store no longer gives it to this worker
    FENCED = "fenced"  # the worker's lease could not be renewed
    TIMEOUT = "timeout"  # the tool's own limit of running time
    DRAIN = "drain"  # the worker stops and the grace is over


class Attempt:
    """Implements `Port` for the tool it runs."""

    def __init__(
        self,
        claim: Claim,
        tool: Tool,
        *,
        store: Store,
        settings: Settings,
        processes: ToolProcesses,
        ring: Callable[[Doorbell], None],
    ) -> None:
        self.claim = claim
        self.task_id: str | None = claim.task_id
        self.attempt = claim.attempt
        self.capabilities: Mapping[str, Any] = claim.capabilities
        self.first: Mapping[str, Mapping[str, Any]] = claim.first
        self.draining = False
        self._tool = tool
        self._store = store
        self._settings = settings
        self._processes = processes
        self._ring = ring
        self._process: ToolProcess | None = None
        self._reports = Reports(store, claim)
        self._stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()

    # -- what the runner asks of it

    async def run(self) -> None:
        """Run the attempt to its end; raises nothing."""
        try:
            ended = await self._ended()
            if ended is not None:
                await self._reports.close()
                await self._settle(ended)
        except ClaimLost as lost:
            logger.info("%s: dropped", lost)
        except _GivenUp:
            logger.warning("%s: fenced before its end could be stored", self)
        except Exception as error:
            logger.exception("%s: the engine itself failed", self)
            await self._hand_back(error)

    async def _hand_back(self, error: Exception) -> None:
        """Count the attempt as lost, so that neither a passing fault nor a lasting one leaves the task hanging."""
        try:
            await self._settle(ProcessDied(f"the engine failed with {type(error).__name__}"))
        except (ClaimLost, _GivenUp) as gone:
            logger.info("%s: dropped (%s)", self, type(gone).__name__)

    def stop(self, reason: Stop) -> None:
        """End the attempt from outside. The first reason counts."""
        if not self._stop.done():
            self._stop.set_result(reason)

    @property
    def cancelled(self) -> bool:
        return self._stop.done() and self._stop.result() is Stop.CANCELLED

    def __str__(self) -> str:
        return f"task {self.claim.task_id} ({self.claim.tool}) attempt {self.attempt}"

    # -- Port

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._leave_if_draining()
        self._reports.progress(progress, total, message)

    async def log(self, level: str, data: Any, logger: str | None) -> None:
        self._leave_if_draining()
        self._reports.log(level, data, logger)

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        self._leave_if_draining()
        answers = self.claim.answers
        for question in questions:
            if question.key in answers:
                check_replay(answers[question.key].question, question)
        missing = [question for question in questions if question.key not in answers]
        if not missing:
            return {question.key: answers[question.key].response for question in questions}
        await self._reports.close()
        with contextlib.suppress(ClaimLost):  # then the store has moved on, and this attempt is over as well
            await self._persistently(lambda: self._store.attempts.suspend(self.claim, missing, _asking(missing)))
        raise Suspended

    async def tools_changed(self) -> None:
        await self._store.changes.announce_tools()

    # -- running

    def _leave_if_draining(self) -> None:
        if self.draining:
            raise AttemptReleased

    async def _ended(self) -> Outcome | ProcessDied | type[AttemptReleased] | None:
        try:
            return await self._until_end()
        except ProcessDied as died:  # before it could be given the call
            return died

    async def _until_end(self) -> Outcome | ProcessDied | type[AttemptReleased] | None:
        """What is to be stored; None when the store needs nothing more."""
        if not self._tool.is_async:
            self._process = await self._processes.take()
        job = asyncio.get_running_loop().create_task(self._call(), name=str(self))
        watched: set[asyncio.Future[Any]] = {job, self._stop}
        await asyncio.wait(watched, timeout=self._time_left_s(), return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            self.stop(Stop.TIMEOUT)
            await self._end(job, self._stop.result())
        match self._stop.result() if self._stop.done() else None:
            case Stop.CANCELLED | Stop.FENCED:
                _look_at(job)
                return None
            case Stop.TIMEOUT:
                _look_at(job)
                return self._timed_out()
            case Stop.DRAIN if not job.done() or job.cancelled():
                return AttemptReleased
        try:
            return job.result()
        except (Suspended, ClaimLost):
            return None
        except (AttemptReleased, TaskCancelled):
            return AttemptReleased
        except ProcessDied as died:
            return AttemptReleased if self._stop.done() else died

    async def _call(self) -> Outcome:
        """Nobody may have checked the arguments before, or asked what the tool wants to know first: not every wire
        can, and a tool may have changed since."""
        try:
            self._tool.check_arguments(self.claim.arguments)  # nobody is asked for a call that cannot be made
            return await self._ask_first() or await self._run_tool()
        except InvalidArguments as error:
            return outcome_of_message(str(error))
        finally:
            if self._process is not None:
                await self._processes.give_back(self._process)

    async def _ask_first(self) -> Outcome | None:
        """The answers to the tool's first questions are in the claim, or the attempt ends with asking for them.

        Given back is what is missing for that on the client's side.
        """
        questions = [question for question in self._tool.first_questions if question.key not in self.claim.first]
        if not questions:
            return None
        missing = missing_capabilities(questions, self.capabilities)
        if missing:
            error = MissingCapability(missing)
            body = {"code": error.code, "message": error.message, "data": error.data}
            return Outcome(None, error=encode_json(body), message=error.message)
        self.first = {**self.claim.first, **await self.ask(questions)}
        self.claim = replace(self.claim, first=self.first)
        return None

    async def _run_tool(self) -> Outcome:
        options: dict[str, Any] = {
            "show_exceptions": self._settings.show_exceptions,
            "max_result_bytes": self._settings.max_result_bytes,
        }
        if self._process is None:
            return await call_async(self._tool, self.claim.arguments, self, **options)
        return await self._process.call(self.claim, self, **options)

    async def _end(self, job: asyncio.Task[Outcome], reason: Stop) -> None:
        """Make the tool stop: ask it first, then take its process away. Returns when it has stopped or is left alone.

        An async tool that swallows its cancellation cannot be taken out of the loop; what it does later is refused.
        """
        if self._process is None:
            job.cancel()
        elif reason is Stop.FENCED:
            self._process.kill()
        else:
            self._process.stop(AttemptReleased if reason is Stop.DRAIN else TaskCancelled)
        await asyncio.wait({job}, timeout=self._settings.cancel_grace.total_seconds())
        if job.done():
            return
        if self._process is not None:
            logger.warning("%s: did not stop when told to: its process is killed", self)
            self._process.kill()
            await asyncio.wait({job}, timeout=5)
        else:
            logger.error("%s: the async tool did not stop when cancelled", self)

    def _time_left_s(self) -> float | None:
        if self._tool.timeout is None:
            return None
        left = self._tool.timeout - timedelta(milliseconds=self.claim.ran_ms)
        return max(left.total_seconds(), 0.001)

    def _timed_out(self) -> Outcome:
        assert self._tool.timeout is not None
        limit = describe(self._tool.timeout)
        return outcome_of_message(f"The tool ran longer than its limit of {limit} and was stopped.")

    # -- storing the end

    async def _settle(self, ended: Outcome | ProcessDied | type[AttemptReleased]) -> None:
        attempts = self._store.attempts
        if ended is AttemptReleased:
            self._ring(await self._persistently(lambda: attempts.release(self.claim)))
        elif isinstance(ended, ProcessDied):
            error = encode_json(
                {
                    "code": INTERNAL_ERROR,
                    "message": f"The tool's process died {self._settings.max_crashes} times: {ended.cause}",
                }
            )
            logger.warning("%s: %s", self, ended)
            doorbell = await self._persistently(
                lambda: attempts.lose(self.claim, ended.cause, self._settings.max_crashes, error)
            )
            if doorbell is not None:
                self._ring(doorbell)
        elif isinstance(ended, Outcome):
            await self._persistently(lambda: self._store_outcome(ended))

    async def _store_outcome(self, outcome: Outcome) -> None:
        if outcome.result is not None:
            await self._store.attempts.complete(
                self.claim,
                outcome.result,
                is_error=outcome.is_error,
                status_message=outcome.message or "Completed",
                traceback=outcome.traceback,
            )
        else:
            assert outcome.error is not None
            await self._store.attempts.fail(
                self.claim, outcome.error, status_message=outcome.message or "Failed", traceback=outcome.traceback
            )

    async def _persistently(self, write: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a write while the database is away: the work is done and must not be lost.

        Ends when the attempt is fenced, which the lease does in time. A write that had been committed although its
        answer was lost is refused when repeated (ClaimLost), which is the end all the same.
        """
        tries = 0
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                if self._stop.done() and self._stop.result() is Stop.FENCED:
                    raise _GivenUp from error
                logger.warning("%s: %s; trying again", self, error)
                await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1


class _GivenUp(Signal):
    """The attempt was fenced while the database was away."""


def _asking(questions: Sequence[Question]) -> str:
    if len(questions) > 1:
        return f"Waiting for answers: {len(questions)} to go"
    message = questions[0].params.get("message")
    return f"Waiting for an answer: {message}" if isinstance(message, str) else "Waiting for an answer"


def _look_at(job: asyncio.Task[Any]) -> None:
    """Take note of the result of a job nobody asks about any more."""
    if job.done() and not job.cancelled():
        error = job.exception()
        if error is not None and not isinstance(error, (Signal, ClaimLost, ProcessDied)):
            logger.info("a stopped attempt ended with %r", error)
