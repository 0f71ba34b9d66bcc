"""What the handshake's requests share in one process: ids, sessions, and whom news from elsewhere is for."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from taskengine.errors import StoreUnavailable
from taskengine.server.exchange import Exchange
from taskengine.server.legacy.session import Session, Sessions
from taskengine.server.legacy.streams import Labelled
from taskengine.server.legacy.tokens import Tokens
from taskengine.server.service import Service
from taskengine.store import Store
from taskengine.store.sessions import Notice
from taskengine.wire.jsonrpc import RequestId

__all__ = ["Front", "Run", "Running", "fingerprint"]

logger = logging.getLogger("taskengine.server")

KEPT_RUNS = 256
"""Calls of tools without tasks that have ended and whose client may still come back."""
REMEMBERED_ANSWERS = 4096


class Run(Protocol):
    """A call that goes on here whoever listens."""

    @property
    def id(self) -> str: ...

    @property
    def done(self) -> bool: ...

    def cancel(self) -> None: ...

    async def serve(self, exchange: Exchange, framing: Labelled) -> Any: ...


class Running:
    """A request in progress that its client may cancel (L-CANC-10)."""

    def __init__(self, exchange: Exchange, on_cancel: Callable[[], None]) -> None:
        self.exchange = exchange
        self.on_cancel = on_cancel
        self.cancelled = False

    async def cancel(self) -> None:
        """No response follows, where the form of the answer allows that."""
        self.cancelled = True
        if self.exchange.accepts.events:
            await self.exchange.part()
        self.on_cancel()
        self.exchange.stop()


class Front:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.tokens = Tokens(service.sealer)
        self.sessions = Sessions(service, self.tokens)
        self.running: dict[tuple[str, str], Running] = {}
        self.runs: OrderedDict[str, Run] = OrderedDict()
        self.answers: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        """Responses waited for by tools that run here, by the id of the request."""
        self.answered: OrderedDict[str, None] = OrderedDict()
        """Ids of requests that were answered here: these need no cancellation."""
        self.listeners: dict[str, Callable[[Notice], None]] = {}
        """The GET stream of each session that is open here."""
        self._store: Store | None = None
        self._background: set[asyncio.Task[None]] = set()
        service.on_stop.append(self._stop)

    def attach(self) -> None:
        """Hear what is told by other front ends; again is harmless."""
        if self._store is not self.service.store:
            self._store = self.service.store
            self._store.changes.on_notice.append(self._heard)
        self._store.changes.listen()

    async def tell(self, session: Session, kind: str, detail: str) -> None:
        """Tell every front end, this one included; a database that is away leaves the others uninformed."""
        notice = Notice(session.id, kind, detail)
        try:
            await self.service.store.sessions.tell(notice)
        except StoreUnavailable as error:
            logger.warning("a notice to other front ends was lost: %s", error)
            self._heard(notice)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    @contextmanager
    def cancellable(
        self, session: Session, request_id: RequestId, exchange: Exchange, on_cancel: Callable[[], None]
    ) -> Iterator[Running]:
        key = (session.id, fingerprint(request_id))
        running = self.running[key] = Running(exchange, on_cancel)
        try:
            yield running
        finally:
            if self.running.get(key) is running:
                del self.running[key]

    async def cancel(self, session: Session, request_id: RequestId) -> None:
        """The request is looked for among those of the same session, in all front ends (X-CANC-14)."""
        key = (session.id, fingerprint(request_id))
        if key in self.running:
            await self.running[key].cancel()
        else:
            await self.tell(session, "cancel", key[1])

    def remember_answer(self, request_id: str) -> None:
        self.answered[request_id] = None
        while len(self.answered) > REMEMBERED_ANSWERS:
            self.answered.popitem(last=False)

    def keep(self, run: Run) -> None:
        """Calls that go on are all kept; of those that ended, the latest."""
        self.runs[run.id] = run
        ended = [key for key, each in self.runs.items() if each.done]
        for key in ended[: max(0, len(ended) - KEPT_RUNS)]:
            del self.runs[key]

    def _heard(self, notice: Notice) -> None:
        match notice.kind:
            case "cancel":
                running = self.running.get((notice.session, notice.detail))
                if running is not None:
                    self.spawn(running.cancel())
            case "answer":
                waiting = [key for key in self.answers if fingerprint(key) == notice.detail]
                for key in waiting:
                    self.spawn(self._fetch(key))
            case _:
                listener = self.listeners.get(notice.session)
                if listener is not None:
                    listener(notice)

    async def fetch(self, request_id: str) -> None:
        """Look for an answer that another front end was given. Raises StoreUnavailable."""
        body = await self.service.store.sessions.fetch(fingerprint(request_id))
        future = self.answers.get(request_id)
        if body is not None and future is not None and not future.done():
            future.set_result(json.loads(body))

    async def _fetch(self, request_id: str) -> None:
        try:
            await self.fetch(request_id)
        except StoreUnavailable as error:
            logger.warning("an answer cannot be read for now: %s", error)

    def _stop(self) -> None:
        for run in self.runs.values():
            run.cancel()
        for task in self._background:
            task.cancel()


def fingerprint(request_id: RequestId) -> str:
    """Short, and different for 1 and "1"."""
    return hashlib.sha256(json.dumps(request_id).encode()).hexdigest()
