"""What can be done to a task, in the model and in the store, and how both are seen and told of."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from taskengine.errors import ClaimLost
from taskengine.lifecycle import Phase, State, Status
from taskengine.losses import Loss
from taskengine.records import Claim, Doorbell, Entry
from taskengine.store import Store
from tests.store.calls import OWNER, question
from tests.store.model import MAX_CRASHES, Refused, Task

LEASE_S = 1000.0
LINGER_S = 1000.0


class Move(NamedTuple):
    """The same move of the model and of the store; both give what the caller is told."""

    model: Callable[[Task], Any]
    real: Callable[[], Coroutine[Any, Any, Any]]
    passing: bool = False
    """It may find the task locked, and pass it over."""
    chore: bool = False
    """It is for the other tasks as well, and its caller is told nothing of this one."""
    takes: bool = False
    """Its worker holds the task afterwards."""

    def passed_over(self, _: Task) -> Any:
        return None if self.chore else False


_numbers = itertools.count()


def tool_of(task_id: str) -> str:
    return f"tool of {task_id}"


def claim_of(task_id: str, attempt: int, worker: str) -> Claim:
    return Claim(task_id, attempt, worker, "count", OWNER, "default", {}, {}, {}, {}, ran_ms=0)


class Moves:
    """What can be done to one task, in the model and in the store."""

    def __init__(self, store: Store, task_id: str) -> None:
        self.store, self.id = store, task_id

    def claim(self, attempt: int, worker: str) -> Move:
        async def real() -> bool:
            bell = Doorbell(self.id, attempt, "default")
            return await self.store.attempts.claim(bell, worker) is not None

        return Move(lambda task: task.claim(attempt, worker), real, takes=True)

    def take(self, worker: str) -> Move:
        """As a worker does it: what is next, which of its tool is this one alone."""

        async def real() -> bool:
            return await self.store.attempts.claim_next(["default"], worker, [tool_of(self.id)]) is not None

        return Move(lambda task: task.take(worker), real, passing=True, takes=True)

    def take_back(self, attempt: int, worker: str) -> Move:
        async def real() -> bool:
            return await self.store.waits.take_back(claim_of(self.id, attempt, worker)) is not None

        return Move(lambda task: task.take_back(attempt, worker), real, takes=True)

    def renew(self, worker: str) -> Move:
        async def real() -> int | None:
            return dict(await self.store.workers.renew(worker, LEASE_S) or {}).get(self.id)

        return Move(lambda task: task.renew(worker), real)

    def bury(self, worker: str) -> Move:
        """Its lease is over already."""

        async def real() -> None:
            await self.store.workers.reap(0.0, MAX_CRASHES)

        return Move(lambda task: task.worker_died(worker), real, passing=True, chore=True)

    def wake(self) -> Move:
        async def real() -> None:
            await self.store.waits.wake_due()

        return Move(Task.wake, real, passing=True, chore=True)

    def expire(self) -> Move:
        """Whoever waits for an answer has waited for too long."""

        async def real() -> None:
            await self.store.upkeep.expire(-LEASE_S, '{"code":-31001,"message":"no"}')

        return Move(Task.expire, real, passing=True, chore=True)

    def complete(self, attempt: int, worker: str) -> Move:
        result = f'{{"by":"{worker}-{attempt}"}}'
        held = claim_of(self.id, attempt, worker)
        return Move(
            lambda task: task.complete(attempt, worker, result),
            lambda: self.store.attempts.complete(held, result, is_error=False, status_message="Completed"),
        )

    def fail(self, attempt: int, worker: str) -> Move:
        held = claim_of(self.id, attempt, worker)
        return Move(
            lambda task: task.fail(attempt, worker),
            lambda: self.store.attempts.fail(held, '{"code":-32603,"message":"no"}', status_message="Failed"),
        )

    def ask(self, attempt: int, worker: str, keys: list[str], *, lingers: bool) -> Move:
        held, questions = claim_of(self.id, attempt, worker), [question(key) for key in keys]

        async def real() -> None:
            linger_s = LINGER_S if lingers else 0.0
            await self.store.waits.park(held, message="Waiting", questions=questions, linger_s=linger_s)

        return Move(lambda task: task.ask(attempt, worker, keys, lingers), real)

    def record(self, attempt: int, worker: str, place: str) -> Move:
        held, value = claim_of(self.id, attempt, worker), str(next(_numbers))  # no two records say the same

        async def real() -> None:
            await self.store.journal.record(held, [Entry(place, "step", "work", value=value)])

        return Move(lambda task: task.record(attempt, worker, place, value), real)

    def sleep(self, attempt: int, worker: str, *, over: bool) -> Move:
        held = claim_of(self.id, attempt, worker)
        until = datetime.now(UTC) + timedelta(days=-1 if over else 1)

        async def real() -> None:
            await self.store.waits.park(held, message="Sleeping", wake_at=until)

        return Move(lambda task: task.sleep(attempt, worker, over), real)

    def release(self, attempt: int, worker: str) -> Move:
        held = claim_of(self.id, attempt, worker)

        async def real() -> None:
            await self.store.attempts.release(held)

        return Move(lambda task: task.release(attempt, worker), real)

    def lose(self, attempt: int, worker: str) -> Move:
        held = claim_of(self.id, attempt, worker)

        async def real() -> bool:
            return await self.store.attempts.lose(held, Loss("killed"), MAX_CRASHES) is not None

        return Move(lambda task: task.lose(attempt, worker), real)

    def answer(self, keys: list[str], said: str) -> Move:
        given = dict.fromkeys(keys, said)

        async def real() -> bool:
            responses = {key: {"action": said} for key in given}
            return await self.store.inputs.answer(self.id, OWNER, responses) is not None

        return Move(lambda task: task.answer(given), real)

    def cancel(self) -> Move:
        return Move(Task.cancel, lambda: self.store.tasks.cancel(self.id, OWNER))


def told_by(task: Task, move: Callable[[Task], Any]) -> Any:
    try:
        return move(task)
    except Refused:
        return Refused


async def told(move: Awaitable[Any]) -> Any:
    try:
        return await move
    except ClaimLost:
        return Refused


async def seen(connection: asyncpg.Connection[Any], task_id: str) -> Task:
    """The task as it stands in the database."""
    row = await connection.fetchrow("SELECT * FROM tasks WHERE id = $1", task_id)
    assert row is not None
    kept = await connection.fetch("SELECT path, value FROM journal WHERE task_id = $1 AND kind = 'step'", task_id)
    asked = await connection.fetch(
        "SELECT key, response::json->>'action' AS said FROM inputs WHERE task_id = $1", task_id
    )
    task = Task(attempt=row["attempt"], holder=row["worker_id"], crashes=row["crashes"], result=row["result"])
    task.state = State(Status(row["status"]), Phase(row["phase"]))
    task.answers = {each["key"]: each["said"] for each in asked}
    task.journal = {each["path"]: each["value"] for each in kept}
    task.kept = None if row["kept_until"] is None else row["kept_until"] > datetime.now(UTC)
    if task.state.phase is Phase.WAITING and row["wake_at"] is not None:
        task.alarm = row["wake_at"] < datetime.now(UTC)
    return task
