"""Writes that commit and are then reported as timed out: what the engine makes of a lost answer, for every write.

Postgres may commit a statement and the connection break before the answer. The caller cannot know, so it writes again
(`Attempt._persistently`, a client that sends its request again, the next round of a janitor). `Doubtful` does that to a
store: of each write of `REPEATED`, at random, what it commits is committed, and the database says that it cannot be had
(`Unheard`, a StoreUnavailable), so that all that stands between the commit and the caller is gone through as it would
be. Then the caller writes again, until it is heard. Idea: Temporal's `ExecuteAndTimeout`.

A test is to get what the first write would have told, though nobody heard it: for that the statements that were
executed are gone through once more, by their recorded rows and without the database. So every test of the store becomes
one of repetition.

What nobody repeats has a repair instead (`NOT_REPEATED`), and a test that goes through it (`test_unheard.py`).
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

from sqlalchemy import Executable

from taskengine.errors import ClaimLost, StoreUnavailable, TaskNotFound
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.batches import Batches
from taskengine.store.database import Database, Rows, Transaction, _text
from taskengine.store.statements import Prepared

UNHEARD = 0.6
"""The chance of a write that its answer is lost."""
_WRITES = re.compile(r"\b(UPDATE \w+ (AS \w+ )?SET|INSERT INTO|DELETE FROM)\b")


class Unheard(StoreUnavailable):
    """It was committed, and nobody was told."""


@dataclass
class _Call:
    """One call of a store's method, as its statements see it."""

    deaf: bool
    """The answer to a commit is lost."""
    heard: int = 0
    """So many writes are heard before."""
    tape: list[Any] = field(default_factory=list)
    """What the database was asked and said: a statement and its rows, or a list of those of a transaction."""
    told: list[Any] = field(default_factory=list)
    """What is still to be said once more instead of asking the database."""

    def again(self, asked: str | None) -> Any:
        """What the database said to this statement, or in a transaction (None); None where there was another then.

        A method may go another way the second time, by what its process has learned (`bounds.Gate`): it asks then.
        """
        if self.told and asked == (None if isinstance(self.told[0], list) else self.told[0][0]):
            return self.told.pop(0)
        self.told.clear()
        return None

    def committed(self, said: Any, *, wrote: bool) -> None:
        self.tape.append(said)
        if self.deaf and wrote:
            self.heard -= 1
            if self.heard < 0:
                self.deaf = False
                raise Unheard("TimeoutError")


_CALL: ContextVar[_Call | None] = ContextVar("call", default=None)


@contextmanager
def unheard(after: int = 0) -> Iterator[None]:
    """The answer to a write in this block is lost, the first or after so many. Raises Unheard."""
    before = _CALL.set(_Call(deaf=True, heard=after))
    try:
        yield
    finally:
        _CALL.reset(before)


class _Recorded(Transaction):
    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.said: list[tuple[str, Rows]] = []
        self.wrote = False

    async def execute(self, statement: Executable | Prepared, values: Mapping[str, Any] | None = None) -> Rows:
        rows = await super().execute(statement, values)
        sql = _sql(statement, values)
        self.said.append((sql, rows))
        self.wrote |= _writes(sql)
        return rows

    async def execute_many(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        await super().execute_many(statement, rows)
        self.wrote = True


class _Told(Transaction):
    """One that has been: the same rows again."""

    def __init__(self, said: list[tuple[str, Rows]]) -> None:
        self._said = list(said)

    async def execute(self, statement: Executable | Prepared, values: Mapping[str, Any] | None = None) -> Rows:
        sql, rows = self._said.pop(0)
        assert sql == _sql(statement, values), "another statement than the first time"
        return rows

    async def execute_many(self, *_: Any) -> None:
        pass


class DoubtfulDatabase(Database):
    async def run(self, statement: Executable | Prepared, values: Mapping[str, Any] | None = None) -> Rows:
        call, sql = _CALL.get(), _sql(statement, values)
        said: tuple[str, Rows] | None = None if call is None else call.again(sql)
        if said is not None:
            return said[1]
        rows = await super().run(statement, values)
        if call is not None:
            call.committed((sql, rows), wrote=_writes(sql))
        return rows

    async def run_many(
        self, statement: Prepared, groups: Sequence[Sequence[Mapping[str, Any]]], patience_s: float | None = None
    ) -> Rows:
        call, sql = _CALL.get(), statement.executions(groups)[0]
        said: tuple[str, Rows] | None = None if call is None else call.again(sql)
        if said is not None:
            return said[1]
        rows = await super().run_many(statement, groups, patience_s)
        if call is not None:
            call.committed((sql, rows), wrote=_writes(sql))
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        call = _CALL.get()
        said = None if call is None else call.again(None)
        if said is not None:
            yield _Told(said)
            return
        async with super().transaction() as connection:
            recorded = _Recorded(connection._connection)
            yield recorded
        if call is not None:
            call.committed(recorded.said, wrote=recorded.wrote)


def _sql(statement: Executable | Prepared, values: Mapping[str, Any] | None) -> str:
    return _text(statement, values or {})[0]


def _writes(sql: str) -> bool:
    return _WRITES.search(sql) is not None


NOUNS = (
    "tasks",
    "attempts",
    "journal",
    "waits",
    "children",
    "stops",
    "inputs",
    "workers",
    "upkeep",
    "keys",
    "sessions",
    "audit",
    "rekey",
    "limits",
    "queues",
)

REPEATED = {
    "tasks": {"create", "cancel"},
    "attempts": {"claim", "suspend", "complete", "fail", "release", "lose", "hand_back", "progress", "keep_token"},
    "journal": {"record"},
    "waits": {"park", "give_up", "withdraw", "forget_questions"},
    "children": {"cancel_orphans"},
    "stops": {"begin"},
    "inputs": {"answer", "offer", "renew", "take_back"},
    "workers": {"renew", "leave", "resign"},
    "upkeep": {"extend", "expire"},
    "keys": {"secret"},
    "sessions": {"end", "set_level", "post"},
    "queues": {"pause", "resume"},
    "rekey": {"batch"},
}
"""What somebody writes again when its answer was lost."""

NOT_REPEATED = {
    "attempts.claim_next": "it would take another task; the heartbeat hands back the one whose answer was lost",
    "limits.claim": "the same, for a task with limits",
    "limits.free": "the doorbells of a lost answer are rung by the relay",
    "limits.free_all": "the same",
    "attempts.log": "a report is lost rather than told twice",
    "waits.take_back": "an attempt that did not hear of it ends, and the heartbeat hands the task back",
    "waits.wake_due": "each round wakes who is due then; the doorbells of a lost answer are rung by the relay",
    "waits.wake_parents": "the same",
    "waits.wake_parent": "the same",
    "stops.note": "a note that was not heard of is looked for and found written",
    "stops.take": "what was taken and not heard of is taken again when the patience is over",
    "upkeep.ring_again": "the janitor goes on with its next round; what was not rung is found again by its time",
    "upkeep.sweep": "each round takes another batch",
    "workers.register": "the next try is another worker, and the first is buried with its lease",
    "workers.reap": "each round buries who is dead then; the doorbells of a lost answer are rung by the relay",
    "upkeep.look": "it notes who is suspected, and looking twice notes the same",
    "sessions.tell": "a notice; who misses it finds the letter at its next look",
    "sessions.fetch": "a letter whose answer was lost is gone; whoever asked for it asks again, under another name",
    "sessions.sweep": "each round takes what is there",
    "audit.add": "a front end writes again what it does not know to be stored: rather an entry twice than none",
    "audit.by_operator": "the same",
    "audit.sweep": "each round takes another batch",
}
"""Writes that nobody repeats, and why that is right; `test_unheard` goes through each."""

READS = {
    "tasks": {"get", "get_many", "heads", "lines", "of_session", "page", "recent", "same_call"},
    "attempts": {"logged"},
    "journal": {"load"},
    "children": {"depth"},
    "waits": {"answers", "due_in_s"},
    "workers": {"alive"},
    "upkeep": {"due"},
    "queues": {"paused", "waiting"},
    "sessions": {"state"},
    "audit": {"find"},
    "rekey": {"left"},
}


class Doubtful(Store):
    """A store whose callers often do not hear that they wrote, and write again."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(DoubtfulDatabase(settings))

    def doubt(self, chance: random.Random) -> None:
        self.repeated: list[str] = []
        for batches in (self.attempts._completing, self.attempts._reporting, self.attempts._claims._named):
            _alone(batches)
        gate = self.tasks._gate
        for batches in (gate._plain, gate._counting, gate._again):
            _alone(batches)
        for noun, names in REPEATED.items():
            methods = getattr(self, noun)
            for name in names:
                setattr(methods, name, self._again(getattr(methods, name), f"{noun}.{name}", chance))

    def _again(self, write: Callable[..., Any], name: str, chance: random.Random) -> Callable[..., Any]:
        @wraps(write)
        async def doubted(*args: Any, **kwargs: Any) -> Any:
            call = _Call(deaf=chance.random() < UNHEARD)
            before = _CALL.set(call)
            try:
                try:
                    return await write(*args, **kwargs)
                except Unheard:
                    self.repeated.append(name)
                call.told = list(call.tape)
                try:
                    answer, refusal = await write(*args, **kwargs), None
                except (ClaimLost, TaskNotFound) as error:
                    answer, refusal = None, error
                await self._until_heard(partial(write, *args, **kwargs), chance)
            finally:
                _CALL.reset(before)
            if refusal is not None:
                raise refusal
            return answer

        return doubted

    async def _until_heard(self, write: Callable[[], Any], chance: random.Random) -> None:
        """As whoever did not hear writes again."""
        while True:
            _CALL.set(_Call(deaf=chance.random() < UNHEARD))
            try:
                await write()
            except Unheard:
                continue
            except (ClaimLost, TaskNotFound):
                pass  # refused, because it is done: the end for whoever repeats it
            return


def _alone(batches: Batches) -> None:
    """Each statement for itself, in the context of its caller: who shares a batch shares what becomes of it (see
    `test_unheard`)."""

    async def run(values: Mapping[str, Any]) -> Any:
        groups = batches._arranged([values])
        if len(groups) == 1:
            return (await batches._database.run(batches._statement, values)).one_or_none()
        return (await batches._database.run_many(batches._statement, groups))[-1]

    setattr(batches, "run", run)  # noqa: B010


def writes_of(store: Store) -> set[str]:
    """Every public coroutine of the nouns, as `noun.name`."""
    return {
        f"{noun}.{name}"
        for noun in NOUNS
        for name, _ in inspect.getmembers(type(getattr(store, noun)), inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
