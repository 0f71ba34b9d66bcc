"""What the handshake's requests share in one process: ids, sessions, and whom news from elsewhere is for."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from taskengine.clientlog import LEVELS
from taskengine.errors import StoreUnavailable
from taskengine.server.exchange import Exchange
from taskengine.server.legacy.elsewhere import Elsewhere
from taskengine.server.legacy.requests import Key, Requests, fingerprint
from taskengine.server.legacy.runs import Runs
from taskengine.server.legacy.session import Session, Sessions
from taskengine.server.legacy.tokens import Tokens
from taskengine.server.legacy.turns import TELLING, Tellers, Turn
from taskengine.server.service import Service
from taskengine.store import Store
from taskengine.store.sessions import Notice
from taskengine.wire.jsonrpc import RequestId

__all__ = ["Front", "Wanted", "key_of"]

logger = logging.getLogger("taskengine.server")

REMEMBERED = 4_096


@dataclass(slots=True, eq=False)
class Wanted:
    """What a stream is told beside answers. The level is the session's, and changes with it (L-LOG-05, L-LOG-07)."""

    progress_token: str | int | None
    log_level: str | None


class Front:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.tokens = Tokens(service.sealer)
        self.sessions = Sessions(service, self.tokens)
        self.requests = Requests()
        self.runs = Runs()
        self.tellers = Tellers(self._tell)
        self.elsewhere = Elsewhere(self.runs, lambda: service.store, self._tell)
        self.answers: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        """Responses waited for by tools that run here, by the id of the request."""
        self.listeners: dict[str, Callable[[Notice], None]] = {}
        """The GET stream of each session that is open here."""
        self._wanted: dict[str, set[Wanted]] = {}
        self._answered: OrderedDict[str, None] = OrderedDict()
        self._ready: OrderedDict[str, None] = OrderedDict()
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
        await self._tell(Notice(session.id, kind, detail))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    @contextmanager
    def wanting(self, session: Session, token: str | int | None) -> Iterator[Wanted]:
        """What the stream of a request is told, kept up to date for as long as the request is in progress."""
        wanted = Wanted(token, session.log_level)
        self._wanted.setdefault(session.id, set()).add(wanted)
        try:
            yield wanted
        finally:
            others = self._wanted[session.id]
            others.discard(wanted)
            if not others:
                del self._wanted[session.id]

    def set_level(self, session: str, level: str) -> None:
        for wanted in self._wanted.get(session, ()):
            wanted.log_level = level

    @contextmanager
    def running(
        self,
        session: Session,
        request_id: RequestId,
        exchange: Exchange,
        on_cancel: Callable[[], None] = lambda: None,
        turn: Turn | None = None,
    ) -> Iterator[None]:
        """The request has a stream here; with a `turn` its client came back, and all front ends are told so."""
        key = key_of(session, request_id)
        with self.requests.running(key, exchange, on_cancel, turn):
            if turn is not None:
                self.spawn(self.tell(session, "back", f"{key[1]} {turn.id}"))
            yield

    async def cancel(self, session: Session, request_id: RequestId) -> None:
        """The request is looked for among those of the same session, in all front ends (X-CANC-14)."""
        await self.requests.cancel(key_of(session, request_id))
        await self.tell(session, "cancel", fingerprint(request_id))

    async def remember_answer(self, session: Session, request_id: str) -> None:
        """No front end takes back what was answered (L-CANC-12)."""
        self._remember(self._answered, fingerprint(request_id))
        await self.tell(session, "answered", fingerprint(request_id))

    def was_answered(self, request_id: str) -> bool:
        return fingerprint(request_id) in self._answered

    async def is_ready(self, session: Session) -> None:
        """The client said that the handshake is over (L-LIFE-06)."""
        if session.is_young and session.id not in self._ready:
            self._remember(self._ready, session.id)
            await self.tell(session, "ready", "")

    def knows_ready(self, session: Session) -> bool:
        return session.id in self._ready or not session.is_young

    async def fetch(self, request_id: str) -> None:
        """Look for an answer that another front end was given. Raises StoreUnavailable."""
        body = await self.service.store.sessions.fetch(fingerprint(request_id))
        future = self.answers.get(request_id)
        if body is not None and future is not None and not future.done():
            future.set_result(json.loads(body))

    async def _tell(self, notice: Notice) -> None:
        try:
            await self.service.store.sessions.tell(notice)
        except StoreUnavailable as error:
            logger.warning("a notice to other front ends was lost: %s", error)
            self._heard(notice)

    def _heard(self, notice: Notice) -> None:
        """Whatever one front end told all, this one included, in the order in which it was told."""
        match notice.kind:
            case "cancel":
                self.spawn(self.requests.cancel((notice.session, notice.detail)))
                return
            case "back":
                request, _, turn_id = notice.detail.partition(" ")
                self.spawn(self.requests.displace((notice.session, request), turn_id))
                return
            case "asks" | "here" | "posted":
                self.spawn(self._quietly(self.elsewhere.heard(notice)))
                return
            case "answer":
                for request_id in [each for each in self.answers if fingerprint(each) == notice.detail]:
                    self.spawn(self._quietly(self.fetch(request_id)))
                return
            case "answered":
                self._remember(self._answered, notice.detail)
                return
            case "level" if notice.detail in LEVELS:
                self.set_level(notice.session, notice.detail)
                return
            case "ready":
                self._remember(self._ready, notice.session)
            case "stream":
                self.spawn(self.tellers.repeat(notice.session))
            case kind if kind == TELLING:
                self.spawn(self.tellers.heard(notice))
        listener = self.listeners.get(notice.session)
        if listener is not None:
            listener(notice)

    @staticmethod
    async def _quietly(work: Awaitable[None]) -> None:
        try:
            await work
        except StoreUnavailable as error:
            logger.warning("an answer cannot be passed on for now: %s", error)

    @staticmethod
    def _remember(known: OrderedDict[str, None], name: str) -> None:
        known[name] = None
        known.move_to_end(name)
        while len(known) > REMEMBERED:
            known.popitem(last=False)

    def _stop(self) -> None:
        self.runs.cancel_all()
        for task in self._background:
            task.cancel()


def key_of(session: Session, request_id: RequestId) -> Key:
    return session.id, fingerprint(request_id)
