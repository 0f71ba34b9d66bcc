"""What a poll, a create and a task's life cost Postgres and the broker: counts, which no machine changes.

A number that grows here makes every deployment slower. One that shrinks is good news: lower it here as well.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from benchmarks.load import Connection, request
from taskengine.children import Child
from taskengine.settings import Settings
from taskengine.store import audit, changes, upkeep, workers
from tests.performance.counting import Commands, Statements
from tests.planted import plant
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
BY_THE_CLOCK = {"PING", "BRPOP", "LLEN"}
"""What is sent to the broker whatever there is to do: signs of life, waiting for a message, the relay's look."""
TOKEN = plant("counted-token")
AT_ONCE = 16
TOGETHER = 4
"""Round trips of so many at most: who comes first may go alone, and some may come while the others are under way."""


@dataclass(frozen=True)
class Cost:
    """Of one piece of work."""

    statements: float
    trips: float
    commits: float
    messages: float = 0
    commands: float = 0
    """To the broker, the messages among them."""


POLL = Cost(statements=1, trips=1, commits=1)
CREATE = Cost(statements=1, trips=1, commits=1, messages=1, commands=1)
"""At the front end, of a call that is answered with its task."""
CREATE_OF_AN_OWNER = Cost(statements=2, trips=1, commits=1, messages=1, commands=2)
"""The same where callers are told apart: the lock under which an owner's open tasks are counted goes ahead in the same
round trip, and the script that counts calls is the other command, at most: some are counted ahead."""
LIFE = Cost(statements=2, trips=2, commits=2, messages=0, commands=0)
"""At the worker, of a task that it hears of, runs and completes: the claim and the end. On the broker nothing is noted
of what it has fetched; what it waits with (BRPOP) does not count."""


class Side:
    """A process and its two wires."""

    def __init__(self) -> None:
        self.statements = Statements(lambda sql: sql in WITHOUT_WORK or any(word in sql for word in OF_A_CONNECTION))
        self.commands = Commands()

    async def connect(self, stack: AsyncExitStack, database_url: str, broker_url: str) -> dict[str, Any]:
        """The settings that lead it over the wires, while the stack lasts."""
        self.database = await stack.enter_async_context(Proxy(database_url, self.statements.tap))
        self.broker = await stack.enter_async_context(Proxy(broker_url, self.commands.tap))
        return {"database_url": SecretStr(self.database.url), "broker_url": SecretStr(self.broker.url)}

    def begin(self) -> None:
        self.statements.executed.clear()
        self.statements.trips = self.statements.commits = 0
        self.commands.sent.clear()

    def cost(self, pieces: int = TIMES) -> Cost:
        """Since `begin`, of each of the pieces."""
        sent = self.commands.sent
        counts = (
            self.statements.executed.total(),
            self.statements.trips,
            self.statements.commits,
            sum(sent[name] for name in PUBLISHED),
            sum(count for name, count in sent.items() if name not in BY_THE_CLOCK),
        )
        return Cost(*(count / pieces for count in counts))


@dataclass
class Measured:
    url: str
    database_url: str
    connection: Connection
    front: Side
    worker: Side
    program: Child
    """The front end."""
    token: str

    async def create(self, connection: Connection | None = None) -> str:
        message = request(self.url, "tools/call", "nothing", {"name": "nothing", "arguments": {}}, token=self.token)
        return str((await (connection or self.connection).send(message))["taskId"])

    async def poll(self, task_id: str, connection: Connection | None = None) -> str:
        message = request(self.url, "tasks/get", task_id, {"taskId": task_id}, token=self.token)
        return str((await (connection or self.connection).send(message))["status"])

    async def at_once(self, ask: Callable[[Connection], Awaitable[str]], connections: list[Connection]) -> list[str]:
        """The answers to requests that are all there before the front end looks at the first."""
        self.program.send(signal.SIGSTOP)
        async with asyncio.timeout(10):
            while b") T " not in await asyncio.to_thread(Path(f"/proc/{self.program.pid}/stat").read_bytes):
                await asyncio.sleep(0.01)
        asked = [asyncio.ensure_future(ask(connection)) for connection in connections]
        await asyncio.sleep(0)  # each has begun, which is to write
        self.program.send(signal.SIGCONT)
        return await asyncio.gather(*asked)

    async def until_done(self, task_id: str) -> None:
        """Seen beside the wires that are counted."""
        async with asyncio.timeout(60):
            while not await execute(self.database_url, "SELECT 1 FROM tasks WHERE id = $1 AND phase = 'done'", task_id):
                await asyncio.sleep(0.02)

    async def rung(self, count: int) -> None:
        """So many doorbells have gone out since `begin`: a worker that helps itself may end a task before that."""
        async with asyncio.timeout(60):
            while sum(self.front.commands.sent[name] for name in PUBLISHED) < count:
                await asyncio.sleep(0.02)

    def begin(self) -> None:
        self.front.begin()
        self.worker.begin()


@asynccontextmanager
async def running(settings: Settings, processes: Processes, token: str = "", **own: Any) -> AsyncIterator[Measured]:
    """A front end and a worker that have done each thing once."""
    urls = settings.database_url.get_secret_value(), settings.broker_url.get_secret_value()
    front, worker = Side(), Side()
    async with AsyncExitStack() as stack:
        settings_of_front = await front.connect(stack, *urls) | own
        settings_of_worker = await worker.connect(stack, *urls)
        program, url = await asyncio.to_thread(lambda: processes.serve(APP, **settings_of_front))
        await asyncio.to_thread(lambda: processes.worker(APP, **settings_of_worker))
        connection = await Connection.open(url)
        made = Measured(url, urls[0], connection, front, worker, program, token)
        task_id = await made.create()
        await made.until_done(task_id)
        await made.poll(task_id)
        await made.rung(1)
        yield made
        await connection.close()


@pytest.fixture
async def measured(settings: Settings, processes: Processes) -> AsyncIterator[Measured]:
    async with running(settings, processes) as made:
        yield made


@pytest.fixture
async def authenticated(settings: Settings, processes: Processes) -> AsyncIterator[Measured]:
    """The same for callers that are told apart, with all the limits that are theirs by default."""
    async with running(settings, processes, TOKEN, auth_tokens=[SecretStr(f"{TOKEN}:ann")]) as made:
        yield made


async def test_a_poll_is_one_statement_in_one_round_trip(measured: Measured) -> None:
    measured.begin()
    task_id = await measured.create()
    await measured.until_done(task_id)
    await measured.rung(1)
    measured.begin()
    for _ in range(TIMES):
        assert await measured.poll(task_id) == "completed"
    assert measured.front.cost() == POLL, measured.front.statements.executed
    assert measured.worker.cost() == Cost(0, 0, 0)


async def test_a_token_costs_a_poll_nothing_and_a_create_the_script_that_counts_calls(authenticated: Measured) -> None:
    authenticated.begin()
    made = []
    for _ in range(TIMES):
        made.append(await authenticated.create())
        await authenticated.until_done(made[-1])
        await authenticated.rung(len(made))
    cost = authenticated.front.cost()
    assert cost.commands <= CREATE_OF_AN_OWNER.commands, authenticated.front.commands.sent
    assert replace(cost, commands=CREATE_OF_AN_OWNER.commands) == CREATE_OF_AN_OWNER, (
        authenticated.front.statements.executed,
        authenticated.front.commands.sent,
    )
    authenticated.begin()
    for task_id in made:
        assert await authenticated.poll(task_id) == "completed"
    assert authenticated.front.cost() == POLL, (
        authenticated.front.statements.executed,
        authenticated.front.commands.sent,
    )


@asynccontextmanager
async def sixteen(measured: Measured) -> AsyncIterator[list[Connection]]:
    """Connections that have asked something."""
    known = await measured.create()
    await measured.until_done(known)
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(AT_ONCE):
            connection = await Connection.open(measured.url)
            stack.push_async_callback(connection.close)
            await measured.poll(known, connection)
            connections.append(connection)
        yield connections


async def test_sixteen_of_an_owner_at_once_are_counted_together(settings: Settings, processes: Processes) -> None:
    """Without a rate of calls: each would wait for the broker's count, and come when that is there."""
    tokens = [SecretStr(f"{TOKEN}:ann")]
    async with (
        running(settings, processes, TOKEN, auth_tokens=tokens, call_rate="0") as measured,
        sixteen(measured) as connections,
    ):
        measured.begin()
        made = await measured.at_once(measured.create, connections)
        for task_id in made:
            await measured.until_done(task_id)
        together = measured.front.cost(1)
        # Locks and creates, however many go with a trip.
        assert together.statements == 2 * together.trips, measured.front.statements.executed
        assert together.trips == together.commits <= TOGETHER


async def test_sixteen_at_once_share_round_trips_commits_and_messages(measured: Measured) -> None:
    async with sixteen(measured) as connections:
        measured.begin()
        measured.front.broker.cut()  # the doorbells that come while one is under way
        made = await measured.at_once(measured.create, connections)
        measured.front.broker.mend()
        for task_id in made:
            await measured.until_done(task_id)
        together = measured.front.cost(1)
        assert together.statements <= TOGETHER, measured.front.statements.executed
        assert together.trips <= TOGETHER
        assert together.commits <= TOGETHER
        assert together.messages <= AT_ONCE.bit_length(), measured.front.commands.sent  # each twice the last
        assert together.commands <= AT_ONCE.bit_length(), measured.front.commands.sent
        measured.begin()
        ids = iter(made)
        answers = await measured.at_once(lambda connection: measured.poll(next(ids), connection), connections)
        assert answers == ["completed"] * AT_ONCE
        together = measured.front.cost(1)
        assert together.statements == AT_ONCE
        assert together.trips <= TOGETHER, measured.front.statements.executed
        assert together.commits <= TOGETHER
        assert together.commands == 0, measured.front.commands.sent


async def test_a_create_is_one_statement_in_one_round_trip_and_one_message(measured: Measured) -> None:
    measured.begin()
    for number in range(TIMES):
        await measured.until_done(await measured.create())
        await measured.rung(number + 1)
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
