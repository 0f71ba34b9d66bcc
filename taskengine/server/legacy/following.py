"""Following a task on a stream: progress, log lines and questions on the way, until it ends or the time is over.

A question is put to one client at a time, by the stream that holds it in the store, and is put again by the next
stream when that one ends or is silent (A-26). A client that comes back to a stream has its questions already.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.questions import missing_capabilities
from taskengine.records import Question, TaskRecord
from taskengine.server.exchange import Exchange
from taskengine.server.legacy.answers import OFFERS, QUESTION, read_question_id
from taskengine.server.legacy.call import Call
from taskengine.server.legacy.front import Wanted
from taskengine.server.legacy.streams import Labelled
from taskengine.server.legacy.turns import Teller
from taskengine.server.progress import Reporter
from taskengine.store.changes import Watch
from taskengine.wire import legacy

__all__ = ["Follower"]

logger = logging.getLogger("taskengine.server")

LOOK_AGAIN_S = 30.0
OFFER_S = 20.0
"""How long a stream that says nothing keeps a question from the others."""
RENEW_S = 5.0
LINES = 500
RETRY_S = 0.5
LONGEST_OUTAGE_S = 30.0
UNNEEDED = "It needs no answer any more"


class _Told:
    """The client, told of one task."""

    def __init__(self, exchange: Exchange, framing: Labelled, task_id: str | None) -> None:
        """With a `task_id` every message names it."""
        self._exchange = exchange
        self._framing = framing
        self._task_id = task_id

    async def notify(self, message: Mapping[str, Any]) -> None:
        if message["method"] == "notifications/progress":
            self._framing.progress = message["params"]["progress"]
        await self._exchange.notify(message if self._task_id is None else legacy.about(message, self._task_id))


class Follower:
    def __init__(
        self,
        call: Call,
        exchange: Exchange,
        framing: Labelled,
        task_id: str,
        *,
        wanted: Wanted,
        teller: Teller | None = None,
    ) -> None:
        """With a `teller` every message names the task, as its client knows of it (L-TASK-42), and it decides whether
        this is the stream that tells how the task goes."""
        self._call = call
        self._exchange = exchange
        self._framing = framing
        self._task_id = task_id
        self._teller = teller
        self._told = _Told(exchange, framing, None if teller is None else task_id)
        self._reporter = Reporter(self._told, wanted, legacy, told=framing.progress)
        self._stream = secrets.token_urlsafe(12)
        self._sent: dict[str, str] = {}
        """Ids of the requests that are out, by the question's key."""
        self._offers: dict[str, int] = {}

    async def follow(self, watch: Watch, *, within_s: float | None = None) -> TaskRecord:
        """The task once it has ended. With `within_s` also as it stands when it has worked for that long, or when it
        asks what cannot be asked here. Raises TaskNotFound, StoreUnavailable.

        Time in which somebody thinks about a question does not count.
        """
        loop = asyncio.get_running_loop()
        left = within_s
        try:
            await self._take_up()
            while True:
                record = await self._read(LONGEST_OUTAGE_S if left is None or self._sent else max(0.0, left))
                await self._report(record)
                await self._ask(record)
                waits = record.status is Status.INPUT_REQUIRED
                if record.terminal or (left is not None and not self._sent and not waits and left <= 0):
                    return record
                if waits and left is not None and not self._sent and await self._still_asks(record):
                    return record
                pause = RENEW_S if waits else LOOK_AGAIN_S
                begun = loop.time()
                await watch.next(pause if left is None or self._sent else min(pause, left))
                if left is not None and not self._sent:
                    left -= loop.time() - begun
        finally:
            if self._sent:
                # A client that gives up says so and closes its stream: the second does not cut short the first.
                await asyncio.shield(self._call.front.spawn(self._take_back()))

    async def _take_back(self) -> None:
        """What is out and unanswered may be put by any other stream, at once."""
        with contextlib.suppress(StoreUnavailable):  # then its time runs out
            await self._call.service.store.inputs.take_back(self._task_id, stream=self._stream)

    async def _take_up(self) -> None:
        """The questions that the client has from before it came back are this stream's, unless another has put them."""
        for request_id in self._framing.asked:
            facts = read_question_id(self._call.front, self._call.session, request_id)
            if facts is not None and facts["kind"] == QUESTION and facts["t"] == self._task_id:
                self._sent[facts["k"]] = request_id
                self._offers[facts["k"]] = facts["n"]
        with contextlib.suppress(StoreUnavailable):  # then they are taken back, and put again
            await self._call.service.store.inputs.offer(self._task_id, self._sent.keys(), self._stream, OFFER_S)

    async def _still_asks(self, record: TaskRecord) -> bool:
        """Whether what could not be put is open all the same, and was not answered in that moment."""
        return (await self._read(LONGEST_OUTAGE_S)).open_questions == record.open_questions

    async def _read(self, patience_s: float) -> TaskRecord:
        """The task as it is now; a database that is away for a while is waited for."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(patience_s, LONGEST_OUTAGE_S)
        while True:
            try:
                return await self._call.service.store.tasks.get(self._task_id, self._call.caller.owner)
            except StoreUnavailable:
                if loop.time() > until:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _report(self, record: TaskRecord) -> None:
        """What is new, or nothing but the place in it where another stream of the session tells the client."""
        tells = self._teller is None or self._teller.tells
        if record.progress is not None and not record.terminal:
            if tells:
                await self._reporter.progress(record.progress, record.progress_total, record.progress_message)
            else:
                self._reporter.told_elsewhere(record.progress)
        try:
            lines = await self._call.service.store.tasks.lines(
                self._task_id, self._call.caller.owner, self._framing.position, LINES
            )
        except StoreUnavailable as error:
            logger.debug("log lines of %s are told later: %s", self._task_id, error)
            return
        for line in lines:
            self._framing.position = line.id
            if tells:
                await self._reporter.log(line.level, json.loads(line.data), line.logger)

    async def _ask(self, record: TaskRecord) -> None:
        """Put what this stream may put; take back what needs no answer from it any more."""
        questions = {question.key: question for question in record.open_questions}
        await self._withdraw([key for key in self._sent if key not in questions])
        if not questions:
            return
        inputs = self._call.service.store.inputs
        try:
            kept = await inputs.renew(self._task_id, self._sent.keys(), self._stream, OFFER_S)
            await self._withdraw([key for key in self._sent if key not in kept])
            wanted = [question for question in questions.values() if self._may_ask(question)]
            keys = {question.key for question in wanted}
            mine = await inputs.offer(self._task_id, keys, self._stream, OFFER_S)
        except StoreUnavailable as error:
            logger.debug("questions of %s are put later: %s", self._task_id, error)
            return
        for question in wanted:
            if question.key in mine:
                await self._put(question)

    async def _withdraw(self, keys: list[str]) -> None:
        for key in keys:
            request_id = self._sent.pop(key)
            self._framing.asked = tuple(self._sent.values())
            if not self._call.front.was_answered(request_id):
                await self._told.notify(legacy.cancelled_notification(request_id, UNNEEDED))

    def _may_ask(self, question: Question) -> bool:
        if question.key in self._sent or self._offers.get(question.key, 0) >= OFFERS:
            return False
        return not missing_capabilities([question], self._call.capabilities)

    async def _put(self, question: Question) -> None:
        """Under a new id each time (L-TASK-40), which leads the answer back from any front end."""
        session, key = self._call.session, question.key
        self._offers[key] = self._offers.get(key, 0) + 1
        request_id = self._call.front.tokens.seal(
            QUESTION, s=session.id, t=self._task_id, k=key, n=self._offers[key], r=secrets.token_urlsafe(6)
        )
        self._sent[key] = request_id
        self._framing.asked = tuple(self._sent.values())
        task_id = None if self._teller is None else self._task_id
        visit = legacy.elicitation_id(self._task_id, key)
        await self._exchange.notify(legacy.server_request(request_id, question, session.version, task_id, visit))
