"""Which of several streams for the same thing is served: the latest to come, at whichever front end it is (L-TRANS-18).

Each says so to all front ends when it comes. Notices are heard in the order in which they were told, by everybody
alike; so a stream that hears of another after itself knows that the other came later.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from taskengine.store.sessions import Notice

__all__ = ["TELLING", "Teller", "Tellers", "Turn"]

TELLING = "tells"
NOBODY = "-"
Tell = Callable[[Notice], Awaitable[None]]


class Turn:
    """One stream's place among those for the same thing."""

    def __init__(self, *, announced: bool = False) -> None:
        """With `announced` nothing was there before this one."""
        self.id = secrets.token_urlsafe(12)
        self._announced = announced

    def is_over(self, heard: str) -> bool:
        """Whether the stream of which is heard came after this one. What is heard before one's own name is older."""
        if heard == self.id:
            self._announced = True
            return False
        return self._announced


class Teller:
    """A stream that waits for a task's result, and tells how the task goes unless a later one does."""

    def __init__(self, session: str, task_id: str) -> None:
        self.id = secrets.token_urlsafe(12)
        self.session, self.task_id = session, task_id
        self.tells = True


class Tellers:
    """Progress and log lines of a task go to one stream of a session, however many of them wait for its result."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._here: dict[tuple[str, str], list[Teller]] = {}

    @asynccontextmanager
    async def telling(self, session: str, task_id: str) -> AsyncIterator[Teller]:
        """From now on this stream tells. When it ends, those that are left here do."""
        teller = Teller(session, task_id)
        key = (session, task_id)
        here = self._here.setdefault(key, [])
        self._choose(here, None)
        here.append(teller)
        try:
            await self._announce(teller)
            yield teller
        finally:
            here.remove(teller)
            if here:
                self._choose(here, here[-1].id)
                await self._announce(here[-1])
            else:
                self._here.pop(key, None)
                await self._tell(Notice(session, TELLING, f"{task_id} {NOBODY}"))

    async def repeat(self, session: str) -> None:
        """For a stream of the session that has just come and may tell of tasks as well."""
        for teller in [here[-1] for (of, _), here in self._here.items() if of == session]:
            await self._announce(teller)

    async def heard(self, notice: Notice) -> None:
        """The last that is heard decides; when it has gone, the latest that is left."""
        task_id, _, teller_id = notice.detail.partition(" ")
        here = self._here.get((notice.session, task_id), [])
        if teller_id != NOBODY:
            self._choose(here, teller_id)
        elif here:
            self._choose(here, here[-1].id)
            await self._announce(here[-1])

    @staticmethod
    def told(detail: str) -> tuple[str, bool]:
        """The task of a notice, and whether a stream of its own tells of it now."""
        task_id, _, teller_id = detail.partition(" ")
        return task_id, teller_id != NOBODY

    async def _announce(self, teller: Teller) -> None:
        await self._tell(Notice(teller.session, TELLING, f"{teller.task_id} {teller.id}"))

    @staticmethod
    def _choose(here: Iterable[Teller], teller_id: str | None) -> None:
        for teller in here:
            teller.tells = teller.id == teller_id
