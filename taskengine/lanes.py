"""Lanes: the sequences in which a function's calls get their places.

The function itself is one lane, each branch of a `gather` another; within a lane one thing is done after the other, so
that every run gives the same places to the same calls, however the branches take turns.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from datetime import timedelta

from taskengine.errors import DeclarationError, ReplayMismatch, Signal
from taskengine.records import Entry, Wait

__all__ = ["Asked", "Ended", "Lane", "current_lane", "current_task", "enter_lane"]

Ended = Signal | ReplayMismatch
Asked = tuple[Entry, timedelta | None]
"""Questions that are put when the attempt ends, and how long an answer may take from then."""

_SIDE_BY_SIDE = (
    "Two calls of this context are under way at once: give them to ctx.gather, which runs them side by side so that a "
    "later attempt can tell them apart; a step's function cannot use the context for more than progress and log"
)


class Lane:
    def __init__(self, path: str, root: Lane | None = None) -> None:
        self.path = path
        self._root = root
        self.ended: Ended | None = None
        """What ended this lane, kept in case the tool's code swallowed it."""
        self.waits: list[tuple[Wait, bool]] = []
        """What it waits for, and whether that was the branch's only call."""
        self.asked: list[Asked] = []
        """What of that asks somebody, for the first time."""
        self.alone = False
        """Its branch is one call of another tool and nothing else."""
        self._position = 0
        self._busy = False
        self._users: set[asyncio.Task[object]] = set()
        self._owner = current_task()

    @property
    def root(self) -> Lane:
        """The lane of the function itself."""
        return self._root or self

    def begin(self) -> str:
        """The place of the next call. Raises DeclarationError while another is under way."""
        task = current_task()
        self._users = {user for user in self._users if not user.done()}
        if self._busy or self._users - {task}:
            raise DeclarationError(_SIDE_BY_SIDE)
        if task is not None and task is not self._owner:
            self._users.add(task)
        self._busy = True
        self._position += 1
        return f"{self.path}.{self._position}" if self.path else str(self._position)

    def finish(self) -> None:
        self._busy = False


_LANE: ContextVar[Lane | None] = ContextVar("taskengine_lane", default=None)


def current_lane(root: Lane) -> Lane:
    """The lane of this task, among those of the function whose lane is `root`."""
    lane = _LANE.get()
    return lane if lane is not None and lane.root is root else root


def enter_lane(lane: Lane) -> None:
    """For the rest of this asyncio task, or of this copy of a context."""
    lane._owner = current_task()  # noqa: SLF001 - it was made by the task that forks
    _LANE.set(lane)


def current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
