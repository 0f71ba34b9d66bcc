"""What cannot be inside the id of a 2025-11-25 session: that it ended, its log level, and news for its open streams."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from taskengine.store import channels
from taskengine.store.database import Database
from taskengine.store.statements import prepared
from taskengine.store.tables import letters, sessions

__all__ = ["Notice", "SessionState", "Sessions"]

_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")
LETTER_S = 86_400.0

# Every request of 2025-11-25 meets these.
_STATE = prepared(
    select(sessions.c.ended_at, sessions.c.log_level).where(sessions.c.id == bindparam("session", type_=Text))
)
_TELL = prepared(select(func.pg_notify(channels.SESSIONS, bindparam("notice", type_=Text))))


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session nothing was ever stored of is alive and has no level."""

    ended: bool = False
    log_level: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """What all front ends are told of a session, in the order in which it was told; `detail` says of what.

    Of the session: `ready`, `ended`, `level`. Of its streams: `stream`, `back`, `tells`. Of its requests and tasks:
    `task`, `cancel`, `answer`, `answered`, `asks`, `here`, `posted`.
    """

    session: str
    kind: str
    detail: str

    @classmethod
    def parse(cls, payload: str) -> Notice | None:
        parts = payload.split(" ", 2)
        return cls(*parts) if len(parts) == 3 else None

    def __str__(self) -> str:
        return f"{self.session} {self.kind} {self.detail}"


class Sessions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def state(self, session: str) -> SessionState:
        found = await self._database.run(_STATE, {"session": session})
        row = found.one_or_none()
        return SessionState() if row is None else SessionState(row.ended_at is not None, row.log_level)

    async def end(self, session: str, lasts_s: float) -> None:
        """No front end serves it any more; its id would have been valid for that many seconds."""
        await self._keep(session, lasts_s, ended_at=func.now())
        await self.tell(Notice(session, "ended", ""))

    async def set_level(self, session: str, level: str, lasts_s: float) -> None:
        await self._keep(session, lasts_s, log_level=level)
        await self.tell(Notice(session, "level", level))

    async def tell(self, notice: Notice) -> None:
        """Every front end hears it, if it listens."""
        await self._database.run(_TELL, {"notice": str(notice)})

    async def post(self, letter: str, body: str) -> None:
        """Keep a response for the front end whose call waits for it; the first one counts."""
        await self._database.run(
            insert(letters)
            .values(
                id=letter,
                body=self._database.sealing.seal(letter, "body", body),
                expires_at=func.now() + LETTER_S * _SECOND,
            )
            .on_conflict_do_nothing()
        )

    async def fetch(self, letter: str) -> str | None:
        taken = await self._database.run(delete(letters).where(letters.c.id == letter).returning(letters.c.body))
        body: str | None = taken.scalar_one_or_none()
        return self._database.sealing.open(letter, "body", body)

    async def sweep(self) -> None:
        """Forget what is past its time."""
        await self._database.run(delete(sessions).where(sessions.c.expires_at < func.now()))
        await self._database.run(delete(letters).where(letters.c.expires_at < func.now()))

    async def _keep(self, session: str, lasts_s: float, **values: Any) -> None:
        row = {"id": session, "expires_at": func.now() + lasts_s * _SECOND, **values}
        await self._database.run(
            insert(sessions).values(**row).on_conflict_do_update(index_elements=[sessions.c.id], set_=values)
        )
