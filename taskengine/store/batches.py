"""One round trip and one commit for what several callers ask at the same time.

What comes while a batch is under way goes with the next one: a lone caller pays one statement and waits for nobody, and
under load the statements of many share what costs most, the way to Postgres and the flush of the log. Each is still a
row of its own, with its own conditions and its own fence; only their transaction is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskengine.errors import StoreUnavailable
from taskengine.store.database import Database, Row, held_up
from taskengine.store.statements import Prepared

__all__ = ["Batches", "given_up"]

OVERTAKEN_S = 0.1
"""After this time a batch is no longer waited for by those that come."""
PATIENCE_S = 1.0
"""So long a batch waits for a lock; then it is given up, and what is in it done one by one. One that is slow because
Postgres is slow is left alone: to send it again in parts would only be more of the same."""
MOST_CHARACTERS = 4 * 1024 * 1024
"""Of large parameters in one batch: the small ones do not wait until many large ones are stored."""

_Values = Mapping[str, Any]
_Waiter = tuple[_Values, list["asyncio.Future[Row | None]"]]


class Batches:
    """For one statement that finds or changes one row. Made and used on one event loop."""

    def __init__(
        self,
        database: Database,
        statement: Prepared,
        key: Mapping[str, str],
        *,
        shared: bool = False,
        most: int = 64,
        large: Sequence[str] = (),
        unasked: bool = False,
        line: str | None = None,
        arranged: Callable[[list[_Values]], list[list[_Values]]] = lambda values: [values],
    ) -> None:
        """`key` tells the row of one caller from that of another: its parameters, each with the column that returns
        it. Those who give the same are served by one execution when it is `shared` (a read), else by one batch after
        the other. `most` go into one batch, and as many as fit of those whose parameters `large` are.

        What a caller has asked for who is gone before its batch begins is done only when it is to be `unasked`.
        `arranged` makes the groups of a batch, as `Database.run_many` takes them, from the values of its callers, which
        are in the order of their keys.
        When they are done one by one, those with the same parameter `line` wait for each other and not each with a
        connection.
        """
        self._database = database
        self._statement = statement
        self._parameters = tuple(key)
        self._columns = tuple(key.values())
        self._shared = shared
        self._most = most
        self._large = large
        self._unasked = unasked
        self._line = line
        self._arranged = arranged
        self._waiting: dict[tuple[Any, ...], _Waiter] = {}
        self._later: list[tuple[_Values, asyncio.Future[Row | None]]] = []
        """Whose key is among the waiting already."""
        self._runner: asyncio.Task[None] | None = None

    async def run(self, values: _Values) -> Row | None:
        """The row that the statement returned for these values, None when there was none. Raises StoreUnavailable.

        Whoever is cancelled while he waits does not know whether his statement was done.
        """
        answer: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._add(values, answer)
        if self._runner is None:
            self._begin()
        return await answer

    def _begin(self) -> None:
        self._runner = asyncio.get_running_loop().create_task(self._run())
        self._runner.add_done_callback(self._ended)

    def _add(self, values: _Values, answer: asyncio.Future[Row | None]) -> None:
        key = tuple(values[name] for name in self._parameters)
        if key not in self._waiting:
            self._waiting[key] = (values, [answer])
        elif self._shared:
            self._waiting[key][1].append(answer)
        else:
            self._later.append((values, answer))

    async def _run(self) -> None:
        me = self._runner
        while self._waiting and self._runner is me:
            if batch := self._next():
                await self._serve_or_tell(batch)
        if self._runner is me:
            self._runner = None

    def _ended(self, runner: asyncio.Task[None]) -> None:
        """A runner that was cancelled, perhaps before it began, leaves nobody waiting for it."""
        if self._runner is runner:
            self._runner = None
            waiting, self._waiting = self._waiting, {}
            later, self._later = self._later, []
            stopped = given_up()
            for _, answers in waiting.values():
                _tell(answers, error=stopped)
            _tell([answer for _, answer in later], error=stopped)

    async def _serve_or_tell(self, batch: dict[tuple[Any, ...], _Waiter]) -> None:
        overtaking = asyncio.get_running_loop().call_later(OVERTAKEN_S, self._overtake)
        try:
            await self._serve(batch)
        except BaseException as error:
            cause = error if isinstance(error, Exception) else given_up()
            for _, answers in batch.values():
                _tell(answers, error=cause)
            if cause is not error:
                raise
        finally:
            overtaking.cancel()

    def _overtake(self) -> None:
        """A batch takes long, as one that meets a locked row: those that come now do not wait for it."""
        self._runner = None
        if self._waiting:
            self._begin()

    def _next(self) -> dict[tuple[Any, ...], _Waiter]:
        """The first that wait, as many as a batch may have."""
        batch: dict[tuple[Any, ...], _Waiter] = {}
        characters = 0
        for key in list(self._waiting):
            values, answers = self._waiting[key]
            if not self._unasked and all(answer.done() for answer in answers):
                del self._waiting[key]
                continue
            characters += sum(len(values[name] or "") for name in self._large)
            if batch and (len(batch) == self._most or characters > MOST_CHARACTERS):
                break
            batch[key] = self._waiting.pop(key)
        later, self._later = self._later, []
        for values, answer in later:
            self._add(values, answer)
        return batch

    async def _serve(self, batch: dict[tuple[Any, ...], _Waiter]) -> None:
        alone = len(batch) == 1
        # In one order, as everybody who locks several rows (as far as each is locked by an execution of its own).
        groups = self._arranged([values for _, (values, _) in sorted(batch.items(), key=lambda item: item[0])])
        try:
            if alone and len(groups) == 1:
                rows = await self._database.run(self._statement, groups[0][0])
            else:
                rows = await self._database.run_many(self._statement, groups, None if alone else PATIENCE_S)
        except Exception as error:
            if alone or (isinstance(error, StoreUnavailable) and not held_up(error)):
                raise
            # One of them is refused or waits for a lock, and with it all were or did: each for itself, then.
            lines: dict[Any, dict[tuple[Any, ...], _Waiter]] = {}
            for key, waiter in batch.items():
                lines.setdefault(key if self._line is None else waiter[0][self._line], {})[key] = waiter
            await asyncio.gather(*(self._serve_in_turn(line) for line in lines.values()))
            return
        found = {tuple(row[name] for name in self._columns): row for row in rows}
        for key, (_, answers) in batch.items():
            _tell(answers, found.get(key))

    async def _serve_in_turn(self, line: dict[tuple[Any, ...], _Waiter]) -> None:
        for key, waiter in line.items():
            try:
                await self._serve({key: waiter})
            except Exception as error:
                _tell(waiter[1], error=error)


def given_up() -> StoreUnavailable:
    """For whoever waits for a runner that was cancelled, and is not cancelled himself."""
    return StoreUnavailable("what would have asked it was stopped")


def _tell(
    answers: Sequence[asyncio.Future[Row | None]], row: Row | None = None, error: Exception | None = None
) -> None:
    for answer in answers:
        if answer.done():
            continue
        if error is None:
            answer.set_result(row)
        else:
            answer.set_exception(error)
