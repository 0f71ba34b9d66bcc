"""The harness's own parts: points, the proxy, the order of a plan, the bars."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import pytest

from taskengine import points
from taskengine.errors import StoreUnavailable
from tests.chaos import triggers
from tests.chaos.faults_soak import slope
from tests.chaos.ledger import Ledger
from tests.chaos.program import PHASES, Plan
from tests.chaos.proxy import Proxy
from tests.chaos.quantiles import quantile
from tests.chaos.report import lines, table
from tests.chaos.run import FAULTS, LEFT_OUT, Injection
from tests.processes import ROOT


def test_a_point_does_nothing_until_an_action_is_installed() -> None:
    passed: list[str] = []
    points.point("claim.committed")
    points.install(passed.append)
    try:
        points.point("claim.committed")
    finally:
        points.install(None)
    points.point("claim.committed")
    assert passed == ["claim.committed"]


def test_an_armed_point_acts_once(tmp_path: Path) -> None:
    triggers.listen(tmp_path)
    try:
        triggers.arm(tmp_path, "end.known", "raise")
        points.point("end.committed")
        with pytest.raises(StoreUnavailable):
            points.point("end.known")
        points.point("end.known")
    finally:
        points.install(None)
    ledger = Ledger(tmp_path / "ledger")
    ledger.refresh()
    assert [entry.note for entry in ledger.entries] == ["end.known raise"]
    assert not triggers.disarm(tmp_path, "end.known")


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Before a server that answers every line with "ok"."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.readline():
                writer.write(b"ok\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    started = Proxy(lambda: asyncio.open_connection("127.0.0.1", port))
    await started.start()
    yield started
    await started.stop()
    server.close()
    await asyncio.sleep(0.1)


@asynccontextmanager
async def _linked(proxy: Proxy) -> AsyncIterator[Callable[[bytes], Awaitable[bytes]]]:
    """A connection through the proxy, as a function that says something and gives the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

    async def say(words: bytes) -> bytes:
        writer.write(words)
        return await asyncio.wait_for(reader.readline(), 1)

    try:
        yield say
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_the_proxy_hands_on_and_resets(proxy: Proxy) -> None:
    async with _linked(proxy) as say:
        assert await say(b"hello\n") == b"ok\n"
        proxy.set("reset")
        with pytest.raises(ConnectionError):
            await say(b"hello\n")
    async with _linked(proxy) as say:
        assert await say(b"hello\n") == b"ok\n"


async def test_the_proxy_refuses_until_it_passes(proxy: Proxy) -> None:
    proxy.set("refuse")
    async with _linked(proxy) as say:
        with pytest.raises(ConnectionError):
            await say(b"hello\n")
    proxy.set("pass")
    async with _linked(proxy) as say:
        assert await say(b"hello\n") == b"ok\n"


async def test_the_proxy_keeps_silent_and_hands_on_later(proxy: Proxy) -> None:
    async with _linked(proxy) as say:
        assert await say(b"hello\n") == b"ok\n"
        proxy.set("blackhole")
        with pytest.raises(TimeoutError):
            await say(b"hello\n")
        proxy.set("pass")
        assert await say(b"") == b"ok\n"


async def test_the_proxy_loses_one_answer_of_postgres_that_reports_a_write(database_url: str) -> None:
    """What was committed is committed, and who asked for it does not learn so."""
    host, port = urlsplit(database_url).hostname, urlsplit(database_url).port
    folder = dict(parse_qsl(urlsplit(database_url).query)).get("host")

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if folder is None:
            return await asyncio.open_connection(host, port)
        return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")

    ambiguous = Proxy(connect)
    await ambiguous.start()
    through = urlsplit(database_url)._replace(netloc=f"postgres@127.0.0.1:{ambiguous.port}", query="").geturl()
    connection = await asyncpg.connect(through)
    await connection.execute("CREATE TABLE notes (note text)")
    ambiguous.set("ambiguous")
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.execute("INSERT INTO notes VALUES ('here')")
    again = await asyncpg.connect(through)
    assert await again.fetchval("SELECT note FROM notes") == "here"
    await again.execute("UPDATE notes SET note = 'still here'")
    assert ambiguous.cut == 1
    await again.close()
    await ambiguous.stop()


def test_a_plan_is_the_same_for_the_same_seed_and_keeps_its_phases() -> None:
    plan = Plan(5, list(FAULTS.values()))
    order = plan.order()
    assert [fault.name for fault in order] == [fault.name for fault in plan.order()]
    assert [fault.name for fault in order] != [fault.name for fault in Plan(6, plan.faults).order()]
    phases = [PHASES.index(fault.phase) for fault in order]
    assert phases == sorted(phases)
    assert len(order) >= 200


def test_a_bar_that_is_missed_and_a_promise_that_is_broken_are_seen() -> None:
    fault = FAULTS["child killed"]
    slow = [Injection(fault, 0, 1, (9.0,), 1)] + [Injection(fault, 0, 1, (0.1,), 1)] * 10
    (missed,) = lines(slow)
    assert not missed.holds
    assert "NO" in table([missed], 0, 0)
    (kept,) = lines(slow[1:])
    assert kept.holds
    (broken,) = lines([Injection(fault, 0, 1, (0.1,), 1, wrong="an orphan")])
    assert not broken.holds


def test_at_most_means_every_one_and_a_share_only_so_many() -> None:
    """One in forty too late: within a bar of 95 %, and not within one that is for all."""
    recoveries = (*[0.1] * 39, 9.0)
    for name, holds in {"worker killed": True, "child killed": False}.items():
        (line,) = lines([Injection(FAULTS[name], 0, 1, recoveries, 1)])
        assert line.holds is holds
    assert "| p95 ≤ 3 s |" in table(lines([Injection(FAULTS["worker killed"], 0, 1, recoveries, 1)]), 0, 0)


def test_a_bar_that_nothing_was_measured_against_does_not_hold() -> None:
    (line,) = lines([Injection(FAULTS["worker killed"], 0, 1, (), 1)])
    assert not line.holds
    assert "| not measured |" in table([line], 0, 0)
    (line,) = lines([Injection(FAULTS["answers race"], 0, 1, (), 1)])  # has no bar: there is nothing to recover
    assert line.holds


def test_what_is_left_out_is_said_in_the_table() -> None:
    plan = Plan(5, list(FAULTS.values()), length=1, everything=True)
    left_out = plan.left_out()
    assert left_out["soak"] == "needs --length 10"
    assert "soak" not in {fault.name for fault in plan.order()}
    assert "| soak | 0 | | | | | | | left out: needs --length 10 |" in table([], 0, 0, left_out)
    assert "soak" not in Plan(5, list(FAULTS.values()), length=10, everything=True).left_out()


def test_a_slope_is_that_of_the_best_line() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2
    assert slope([(0, 1), (1, 5), (2, 1)]) == 0
    assert slope([(1, 1)]) == 0


def test_quantiles_are_nearest_ranks() -> None:
    assert quantile([1, 2, 3, 4], 0.5) == 2
    assert quantile([1, 2, 3, 4], 0.95) == 4
    assert quantile([], 0.5) == 0


def test_every_fault_is_on_the_operators_page() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in [*FAULTS, *LEFT_OUT] if f"| {name} |" not in page] == []
