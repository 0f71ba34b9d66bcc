"""What a task is, in a hundred lines and without SQL: the store must agree with it after every step.

A move is a function of the task as it was; it changes the task and says what the caller is told. `Refused` is what
the store calls ClaimLost: nothing has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from taskengine.lifecycle import Event, Phase, State, Status, transition

MAX_CRASHES = 3


class Refused(Exception):
    pass


@dataclass
class Task:
    state: State = field(default_factory=lambda: State(Status.WORKING, Phase.QUEUED))
    attempt: int = 0
    holder: str | None = None
    crashes: int = 0
    answers: dict[str, str | None] = field(default_factory=dict)
    """By question; None while it is open."""
    result: str | None = None
    journal: dict[str, str] = field(default_factory=dict)
    """What the function has done, by place; the first record of a place stays."""
    alarm: bool | None = None
    """Of a sleeping task: whether its time has come."""
    kept: bool | None = None
    """Whether the attempt that asked last may still take it back, and nobody else; None where it did not linger."""

    def move(self, event: Event) -> None:
        self.state = transition(self.state, event)
        if event is not Event.CLAIM:
            self.holder = None
        self.alarm = None
        if self.state.phase is Phase.DONE:
            self.answers = {key: answer for key, answer in self.answers.items() if answer is not None}

    def current(self, attempt: int, worker: str) -> None:
        if (self.state.phase, self.attempt, self.holder) != (Phase.RUNNING, attempt, worker):
            raise Refused

    # what a worker does

    def claim(self, attempt: int, worker: str) -> bool:
        return attempt == self.attempt + 1 and self.take(worker)

    def take(self, worker: str) -> bool:
        if self.state.phase is not Phase.QUEUED or self.kept:
            return False
        self.move(Event.CLAIM)
        self.attempt, self.holder, self.kept = self.attempt + 1, worker, None
        return True

    def take_back(self, attempt: int, worker: str) -> bool:
        if self.state.phase is not Phase.QUEUED or self.kept is None or attempt != self.attempt:
            return False
        self.move(Event.CLAIM)
        self.holder, self.kept = worker, None
        return True

    def renew(self, worker: str) -> int | None:
        """The attempt that the worker still holds."""
        return self.attempt if self.holder == worker else None

    def complete(self, attempt: int, worker: str, result: str) -> None:
        self.current(attempt, worker)
        self.move(Event.COMPLETE)
        self.result = result

    def fail(self, attempt: int, worker: str) -> None:
        self.current(attempt, worker)
        self.move(Event.FAIL)

    def ask(self, attempt: int, worker: str, keys: list[str], lingers: bool = False) -> None:
        self.current(attempt, worker)
        self.answers |= dict.fromkeys(keys)
        self.move(Event.ASK)
        self.kept = lingers or None

    def record(self, attempt: int, worker: str, place: str, value: str) -> None:
        self.current(attempt, worker)
        self.journal.setdefault(place, value)

    def sleep(self, attempt: int, worker: str, over: bool) -> None:
        self.current(attempt, worker)
        self.move(Event.PARK)
        self.alarm = over

    def release(self, attempt: int, worker: str) -> None:
        self.current(attempt, worker)
        self.move(Event.RELEASE)

    def lose(self, attempt: int, worker: str) -> bool:
        """Whether it is tried again."""
        self.current(attempt, worker)
        self.crashes += 1
        again = self.crashes < MAX_CRASHES
        self.move(Event.LOSE if again else Event.ABANDON)
        return again

    # what others do

    def worker_died(self, worker: str) -> None:
        if self.holder == worker:
            self.lose(self.attempt, worker)

    def answer(self, given: dict[str, str]) -> bool:
        """Whether the next attempt is due."""
        taken = [key for key in given if self.state.phase is Phase.WAITING and self.answers.get(key, "") is None]
        self.answers |= {key: given[key] for key in taken}
        if not taken or None in self.answers.values():
            return False
        self.move(Event.RESUME)
        return True

    def wake(self) -> None:
        if self.alarm:
            self.move(Event.RESUME)

    def expire(self) -> None:
        if self.state.status is Status.INPUT_REQUIRED:
            self.move(Event.EXPIRE)

    def cancel(self) -> None:
        if self.state.phase is not Phase.DONE:
            self.move(Event.CANCEL)
