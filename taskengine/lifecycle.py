"""The life of a task: statuses, phases, legal moves, poll interval. Pure; imports nothing of ours.

`Status` is what clients see (tasks extension, "Task Status"; M-TASK-21). `Phase` says what the engine is doing
about it. A task is always in one of the pairs of `STATES`; every change is one line of `_NEXT`, and the SQL that
applies an event takes its WHERE from `sources`, so code and database cannot drift.

    created -> queued -CLAIM-> running -COMPLETE-> completed
                 ^ ^              | \\---FAIL------> failed
                 | +-LOSE,RELEASE-+
                 |                | ASK, PARK
                 +---RESUME--- waiting
    CANCEL leads from every live phase to cancelled, EXPIRE and ABANDON from the idle ones to failed.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "STATES",
    "TERMINAL",
    "Event",
    "IllegalTransition",
    "Phase",
    "State",
    "Status",
    "poll_interval",
    "sources",
    "transition",
]


class Status(StrEnum):
    """The five statuses of the protocol (M-TASK-21)."""

    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Phase(StrEnum):
    """What the engine does about the task."""

    QUEUED = "queued"  # an attempt is due; no worker has it
    RUNNING = "running"  # a worker holds the current attempt
    WAITING = "waiting"  # parked until its answers, its time or its children are there; holds no worker
    DONE = "done"  # terminal; never changes again


class State(NamedTuple):
    status: Status
    phase: Phase


QUEUED = State(Status.WORKING, Phase.QUEUED)
RUNNING = State(Status.WORKING, Phase.RUNNING)
WAITING = State(Status.INPUT_REQUIRED, Phase.WAITING)
SLEEPING = State(Status.WORKING, Phase.WAITING)
COMPLETED = State(Status.COMPLETED, Phase.DONE)
FAILED = State(Status.FAILED, Phase.DONE)
CANCELLED = State(Status.CANCELLED, Phase.DONE)

STATES = (QUEUED, RUNNING, WAITING, SLEEPING, COMPLETED, FAILED, CANCELLED)
"""Every legal pair; the table's CHECK repeats it."""


class Event(StrEnum):
    """What can happen to a task."""

    CLAIM = "claim"  # a worker takes it: a new attempt
    COMPLETE = "complete"  # the call ended with a result, `isError` included (M-TASK-36)
    FAIL = "fail"  # the call ended with a JSON-RPC error (M-TASK-37)
    ASK = "ask"  # the attempt ended with open questions
    PARK = "park"  # the attempt ended to wait for a time or for its children
    RESUME = "resume"  # what it waited for is there: the last answer, the time, the children
    LOSE = "lose"  # the attempt's worker or process died
    RELEASE = "release"  # the attempt was handed back unharmed (drain)
    CANCEL = "cancel"  # the client asked for the end
    ABANDON = "abandon"  # too many attempts were lost
    EXPIRE = "expire"  # nobody answered within the longest retention


_NEXT: dict[tuple[State, Event], State] = {
    (QUEUED, Event.CLAIM): RUNNING,
    (QUEUED, Event.CANCEL): CANCELLED,
    (QUEUED, Event.ABANDON): FAILED,
    (RUNNING, Event.COMPLETE): COMPLETED,
    (RUNNING, Event.FAIL): FAILED,
    (RUNNING, Event.ASK): WAITING,
    (RUNNING, Event.PARK): SLEEPING,
    (RUNNING, Event.LOSE): QUEUED,
    (RUNNING, Event.RELEASE): QUEUED,
    (RUNNING, Event.CANCEL): CANCELLED,
    (RUNNING, Event.ABANDON): FAILED,
    (WAITING, Event.RESUME): QUEUED,
    (WAITING, Event.CANCEL): CANCELLED,
    (WAITING, Event.EXPIRE): FAILED,
    (SLEEPING, Event.RESUME): QUEUED,
    (SLEEPING, Event.CANCEL): CANCELLED,
    # a terminal state has no line, so it never changes (M-TASK-28)
}


class IllegalTransition(Exception):
    """The event cannot happen in this state; nothing was changed."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(state, event)
        self.state, self.event = state, event

    def __str__(self) -> str:
        return f"a {self.state.phase} task ({self.state.status}) cannot {self.event}"


def transition(state: State, event: Event) -> State:
    """The state after `event`. Raises IllegalTransition, always so for a terminal state."""
    try:
        return _NEXT[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None


def sources(event: Event) -> tuple[Phase, ...]:
    """The phases `event` may leave: the WHERE of the statement that applies it."""
    return tuple(dict.fromkeys(state.phase for state, edge in _NEXT if edge is event))


def target(event: Event) -> State:
    """The one state `event` leads to, wherever it started: the SET of the statement that applies it."""
    targets = {after for (_, edge), after in _NEXT.items() if edge is event}
    assert len(targets) == 1, f"{event} leads to several states"
    return targets.pop()


SHORTEST_POLL = timedelta(milliseconds=20)
LONGEST_POLL = timedelta(seconds=30)


def poll_interval(age: timedelta, ceiling: timedelta = LONGEST_POLL) -> timedelta:
    """How long a client should wait before it polls a task of this age again.

    A tenth of the age, so that a client learns of the end at most 10 % late while a long task costs few polls;
    never more than `ceiling` (the tool's `poll_interval`) or 30 s, and never less than 20 ms.
    """
    return max(SHORTEST_POLL, min(age / 10, ceiling, LONGEST_POLL))
