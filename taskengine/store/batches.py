"""One round trip and one commit for what several callers ask at the same time.

What comes while a batch is under way goes with the next one: a lone caller pays one statement and waits for nobody, and
under load the statements of many share what costs most, the way to Postgres and the flush of the log. Each is still a
statement of its own, with its own conditions and its own fence; only their transaction is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from taskengine.errors import StoreUnavailable
from taskengine.store.database import Database, Row, deadlocked
from taskengine.store.statements import Prepared

__all__ = ["Batches"]

OVERTAKEN_S = 0.1
"""After this time a batch is no longer waited for by those that come."""
SPLIT_S = 5.0
"""After this time a batch is given up, and what is in it done one by one."""

_Waiter = tuple[Mapping[str, Any], list["asyncio.Future[Row | None]"]]


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
    ) -> None:
        """`key` tells the row of one caller from that of another: its parameters, each with the column that returns
        it. Those who give the same are served by one execution when it is `shared` (a read), else by one batch after
        the other. `most` go into one batch.
        """
        self._database = database
        self._statement = statement
        self._parameters = tuple(key)
        self._columns = tuple(key.values())
        self._shared = shared
        self._most = most
        self._waiting: dict[tuple[Any, ...], _Waiter] = {}
        self._later: list[tuple[Mapping[str, Any], asyncio.Future[Row | None]]] = []
        """Whose key is among the waiting already."""
        self._runner: asyncio.Task[None] | None = None

    async def run(self, values: Mapping[str, Any]) -> Row | None:
        """The row that the statement returned for these values, None when there was none. Raises StoreUnavailable.

        Whoever is cancelled while he waits does not know whether his statement was done.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Row | None] = loop.create_future()
        self._add(values, answer)
        if self._runner is None:
            self._runner = loop.create_task(self._run())
        return await answer

    def _add(self, values: Mapping[str, Any], answer: asyncio.Future[Row | None]) -> None:
        key = tuple(values[name] for name in self._parameters)
        if key not in self._waiting:
            self._waiting[key] = (values, [answer])
        elif self._shared:
            self._waiting[key][1].append(answer)
        else:
            self._later.append((values, answer))

    async def _run(self) -> None:
        me = self._runner
        try:
            while self._waiting and self._runner is me:
                await self._serve_or_tell(self._next())
        finally:
            if self._runner is me:
                self._runner = None

    async def _serve_or_tell(self, batch: dict[tuple[Any, ...], _Waiter]) -> None:
        overtaking = asyncio.get_running_loop().call_later(OVERTAKEN_S, self._overtake)
        try:
            await self._serve(batch)
        except BaseException as error:
            for _, answers in batch.values():
                _tell(answers, error=error)
            if not isinstance(error, Exception):
                raise
        finally:
            overtaking.cancel()

    def _overtake(self) -> None:
        """A batch takes long, as one that meets a locked row: those that come now do not wait for it."""
        self._runner = None
        if self._waiting:
            self._runner = asyncio.get_running_loop().create_task(self._run())

    def _next(self) -> dict[tuple[Any, ...], _Waiter]:
        if len(self._waiting) <= self._most:
            batch, self._waiting = self._waiting, {}
        else:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[: self._most]}
        later, self._later = self._later, []
        for values, answer in later:
            self._add(values, answer)
        return batch

    async def _serve(self, batch: dict[tuple[Any, ...], _Waiter]) -> None:
        try:
            if len(batch) == 1:
                ((values, _),) = batch.values()
                rows = await self._database.run(self._statement, values)
            else:
                # In one order, as everybody who locks several rows.
                ordered = [values for _, (values, _) in sorted(batch.items(), key=lambda item: item[0])]
                rows = await self._database.run_many(self._statement, ordered, SPLIT_S)
        except Exception as error:
            cause = error.__cause__
            tangled = cause is not None and (isinstance(cause, TimeoutError) or deadlocked(cause))
            if len(batch) == 1 or (isinstance(error, StoreUnavailable) and not tangled):
                raise
            # One of them is refused or waits for a lock, and with it all were or did: each for itself, then.
            await asyncio.gather(*(self._serve_alone(key, waiter) for key, waiter in batch.items()))
            return
        found = {tuple(row[name] for name in self._columns): row for row in rows}
        for key, (_, answers) in batch.items():
            _tell(answers, found.get(key))

    async def _serve_alone(self, key: tuple[Any, ...], waiter: _Waiter) -> None:
        try:
            await self._serve({key: waiter})
        except Exception as error:
            _tell(waiter[1], error=error)


def _tell(
    answers: list[asyncio.Future[Row | None]], row: Row | None = None, error: BaseException | None = None
) -> None:
    for answer in answers:
        if answer.done():
            continue
        if error is None:
            answer.set_result(row)
        elif isinstance(error, asyncio.CancelledError):
            answer.cancel()
        else:
            answer.set_exception(error)
