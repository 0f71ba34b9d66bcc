"""Threads of tools whose call was given up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from taskengine.errors import TaskCancelled
from taskengine.threads import in_thread


async def test_a_call_that_is_given_up_is_interrupted_and_its_place_is_free() -> None:
    room, began, ended = asyncio.Semaphore(1), threading.Event(), []

    def work() -> None:
        began.set()
        try:
            while True:
                try:
                    time.sleep(0.001)
                except Exception:
                    ended.append("swallowed")
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    call = asyncio.create_task(in_thread(work, room))
    await asyncio.to_thread(began.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(30):
        assert await in_thread(lambda: "the next", room) == "the next"
    assert ended == ["TaskCancelled"]


async def test_a_call_that_is_given_up_before_it_begins_never_runs() -> None:
    room, ran = asyncio.Semaphore(1), []
    await room.acquire()
    call = asyncio.create_task(in_thread(lambda: ran.append(True), room))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    room.release()
    await in_thread(lambda: None, room)
    assert ran == []


async def test_giving_up_many_calls_at_any_moment_loses_no_place() -> None:
    """The interruption may come up anywhere: in the function, at its end, or not at all."""
    room = asyncio.Semaphore(4)

    def work() -> int:
        return sum(range(2000))

    async def one(n: int) -> None:
        call = asyncio.create_task(in_thread(work, room))
        for _ in range(n % 7):
            await asyncio.sleep(0)
        await asyncio.sleep(n % 5 / 10_000)
        call.cancel()
        await asyncio.wait({call})

    for start in range(0, 400, 20):
        await asyncio.gather(*(one(n) for n in range(start, start + 20)))
    async with asyncio.timeout(30):
        for _ in range(4):
            await room.acquire()


async def test_what_a_function_raises_by_itself_comes_through() -> None:
    def fail() -> None:
        raise TaskCancelled

    with pytest.raises(TaskCancelled):
        await in_thread(fail, asyncio.Semaphore(1))
