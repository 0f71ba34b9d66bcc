"""Sessions: begun by `initialize`, known by their id alone, ended by DELETE or by time (L-SESS-01 to L-SESS-12)."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskengine.errors import StoreUnavailable
from taskengine.server.caller import Caller
from taskengine.server.legacy.tokens import Tokens
from taskengine.server.service import Service
from taskengine.store.sessions import SessionState
from taskengine.wire import handshake, legacy

__all__ = ["Session", "SessionGone", "Sessions"]

logger = logging.getLogger("taskengine.server")

HANDSHAKE_S = 30.0
"""After this time a client that never said `notifications/initialized` is taken to be ready all the same."""


class SessionGone(Exception):
    """No such session for this caller: never begun, ended, too old, or another's; all alike (L-SESS-05, L-SESS-11)."""


@dataclass(frozen=True, slots=True)
class Session:
    """What the handshake agreed on."""

    id: str
    """Its random part."""
    version: str
    capabilities: Mapping[str, Any]
    log_level: str
    begun_at: float
    """Seconds since 1970, by the clock of the front end that began it."""
    expires_at: float

    @property
    def features(self) -> handshake.Features:
        return handshake.features(self.version)

    @property
    def is_young(self) -> bool:
        """Its client may not have said yet that the handshake is over (L-LIFE-06)."""
        return time.time() < self.begun_at + HANDSHAKE_S

    @property
    def left_s(self) -> float:
        return max(0.0, self.expires_at - time.time())


class Sessions:
    def __init__(self, service: Service, tokens: Tokens) -> None:
        self._service = service
        self._tokens = tokens

    @property
    def _lasts_s(self) -> float:
        return self._service.settings.session_ttl.total_seconds()

    async def begin(self, caller: Caller, version: str, capabilities: Mapping[str, Any]) -> str:
        """The id of a new session (L-SESS-09). Raises StoreUnavailable."""
        await self._tokens.prepare()
        random = secrets.token_urlsafe(16)
        return self._tokens.seal("session", i=random, v=version, c=capabilities, o=caller.owner)

    async def find(self, token: str, caller: Caller) -> Session:
        """Raises SessionGone, and StoreUnavailable when the key is in a database that is away.

        Whether it was ended is a row. While the database cannot be asked, it counts as going on.
        """
        await self._tokens.prepare()
        try:
            facts = self._tokens.open(token, "session", ttl_s=self._lasts_s)
        except ValueError:
            raise SessionGone from None
        if facts["o"] != caller.owner or facts["v"] not in handshake.VERSIONS:
            raise SessionGone
        try:
            state = await self._service.store.sessions.state(facts["i"])
        except StoreUnavailable as error:
            logger.warning("whether a session was ended is not known: %s", error)
            state = SessionState()
        if state.ended:
            raise SessionGone
        begun_at = self._tokens.sealed_at(token)
        return Session(
            facts["i"],
            facts["v"],
            facts["c"],
            state.log_level or legacy.DEFAULT_LEVEL,
            begun_at,
            begun_at + self._lasts_s,
        )

    async def end(self, session: Session) -> None:
        """Its id is of no use any more, at any front end (L-SESS-07). Raises StoreUnavailable."""
        await self._service.store.sessions.end(session.id, self._lasts_s)

    async def set_level(self, session: Session, level: str) -> None:
        """Raises StoreUnavailable."""
        await self._service.store.sessions.set_level(session.id, level, self._lasts_s)
