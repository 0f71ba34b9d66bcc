"""What a poll, a create and a task's life cost Postgres and the broker: counts, which no machine changes.

A number that grows here makes every deployment slower. One that shrinks is good news: lower it here as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from benchmarks.load import Connection, request
from taskengine.settings import Settings
from taskengine.store import audit, changes, upkeep, workers
from tests.performance.counting import Commands, Statements
from tests.processes import Processes
from tests.proxy import Proxy
from tests.store.sql import execute

APP = "benchmarks/ours.py:engine"
TIMES = 10
WITHOUT_WORK = {upkeep._LOOK.sql, workers._RENEW.sql, changes._LOOK.sql, audit._ADD.sql, "SELECT 1"}
"""What is sent by the clock, whatever there is to do; and the reads for the audit log, twice a second at most."""
OF_A_CONNECTION = ("set_config('jit'", "typeinfo")
"""In what the driver asks once of a new connection, for the types of arrays."""
PUBLISHED = {"LPUSH", "RPUSH"}


@dataclass(frozen=True)
class Cost:
    """Of one piece of work."""

    statements: float
    trips: float
    messages: float = 0


POLL = Cost(statements=1, trips=1)
CREATE = Cost(statements=1, trips=1, messages=1)
"""At the front end, of a call that is answered with its task."""
LIFE = Cost(statements=2, trips=2)
"""At the worker, of a task that it hears of, runs and completes: the claim and the end."""


class Side:
    """A process and its two wires."""

    def __init__(self) -> None:
        self.statements = Statements(lambda sql: sql in WITHOUT_WORK or any(word in sql for word in OF_A_CONNECTION))
        self.commands = Commands()
        self._before = (0, 0, 0)

    def _now(self) -> tuple[int, int, int]:
        messages = sum(self.commands.sent[name] for name in PUBLISHED)
        return self.statements.executed.total(), self.statements.trips, messages

    def begin(self) -> None:
        self.statements.executed.clear()
        self.statements.trips = 0
        self.commands.sent.clear()

    def cost(self) -> Cost:
        """Since `begin`, of each of `TIMES` pieces."""
        statements, trips, messages = (count / TIMES for count in self._now())
        return Cost(statements, trips, messages)


@dataclass
class Measured:
    url: str
    database_url: str
    connection: Connection
    front: Side
    worker: Side

    async def create(self) -> str:
        message = request(self.url, "tools/call", "nothing", {"name": "nothing", "arguments": {}})
        return str((await self.connection.send(message))["taskId"])

    async def poll(self, task_id: str) -> str:
        return str((await self.connection.send(request(self.url, "tasks/get", task_id, {"taskId": task_id})))["status"])

    async def until_done(self, task_id: str) -> None:
        """Seen beside the wires that are counted."""
        async with asyncio.timeout(60):
            while not await execute(self.database_url, "SELECT 1 FROM tasks WHERE id = $1 AND phase = 'done'", task_id):
                await asyncio.sleep(0.02)

    def begin(self) -> None:
        self.front.begin()
        self.worker.begin()


@pytest.fixture
async def measured(settings: Settings, processes: Processes) -> AsyncIterator[Measured]:
    """A front end and a worker that have done each thing once."""
    database_url, broker_url = settings.database_url.get_secret_value(), settings.broker_url.get_secret_value()
    front, worker = Side(), Side()
    async with AsyncExitStack() as stack:

        async def wires(side: Side) -> dict[str, Any]:
            database = await stack.enter_async_context(Proxy(database_url, side.statements.tap))
            broker = await stack.enter_async_context(Proxy(broker_url, side.commands.tap))
            return {"database_url": SecretStr(database.url), "broker_url": SecretStr(broker.url)}

        own = await wires(front)
        _, url = await asyncio.to_thread(lambda: processes.serve(APP, **own))
        own = await wires(worker)
        await asyncio.to_thread(lambda: processes.worker(APP, **own))
        connection = await Connection.open(url)
        made = Measured(url, database_url, connection, front, worker)
        task_id = await made.create()
        await made.until_done(task_id)
        await made.poll(task_id)
        yield made
        await connection.close()


async def test_a_poll_is_one_statement_in_one_round_trip(measured: Measured) -> None:
    task_id = await measured.create()
    await measured.until_done(task_id)
    measured.begin()
    for _ in range(TIMES):
        assert await measured.poll(task_id) == "completed"
    assert measured.front.cost() == POLL, measured.front.statements.executed
    assert measured.worker.cost() == Cost(0, 0)


async def test_a_create_is_one_statement_in_one_round_trip_and_one_message(measured: Measured) -> None:
    measured.begin()
    for _ in range(TIMES):
        await measured.until_done(await measured.create())
    assert measured.front.cost() == CREATE, (measured.front.statements.executed, measured.front.commands.sent)


async def test_a_task_costs_its_worker_the_claim_and_the_end(measured: Measured) -> None:
    measured.begin()
    for _ in range(TIMES):
        await measured.until_done(await measured.create())
    assert measured.worker.cost() == LIFE, (measured.worker.statements.executed, measured.worker.commands.sent)


async def test_what_a_worker_asks_by_the_clock_is_one_look_and_one_renewal(measured: Measured) -> None:
    """Each chore of the janitors begins only when the look has found work for it."""
    kept = {upkeep._LOOK.sql, workers._RENEW.sql}
    seen: set[str] = set()

    def ignored(sql: str) -> bool:
        seen.add(sql)
        return sql in WITHOUT_WORK

    measured.begin()
    measured.worker.statements.ignored = ignored
    async with asyncio.timeout(60):
        while not kept <= seen:
            await asyncio.sleep(0.1)
    assert not measured.worker.statements.executed
