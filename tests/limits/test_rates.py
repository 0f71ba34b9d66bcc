"""Rates on the real broker, and without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from limits import parse
from pydantic import SecretStr

from taskengine.server.rates import Rates
from taskengine.server.shared import Shared
from taskengine.settings import Settings
from tests.processes import free_port

RATE = parse("5/hour")


@pytest.fixture
async def rates(settings: Settings) -> AsyncIterator[Callable[[], Rates]]:
    """Makes counters as two front ends have them."""
    shared: list[Shared] = []

    def make(changed: Settings = settings) -> Rates:
        shared.append(Shared(changed))
        return Rates(shared[-1])

    yield make
    for each in shared:
        await each.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many hits each count was for."""
    made: list[int] = []
    count = Rates._count

    async def counting(self: Rates, *which: Any) -> float | None:
        made.append(which[-1])
        return await count(self, *which)

    monkeypatch.setattr(Rates, "_count", counting)
    return made


async def test_front_ends_count_together(rates: Callable[[], Rates]) -> None:
    first, second = rates(), rates()
    hits = [await each.hit(RATE, "calls", "ann") for each in (first, second) * 3]
    assert hits[:5] == [None] * 5
    assert hits[5] is not None
    assert hits[5] >= 1


async def test_owners_and_kinds_are_counted_apart(rates: Callable[[], Rates]) -> None:
    one = rates()
    while await one.hit(RATE, "calls", "ann") is None:
        pass
    assert await one.hit(RATE, "calls", "bob") is None
    assert await one.hit(RATE, "polls", "ann") is None


async def test_calls_at_once_do_not_pass_a_rate_together(rates: Callable[[], Rates]) -> None:
    front_ends = [rates() for _ in range(3)]
    hits = await asyncio.gather(*(front_ends[n % 3].hit(RATE, "calls", "ann") for n in range(30)))
    assert hits.count(None) == 5


async def test_whoever_asks_often_is_counted_ahead_and_never_gets_more_than_his_rate(
    rates: Callable[[], Rates], counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskengine.server.rates.AHEAD_S", 3600.0)  # however slow the machine is
    rate, first, second = parse("1000/hour"), rates(), rates()
    while await first.hit(rate, "calls", "ann") is None:
        if sum(counted) >= 500:
            break
    assert len(counted) < 40  # twenty at a time, once it has come to that
    passed = 0
    while await second.hit(rate, "calls", "ann") is None:
        passed += 1
    assert 480 <= passed <= 500


async def test_those_who_ask_at_the_same_time_are_not_counted_for_more_than_they_are(
    rates: Callable[[], Rates], counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskengine.server.rates.AHEAD_S", 3600.0)
    rate, one = parse("600/minute"), rates()
    for _ in range(20):
        assert await asyncio.gather(*(one.hit(rate, "calls", "ann") for _ in range(4))) == [None] * 4
    assert sum(counted) <= 80 + 12


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:{port}/0", "amqp://127.0.0.1:{port}//"])
async def test_without_redis_each_front_end_counts_for_itself(
    rates: Callable[..., Rates], settings: Settings, broker: str
) -> None:
    url = SecretStr(broker.format(port=free_port()))
    first, second = (rates(settings.model_copy(update={"broker_url": url})) for _ in range(2))
    for each in (first, second):
        assert [await each.hit(RATE, "calls", "ann") for _ in range(5)] == [None] * 5
        assert await each.hit(RATE, "calls", "ann") is not None


async def test_a_redis_that_hangs_holds_nobody_up_for_long(rates: Callable[..., Rates], settings: Settings) -> None:
    """It accepts connections and says nothing."""
    async with _silent() as port:
        one = rates(settings.model_copy(update={"broker_url": SecretStr(f"redis://127.0.0.1:{port}/0")}))
        async with asyncio.timeout(20):
            assert [await one.hit(RATE, "calls", "ann") for _ in range(5)] == [None] * 5
            assert await one.hit(RATE, "calls", "ann") is not None


@asynccontextmanager
async def _silent() -> AsyncIterator[int]:
    gone = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        gone.set()
        server.close()
        await server.wait_closed()
