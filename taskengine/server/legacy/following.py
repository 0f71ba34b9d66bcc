"""Following a task on a stream: progress, log lines and questions on the way, until it ends or the time is over.

A question is put to one client at a time, by the stream that holds it in the store, and is put again by the next
stream when that one ends or is silent (A-26).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.questions import missing_capabilities
from taskengine.records import Question, TaskRecord
from taskengine.server.exchange import Exchange
from taskengine.server.legacy.call import Call
from taskengine.server.legacy.streams import Labelled
from taskengine.server.progress import Reporter
from taskengine.store.changes import Watch
from taskengine.wire import legacy

__all__ = ["Follower", "Wanted"]

logger = logging.getLogger("taskengine.server")

LOOK_AGAIN_S = 30.0
OFFER_S = 20.0
"""How long a stream that says nothing keeps a question from the others."""
RENEW_S = 5.0
OFFERS = 3
"""How often one stream puts a question whose answers do not fit."""
LINES = 500
RETRY_S = 0.5
LONGEST_OUTAGE_S = 30.0


@dataclass(frozen=True, slots=True)
class Wanted:
    progress_token: str | int | None
    log_level: str | None


class Follower:
    def __init__(
        self,
        call: Call,
        exchange: Exchange,
        framing: Labelled,
        task_id: str,
        *,
        about_task: bool,
        progress_token: str | int | None,
    ) -> None:
        """With `about_task` every message names the task, as its client knows of it (L-TASK-42)."""
        self._call = call
        self._exchange = exchange
        self._framing = framing
        self._task_id = task_id
        self._about_task = about_task
        self._reporter = Reporter(self, Wanted(progress_token, call.session.log_level), legacy)
        self._stream = secrets.token_urlsafe(12)
        self._sent: dict[str, str] = {}
        """Ids of the requests that are out, by the question's key."""
        self._offers: dict[str, int] = {}

    async def notify(self, message: Mapping[str, Any]) -> None:
        await self._exchange.notify(legacy.about(message, self._task_id) if self._about_task else message)

    async def follow(self, watch: Watch, *, within_s: float | None = None) -> TaskRecord:
        """The task once it has ended. With `within_s` also as it stands when it has worked for that long, or when it
        asks what cannot be asked here. Raises TaskNotFound, StoreUnavailable.

        Time in which somebody thinks about a question does not count.
        """
        loop = asyncio.get_running_loop()
        left = within_s
        try:
            while True:
                record = await self._read()
                await self._report(record)
                await self._ask(record)
                waits = record.status is Status.INPUT_REQUIRED
                if record.terminal or (left is not None and not self._sent and (waits or left <= 0)):
                    return record
                pause = RENEW_S if waits else LOOK_AGAIN_S
                begun = loop.time()
                await watch.next(pause if left is None or self._sent else min(pause, left))
                if left is not None and not self._sent:
                    left -= loop.time() - begun
        finally:
            if self._sent:
                with contextlib.suppress(StoreUnavailable):  # then its time runs out
                    await self._call.service.store.inputs.take_back(self._task_id, stream=self._stream)

    async def _read(self) -> TaskRecord:
        """The task as it is now; a database that is away for a while is waited for."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LONGEST_OUTAGE_S
        while True:
            try:
                return await self._call.service.store.tasks.get(self._task_id, self._call.caller.owner)
            except StoreUnavailable:
                if loop.time() > until:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _report(self, record: TaskRecord) -> None:
        if record.progress is not None and not record.terminal:
            await self._reporter.progress(record.progress, record.progress_total, record.progress_message)
        try:
            lines = await self._call.service.store.tasks.lines(
                self._task_id, self._call.caller.owner, self._framing.position, LINES
            )
        except StoreUnavailable as error:
            logger.debug("log lines of %s are told later: %s", self._task_id, error)
            return
        for line in lines:
            self._framing.position = line.id
            await self._reporter.log(line.level, json.loads(line.data), line.logger)

    async def _ask(self, record: TaskRecord) -> None:
        """Put what this stream may put; take back what needs no answer any more."""
        questions = {question.key: question for question in record.open_questions}
        for key in [key for key in self._sent if key not in questions]:
            request_id = self._sent.pop(key)
            if request_id not in self._call.front.answered:
                await self.notify(legacy.cancelled_notification(request_id, "It needs no answer any more"))
        if not questions:
            return
        inputs = self._call.service.store.inputs
        try:
            kept = await inputs.renew(self._task_id, self._sent.keys(), self._stream, OFFER_S)
            self._sent = {key: request_id for key, request_id in self._sent.items() if key in kept}
            wanted = [question for question in questions.values() if self._may_ask(question)]
            keys = {question.key for question in wanted}
            mine = await inputs.offer(self._task_id, keys, self._stream, OFFER_S)
        except StoreUnavailable as error:
            logger.debug("questions of %s are put later: %s", self._task_id, error)
            return
        for question in wanted:
            if question.key in mine:
                await self._put(question)

    def _may_ask(self, question: Question) -> bool:
        if question.key in self._sent or self._offers.get(question.key, 0) >= OFFERS:
            return False
        return not missing_capabilities([question], self._call.capabilities)

    async def _put(self, question: Question) -> None:
        """Under a new id each time (L-TASK-40), which leads the answer back from any front end."""
        session = self._call.session
        request_id = self._call.front.tokens.seal(
            "question", s=session.id, t=self._task_id, k=question.key, n=secrets.token_urlsafe(6)
        )
        self._sent[question.key] = request_id
        self._offers[question.key] = self._offers.get(question.key, 0) + 1
        task_id = self._task_id if self._about_task else None
        await self._exchange.notify(legacy.server_request(request_id, question, session.version, task_id))
