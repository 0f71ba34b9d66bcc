"""One attempt at one task: from the claim to its end, whatever ends it.

the tool returned or raised     -> completed or failed
it waits (an answer, a time, a task it called) -> what for is stored, the attempt is over (Suspended)
it raised, and has retries left -> it waits for the next try
the worker drains               -> the task is due again, elsewhere (AttemptReleased)
its process died                -> the task is due again, or fails after too many losses
it was cancelled or superseded  -> nothing is written: the store has moved on
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from taskengine import logs
from taskengine.calling import Outcome, call_async, outcome_of_message
from taskengine.content import encode_json
from taskengine.durations import describe
from taskengine.errors import (
    AttemptLost,
    AttemptReleased,
    ClaimLost,
    InvalidArguments,
    MissingCapability,
    Signal,
    StoreUnavailable,
    Suspended,
    TaskCancelled,
)
from taskengine.execution.cleanups import Cleanups
from taskengine.execution.handover import Renew
from taskengine.execution.processes import NotBegun, ProcessDied, ToolProcess, ToolProcesses
from taskengine.execution.taskport import GivenUp, Stop, TaskPort
from taskengine.losses import Loss
from taskengine.points import point
from taskengine.questions import missing_capabilities
from taskengine.records import Claim, Doorbell
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.tool import Tool

__all__ = ["Attempt", "Stop"]

logger = logging.getLogger("taskengine.execution")

DRAIN_STOP_S = 2.0
"""How long a tool may take to end when the worker's grace is over: the worker has to go."""
OTHER_PROCESSES = 3
"""How many processes may die before a call has begun in one of them, until that counts as the call's doing."""


class Attempt(TaskPort):
    """What its tool asks of it is in `TaskPort`; here is how it runs and ends."""

    def __init__(
        self,
        claim: Claim,
        tool: Tool,
        *,
        store: Store,
        settings: Settings,
        processes: ToolProcesses,
        ring: Callable[[Doorbell], None],
        find: Callable[[str], Tool | None] = lambda _: None,
        may_linger: Callable[[], bool] = lambda: True,
        renew: Renew | None = None,
    ) -> None:
        """As of `TaskPort`."""
        super().__init__(
            claim, tool, store=store, settings=settings, ring=ring, find=find, may_linger=may_linger, renew=renew
        )
        self._processes = processes
        self._process: ToolProcess | None = None
        self._cleanups = Cleanups(store, settings, processes)
        self._how = "the tool stopped"

    # -- what the runner asks of it

    async def run(self) -> None:
        """Run the attempt to its end; raises nothing."""
        claim = self.claim
        with logs.bound(
            task=claim.task_id, attempt=claim.attempt, owner=claim.owner, tool=claim.tool, traceparent=claim.trace
        ):
            await self._run()

    async def _run(self) -> None:
        try:
            ended = await self._ended()
            if ended is not None:
                await self._reports.close()
                point("end.known")
                await self._settle(ended)
                point("end.committed")
            else:
                await self._after_cancel()
            await self._tell_relatives(ended)
        except ClaimLost as lost:
            logger.info("%s: dropped", lost)
            self.unheld = True
            await self._after_cancel()
        except GivenUp:
            logger.warning("%s: fenced before its end could be stored", self)
        except Exception as error:
            logger.exception("%s: the engine itself failed", self)
            await self._hand_back(error)

    async def _after_cancel(self) -> None:
        """Nothing of the attempt is to be stored: if that is because its task was cancelled, say how it ended."""
        fenced = self._stop.done() and self._stop.result() is Stop.FENCED
        if not fenced and (self.cancelled or self.unheld or self._tool.on_cancel is not None):
            await self._cleanups.after_stop(self._tool, self.claim, self._how)

    async def _hand_back(self, error: Exception) -> None:
        """Count the attempt as lost, so that neither a passing fault nor a lasting one leaves the task hanging."""
        try:
            await self._settle(ProcessDied(Loss(f"the engine failed with {type(error).__name__}")))
        except (ClaimLost, GivenUp) as gone:
            logger.info("%s: dropped (%s)", self, type(gone).__name__)

    # -- running

    async def _ended(self) -> Outcome | ProcessDied | type[AttemptReleased] | None:
        try:
            return await self._until_end()
        except ProcessDied as died:  # before it could be given the call
            return died

    async def _until_end(self) -> Outcome | ProcessDied | type[AttemptReleased] | None:
        """What is to be stored; None when the store needs nothing more."""
        if not self._tool.is_async:
            self._process = await self._first_process()
            if self._process is None:
                return AttemptReleased if self._stop.result() is Stop.DRAIN else None
        job = asyncio.get_running_loop().create_task(self._call(), name=str(self))
        watched: set[asyncio.Future[Any]] = {job, self._stop}
        while not job.done() and not self._stop.done():
            left = self._time_left_s()
            if left is not None and left <= 0:
                break
            await asyncio.wait(watched, timeout=left, return_when=asyncio.FIRST_COMPLETED)
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
            outcome = job.result()
        except Suspended as ended:
            ended.__traceback__ = None  # the context keeps it, and by this it would keep the context
            return None
        except ClaimLost:
            self.unheld = True
            return None
        except (AttemptReleased, TaskCancelled, StoreUnavailable) as ended:
            ended.__traceback__ = None
            return AttemptReleased
        except AttemptLost:
            return ProcessDied(Loss("the engine failed in a call of the tool's context"))
        except ProcessDied as died:
            return AttemptReleased if self._stop.done() else died
        # An exception while the worker drains may have come of being told to stop: nothing is held against the task.
        return AttemptReleased if self.draining and outcome.passing else outcome

    async def _first_process(self) -> ToolProcess | None:
        """A process for the call; None when the attempt was stopped before there was one. Raises ProcessDied.

        It may have to be started, and a start may hang: the stop does not wait for it.
        """
        taking = asyncio.get_running_loop().create_task(self._processes.take())
        watched: set[asyncio.Future[Any]] = {taking, self._stop}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if not self._stop.done():
            return taking.result()
        taking.cancel()
        await asyncio.wait({taking})
        if not taking.cancelled() and taking.exception() is None:
            await self._processes.give_back(taking.result())
        return None

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
        if self._tool.is_async:
            return await call_async(self._tool, self.claim.arguments, self, **options)
        others = 0
        while True:
            assert self._process is not None
            if self._stop.done():  # the stop has gone out before the call does
                raise TaskCancelled
            try:
                return await self._process.call(self.claim, self, **options)
            except NotBegun as died:
                others += 1
                if others > OTHER_PROCESSES:
                    raise
                logger.warning("%s: %s before the call had begun: another takes it", self, died)
                self._process = None  # a stop that comes meanwhile cancels the start of the other
                self._process = await self._processes.take()

    async def _end(self, job: asyncio.Task[Outcome], reason: Stop) -> None:
        """Make the tool stop: ask it first, then take its process away. Returns when it has stopped or is left alone.

        An async tool that swallows its cancellation cannot be taken out of the loop: see `strays`.
        """
        grace_s = self._settings.cancel_grace.total_seconds()
        if reason is Stop.DRAIN:
            grace_s = min(grace_s, DRAIN_STOP_S)
        if self._process is None:
            job.cancel()
        elif reason is Stop.FENCED:
            self._process.kill()
        else:
            self._process.stop(AttemptReleased if reason is Stop.DRAIN else TaskCancelled)
        await asyncio.wait({job}, timeout=grace_s)
        if job.done():
            return
        if self._process is not None:
            logger.warning("%s: did not stop when told to: its process is killed", self)
            self._process.kill()
            self._how = "the tool did not stop, its process was replaced"
            await asyncio.wait({job}, timeout=5)
        elif self._tool.is_async:
            logger.error("%s: the async tool goes on after its cancellation; it keeps its slot", self)
            self._how = "the tool did not stop, it was given up"
            self.stray = job

    def _timed_out(self) -> Outcome:
        assert self._tool.timeout is not None
        limit = describe(self._tool.timeout)
        return outcome_of_message(f"The tool ran longer than its limit of {limit} and was stopped.")

    # -- storing the end

    async def _tell_relatives(self, ended: Outcome | ProcessDied | type[AttemptReleased] | None) -> None:
        """The task that called this one may go on; those that this one called end with it. Janitors do it as well."""
        if not isinstance(ended, Outcome):
            return
        with contextlib.suppress(StoreUnavailable):
            if any(entry.kind in {"ask", "call"} for entry in self.journal.values()):
                await self._store.waits.forget_questions(self.claim.task_id)
            if self._alive:
                await self._store.children.cancel_orphans(self.claim.task_id)
            if self.claim.parent is not None:
                await self._wake(self.claim.parent)

    async def _settle(self, ended: Outcome | ProcessDied | type[AttemptReleased]) -> None:
        attempts = self._store.attempts
        if ended is AttemptReleased:
            self._ring(await self._persistently(lambda: attempts.release(self.claim)))
        elif isinstance(ended, ProcessDied):
            logger.warning("%s: %s", self, ended)
            doorbell = await self._persistently(
                lambda: attempts.lose(self.claim, ended.loss, self._settings.max_crashes)
            )
            if doorbell is not None:
                self._ring(doorbell)
        elif isinstance(ended, Outcome):
            backoff = self._tool.retries.wait_after(self.claim.failures + 1) if ended.passing else None
            if backoff is None:
                await self._persistently(lambda: self._store_outcome(ended))
            else:
                await self._try_again(ended, backoff)

    async def _try_again(self, outcome: Outcome, backoff: timedelta) -> None:
        tries = self._tool.retries.count + 1
        message = f"Try {self.claim.failures + 1} of {tries} failed, the next comes in {describe(backoff)}"
        logger.warning("%s: %s", self, message)
        await self._persistently(
            lambda: self._store.waits.park(
                self.claim,
                message=f"{message}: {outcome.message}" if outcome.message else message,
                wake_at=self.clock() + backoff,
                failed=True,
                forget=outcome.loose,
            )
        )

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


def _look_at(job: asyncio.Task[Any]) -> None:
    """Take note of the result of a job nobody asks about any more."""
    if job.done() and not job.cancelled():
        error = job.exception()
        if error is not None and not isinstance(error, (Signal, ClaimLost, ProcessDied)):
            logger.info("a stopped attempt ended with %r", error)
