"""When a worker with strays starts anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from taskengine.execution import strays as module
from taskengine.execution.strays import Strays

Start = Callable[[], asyncio.Task[None]]


@pytest.fixture
async def deaf() -> AsyncIterator[Start]:
    """Starts runs that ignore every cancellation, until the test is over."""
    over, started = asyncio.Event(), []

    async def ignore() -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    def start() -> asyncio.Task[None]:
        started.append(asyncio.create_task(ignore()))
        return started[-1]

    yield start
    over.set()
    await asyncio.wait(started)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_EVERY_S", 0.01)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0.01)


async def test_a_stray_waits_for_the_others_and_then_wears_the_worker_out_once(deaf: Start) -> None:
    others, worn = [1], []
    strays = Strays(10, lambda: others[0], lambda: worn.append(True))
    tasks = [asyncio.create_task(strays.outlast(deaf()))]
    await settle()
    assert worn == []
    others[0] = 0
    await settle()
    assert worn == [True]
    strays.leave()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert strays.count == 0


async def test_strays_in_half_of_the_slots_wait_for_nobody(deaf: Start) -> None:
    worn: list[bool] = []
    strays = Strays(4, lambda: 2, lambda: worn.append(True))
    tasks = [asyncio.create_task(strays.outlast(deaf()))]
    await settle()
    assert worn == []
    tasks.append(asyncio.create_task(strays.outlast(deaf())))
    await settle()
    assert worn == [True]
    strays.leave()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_a_stray_that_ends_gives_its_slot_back() -> None:
    swallowed = 0

    async def slow_to_learn() -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1

    strays = Strays(4, lambda: 1, lambda: None)
    await asyncio.wait_for(strays.outlast(asyncio.create_task(slow_to_learn())), 10)
    assert (swallowed, strays.count) == (3, 0)
