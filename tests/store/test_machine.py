"""Random lives of tasks on real Postgres, against a model; and each pair of moves at the same instant.

The interleavings are made, not awaited: a connection beside the store holds the task's row, both moves are started and
seen to wait for it (`pg_blocking_pids`), and then the row is let go. Whichever goes first, the task must be
what the model says after the one order or after the other, and each caller must have been told the same.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, seed, strategies
from hypothesis import Phase as Step
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from taskengine.errors import ClaimLost
from taskengine.lifecycle import Phase, State, Status
from taskengine.losses import Loss
from taskengine.records import Claim, Doorbell, Entry
from taskengine.settings import Settings
from taskengine.store import Store
from tests.services import broken_in
from tests.store.calls import OWNER, new_task, question
from tests.store.model import MAX_CRASHES, Refused, Task

WORKERS = ("w1", "w2")
ALL = ["claim", "complete", "fail", "ask", "record", "sleep", "release", "lose", "answer", "cancel"]
FITTING = {
    Phase.QUEUED: ["claim"] * 4,
    Phase.RUNNING: ["ask", "ask", "record", "record", "sleep", "release", "lose", "complete"],
    Phase.WAITING: ["answer"] * 4,
    Phase.DONE: ["cancel"],
}
"""What gets a task on is drawn more often than what is refused or ends it."""
TASKS = 2
"""Few, so that each gets far."""
KEYS = ("a", "b", "c")
LEASE_S = 1000.0
Move = tuple[Callable[[Task], Any], Callable[[], Coroutine[Any, Any, Any]]]
"""The same move of the model and of the store; both give what the caller is told."""


_numbers = itertools.count()


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

        return lambda task: task.claim(attempt, worker), real

    def complete(self, attempt: int, worker: str) -> Move:
        result = f'{{"by":"{worker}-{attempt}"}}'
        held = claim_of(self.id, attempt, worker)
        return (
            lambda task: task.complete(attempt, worker, result),
            lambda: self.store.attempts.complete(held, result, is_error=False, status_message="Completed"),
        )

    def fail(self, attempt: int, worker: str) -> Move:
        held = claim_of(self.id, attempt, worker)
        return (
            lambda task: task.fail(attempt, worker),
            lambda: self.store.attempts.fail(held, '{"code":-32603,"message":"no"}', status_message="Failed"),
        )

    def ask(self, attempt: int, worker: str, keys: list[str]) -> Move:
        held = claim_of(self.id, attempt, worker)
        # As a tool does it: a later attempt asks under other keys.
        keys = [f"{key}{attempt}" for key in keys]
        return (
            lambda task: task.ask(attempt, worker, keys),
            lambda: self.store.attempts.suspend(held, [question(key) for key in keys], "Waiting"),
        )

    def record(self, attempt: int, worker: str, place: str) -> Move:
        held, value = claim_of(self.id, attempt, worker), str(next(_numbers))  # no two records say the same

        async def real() -> None:
            await self.store.journal.record(held, [Entry(place, "step", "work", value=value)])

        return lambda task: task.record(attempt, worker, place, value), real

    def sleep(self, attempt: int, worker: str, *, over: bool) -> Move:
        held = claim_of(self.id, attempt, worker)
        until = datetime.now(UTC) + timedelta(days=-1 if over else 1)

        async def real() -> None:
            await self.store.waits.park(held, message="Sleeping", wake_at=until)

        return lambda task: task.sleep(attempt, worker, over), real

    def release(self, attempt: int, worker: str) -> Move:
        held = claim_of(self.id, attempt, worker)

        async def real() -> None:
            await self.store.attempts.release(held)

        return lambda task: task.release(attempt, worker), real

    def lose(self, attempt: int, worker: str) -> Move:
        held = claim_of(self.id, attempt, worker)

        async def real() -> bool:
            return await self.store.attempts.lose(held, Loss("killed"), MAX_CRASHES) is not None

        return lambda task: task.lose(attempt, worker), real

    def answer(self, attempt: int, keys: list[str], said: str) -> Move:
        given = {f"{key}{attempt}": said for key in keys}

        async def real() -> bool:
            responses = {key: {"action": said} for key in given}
            return await self.store.inputs.answer(self.id, OWNER, responses) is not None

        return lambda task: task.answer(given), real

    def cancel(self) -> Move:
        return lambda task: task.cancel(), lambda: self.store.tasks.cancel(self.id, OWNER)


@dataclass(frozen=True)
class Drawn:
    """What chance says about a move. What it makes of that may depend on the state of the task; what is drawn must
    not, since a race may end in either state: Hypothesis, which draws the same again, would find other choices there
    and give up (`FlakyStrategyDefinition`)."""

    which: int
    fits: bool
    """Whether it is one that gets the task on, or any."""
    worker: int
    behind: int
    doorbell: int
    """Mostly the attempt that is due; else a doorbell that is late or was never sent."""
    keys: list[str]
    said: str


DRAWN = strategies.builds(
    Drawn,
    which=strategies.integers(0, 839),  # a multiple of the length of every list that it chooses from
    fits=strategies.sampled_from([True, True, True, False]),
    worker=strategies.integers(0, 2 + len(WORKERS)),
    behind=strategies.sampled_from([0, 0, 0, 1]),
    doorbell=strategies.sampled_from([1, 1, 1, 0, 2]),
    keys=strategies.lists(strategies.sampled_from(KEYS), min_size=1, unique=True),
    said=strategies.sampled_from(["accept", "decline"]),
)


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
    if task.state.phase is Phase.WAITING and row["wake_at"] is not None:
        task.alarm = row["wake_at"] < datetime.now(UTC)
    return task


class Bench:
    """What all lives share: the store, a connection that looks, and one that holds rows."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.run(self._open(url, settings))

    async def _open(self, url: str, settings: Settings) -> None:
        self.store = await Store.open(settings)
        self.connection = await asyncpg.connect(url)
        self.holder = await asyncpg.connect(url)

    def close(self) -> None:
        for each in (self.holder.close, self.connection.close, self.store.close):
            self.run(each())
        self.runner.close()

    async def at_once(self, task_id: str, moves: list[Callable[[], Coroutine[Any, Any, Any]]]) -> list[Any]:
        """Start all while the row is held, let it go once each waits for a lock or has ended; what all were told.

        Each begins when the one before it waits: Postgres gives a row to them in the order in which they came, so the
        same life is the same again as far as that is in anybody's hands.
        """
        started: list[asyncio.Task[Any]] = []
        async with self.holder.transaction():
            await self.holder.execute("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", task_id)
            for move in moves:
                started.append(asyncio.create_task(told(move())))
                while await self._waiting() + sum(each.done() for each in started) < len(started):
                    await asyncio.sleep(0.001)
        return list(await asyncio.gather(*started))

    async def _waiting(self) -> int:
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(await self.connection.fetchval(blocked))


class Lives(RuleBasedStateMachine):
    """Some tasks, two workers, any number of clients. `bench` is set by the test."""

    bench: Bench
    tasks_made = Bundle("tasks_made")

    def __init__(self) -> None:
        super().__init__()
        self.store, self.connection, self.run = self.bench.store, self.bench.connection, self.bench.run
        self.model: dict[str, Task] = {}
        self.run(self._begin())

    async def _begin(self) -> None:
        await self.connection.execute("DELETE FROM tasks; DELETE FROM workers")
        for worker in WORKERS:
            await self._register(worker)

    async def _register(self, worker: str) -> None:
        await self.store.workers.register(
            worker, host="h", pid=1, queues=["default"], presence_key=None, lease_s=LEASE_S
        )

    # -- steps

    @precondition(lambda self: len(self.model) < TASKS)
    @rule(target=tasks_made)
    def create(self) -> str:
        new = new_task()
        self.run(self.store.tasks.create(new))
        self.model[new.id] = Task()
        return new.id

    def _do(self, task_id: str, move: Move) -> None:
        model, real = move
        assert self.run(told(real())) == told_by(self.model[task_id], model)

    def _any(self, drawn: Drawn, task_id: str) -> Move:
        """A move by the holder or by somebody who thinks so, and sometimes with an old number."""
        task, moves = self.model[task_id], Moves(self.store, task_id)
        worker = ([task.holder or WORKERS[0]] * 3 + [*WORKERS])[drawn.worker]
        attempt = max(1, task.attempt - drawn.behind)
        fitting = FITTING[task.state.phase]
        which = fitting[drawn.which % len(fitting)] if drawn.fits else ALL[drawn.which % len(ALL)]
        keys = drawn.keys
        return {
            "claim": lambda: moves.claim(max(1, task.attempt + drawn.doorbell), worker),
            "complete": lambda: moves.complete(attempt, worker),
            "fail": lambda: moves.fail(attempt, worker),
            "ask": lambda: moves.ask(attempt, worker, keys),
            "record": lambda: moves.record(attempt, worker, str(len(keys))),
            "sleep": lambda: moves.sleep(attempt, worker, over=drawn.said == "accept"),
            "release": lambda: moves.release(attempt, worker),
            "lose": lambda: moves.lose(attempt, worker),
            "answer": lambda: moves.answer(attempt, keys, drawn.said),
            "cancel": moves.cancel,
        }[which]()

    @rule(task_id=tasks_made, drawn=DRAWN)
    def move(self, task_id: str, drawn: Drawn) -> None:
        self._do(task_id, self._any(drawn, task_id))

    @rule(task_id=tasks_made, worker=strategies.sampled_from(WORKERS))
    def take(self, task_id: str, worker: str) -> None:
        """A claim that is due, so that lives get on."""
        self._do(task_id, Moves(self.store, task_id).claim(self.model[task_id].attempt + 1, worker))

    @rule(task_id=tasks_made, keys=strategies.sets(strategies.sampled_from(KEYS), min_size=1))
    def ask_and_answer_some(self, task_id: str, keys: set[str]) -> None:
        task, moves = self.model[task_id], Moves(self.store, task_id)
        if task.holder is not None:
            self._do(task_id, moves.ask(task.attempt, task.holder, sorted(keys)))
            self._do(task_id, moves.answer(task.attempt, sorted(keys)[:2], "accept"))

    @rule(task_id=tasks_made, place=strategies.sampled_from(["1", "2"]))
    def record_again(self, task_id: str, place: str) -> None:
        """Two results for one place, as from a step whose first record was not heard of."""
        task, moves = self.model[task_id], Moves(self.store, task_id)
        if task.holder is not None:
            for _ in range(2):
                self._do(task_id, moves.record(task.attempt, task.holder, place))

    @rule(worker=strategies.sampled_from(WORKERS))
    def take_the_next(self, worker: str) -> None:
        due = [task_id for task_id, task in self.model.items() if task.state.phase is Phase.QUEUED]
        in_order = "SELECT id FROM tasks WHERE phase = 'queued' ORDER BY priority DESC, turn, created_at"
        queued = [row["id"] for row in self.run(self.connection.fetch(in_order))]
        assert set(queued) == set(due)
        claim = self.run(self.store.attempts.claim_next(["default"], worker))
        assert (None if claim is None else claim.task_id) == (queued[0] if queued else None)
        if claim is not None:
            assert self.model[claim.task_id].claim(claim.attempt, worker)
            given = {key: {"action": said} for key, said in self.model[claim.task_id].answers.items()}
            assert {key: answered.response for key, answered in claim.answers.items()} == given

    @rule(task_id=tasks_made, one=DRAWN, other=DRAWN)
    def race(self, task_id: str, one: Drawn, other: Drawn) -> None:
        """Two moves at the same instant."""
        self._race(task_id, [self._any(each, task_id) for each in (one, other)])

    @rule(task_id=tasks_made)
    def last_answers_at_once(self, task_id: str) -> None:
        task, moves = self.model[task_id], Moves(self.store, task_id)
        if task.holder is not None:
            self._do(task_id, moves.ask(task.attempt, task.holder, ["a", "b"]))
            self._race(task_id, [moves.answer(task.attempt, [key], "accept") for key in ("a", "b")])

    def _race(self, task_id: str, moves: list[Move]) -> None:
        outcomes = []
        for order in ((0, 1), (1, 0)):
            task = copy.deepcopy(self.model[task_id])
            said = {number: told_by(task, moves[number][0]) for number in order}
            outcomes.append((task, [said[0], said[1]]))
        answers = self.run(self.bench.at_once(task_id, [real for _, real in moves]))
        found = self.run(seen(self.connection, task_id))
        assert (found, answers) in outcomes
        self.model[task_id] = found

    @rule()
    def wake(self) -> None:
        """The janitor's round: who is due wakes, and nobody else."""
        due = {task_id for task_id, task in self.model.items() if task.alarm}
        assert {bell.task_id for bell in self.run(self.store.waits.wake_due())} == due
        for task_id in due:
            self.model[task_id].wake()

    @rule(worker=strategies.sampled_from(WORKERS))
    def die(self, worker: str) -> None:
        """Its lease ends, it is buried, and another of the name begins."""

        async def dying() -> None:
            await self.connection.execute(
                "UPDATE workers SET lease_until = now() - interval '1 s' WHERE id = $1", worker
            )
            await self.store.workers.reap(0.0, MAX_CRASHES)
            await self._register(worker)

        self.run(dying())
        for task in self.model.values():
            task.worker_died(worker)

    @precondition(lambda self: self.model)
    @rule()
    def time_passes(self) -> None:
        """All that ended is past its retention and swept; what lives stays."""

        async def sweeping() -> None:
            await self.connection.execute("UPDATE tasks SET expires_at = now() - interval '1 s'")
            await self.store.upkeep.extend()
            await self.store.upkeep.sweep()
            left = {row["id"] for row in await self.connection.fetch("SELECT id FROM tasks")}
            assert left == {task_id for task_id, task in self.model.items() if task.state.phase is not Phase.DONE}
            for task_id in set(self.model) - left:  # so that the bundle's names stay good
                del self.model[task_id]
                await self.store.tasks.create(new_task(id=task_id))
                self.model[task_id] = Task()

        self.run(sweeping())

    @invariant()
    def the_store_agrees(self) -> None:
        async def comparing() -> None:
            for task_id, task in self.model.items():
                assert await seen(self.connection, task_id) == task
            assert await broken_in(self.connection) == []

        self.run(comparing())


SHRINK = "TASKENGINE_TEST_SHRINK" in os.environ
"""Looking for the shortest life that fails takes minutes on a real database: on demand."""
LIVES = int(os.environ.get("TASKENGINE_TEST_LIVES", "30"))
SEED = int(os.environ.get("TASKENGINE_TEST_SEED", "0")) or secrets.randbits(32)


@pytest.mark.timeout(120 + 20 * LIVES)  # forty steps of a life on a busy machine
def test_random_lives_are_what_the_model_says(settings: Settings, database_url: str) -> None:
    """`TASKENGINE_TEST_LIVES` says how many, `TASKENGINE_TEST_SEED` which."""
    bench = Bench(database_url, settings)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            seed(SEED)(type("Lives", (Lives,), {"bench": bench})),
            settings=hypothesis_settings(
                max_examples=LIVES,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                report_multiple_bugs=False,
                phases=[Step.generate] + [Step.shrink] * SHRINK,
            ),
        )
    except BaseException as error:
        error.add_note(f"The same lives again: TASKENGINE_TEST_SEED={SEED} TASKENGINE_TEST_LIVES={LIVES}")
        raise
    finally:
        bench.close()
