"""How long things may take: tries of steps, and what begins when branches wait."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from taskengine import Context, TaskEngine
from taskengine.colours import THREADS, AsyncColour, SyncColour, drive
from taskengine.lifecycle import Status
from taskengine.testing import Run, call


class Name(BaseModel):
    name: str


async def test_a_step_that_waits_for_a_thread_does_not_use_up_its_timeout() -> None:
    colour, release, busy = AsyncColour(), threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        busy.release()
        release.wait()

    held = [asyncio.create_task(colour.run(hold, is_async=False, limit=None)) for _ in range(THREADS)]
    for _ in range(THREADS):
        await asyncio.to_thread(busy.acquire)
    late = asyncio.create_task(colour.run(lambda: "ran", is_async=False, limit=timedelta(milliseconds=50)))
    done, _ = await asyncio.wait({late}, timeout=0.3)
    assert not done
    release.set()
    assert await late == "ran"
    await asyncio.gather(*held)


class Stopped(BaseException):
    """As the signal of a stop, raised in the main thread of a tool's process."""


@pytest.mark.parametrize("cause", ["stop", "limit"])
def test_a_step_of_a_def_tool_with_a_timeout_ends_with_its_attempt(cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        try:
            while True:
                time.sleep(0.001)
        finally:
            ended.set()

    if cause == "stop":

        def get(*_: Any, **__: Any) -> None:
            began.wait()
            raise Stopped

        monkeypatch.setattr("taskengine.colours.queue.Queue.get", get)
    with pytest.raises(Stopped if cause == "stop" else TimeoutError):
        drive(SyncColour().run(work, is_async=False, limit=timedelta(hours=1) if cause == "stop" else timedelta(0)))
    assert not began.is_set() or ended.wait(30)


def test_an_async_step_of_a_def_tool_with_a_timeout_runs_where_a_stop_reaches_it() -> None:
    async def where() -> str:
        return threading.current_thread().name

    for function in (where, functools.partial(where)):
        ran = drive(SyncColour().run(function, is_async=function is where, limit=timedelta(seconds=30)))
        assert ran == threading.current_thread().name


async def run_with(tool: Callable[..., Any]) -> Run:
    engine = TaskEngine("test")
    declared = engine.add_tool(tool, name="tool", description="Test.")
    run = Run(declared, {}, {"elicitation": {"form": {}}})
    run.engine = engine
    return run


async def test_a_sleep_beside_work_is_recorded_when_it_begins() -> None:
    """A worker that dies before the other branch is done costs none of it."""
    recorded: list[str] = []

    async def tool(ctx: Context) -> str:
        await ctx.gather(ctx.sleep("1h"), ctx.step("look", look))
        return "done"

    def look() -> None:
        recorded.extend(entry.kind for entry in run._journal.values())

    run = await run_with(tool)
    await run._go({})
    assert run.text == "done"
    assert recorded == ["sleep"]


async def test_the_next_try_of_a_step_beside_work_is_recorded_at_once() -> None:
    recorded: list[tuple[str, int]] = []

    def fail() -> None:
        raise ConnectionError("away")

    async def tool(ctx: Context) -> str:
        async def later() -> None:
            await ctx.step("before", str)
            await ctx.step("look", look)

        await ctx.gather(ctx.step("fetch", fail, retries=1, backoff="1h"), later(), return_exceptions=True)
        return "done"

    def look() -> None:
        recorded.extend((entry.name, entry.tries) for entry in run._journal.values() if entry.name == "fetch")

    run = await run_with(tool)
    await run._go({})
    assert run.text == "done"
    assert recorded == [("fetch", 1)]


async def test_the_time_for_an_answer_begins_when_the_question_is_asked() -> None:
    """In a branch that is when the others wait too: nobody loses the time in which he could not have answered."""

    async def tool(ctx: Context) -> str:
        async def asks() -> str:
            answer = await ctx.elicit("Who?", Name, answer_by="1h", default=Name(name="Nobody"))
            return str(answer.data.name)

        return str((await ctx.gather(asks(), ctx.step("work", work)))[0])

    def work() -> None:
        run.now += timedelta(hours=2)

    run = await run_with(tool)
    await run._go({})
    await run.pass_time("59m")
    assert run.status is Status.INPUT_REQUIRED
    await run.pass_time("2m")
    assert run.text == "Nobody"


async def test_time_for_an_answer_that_began_is_not_given_anew() -> None:
    async def tool(ctx: Context) -> str:
        async def asks() -> str:
            answer = await ctx.elicit("Who?", Name, answer_by="1h", default=Name(name="Nobody"))
            return str(answer.data.name)

        return str((await ctx.gather(asks(), ctx.elicit("What?", Name, key="what")))[0])

    engine = TaskEngine("test")
    engine.add_tool(tool, description="Test.")
    run = await call(engine, "tool")
    await run.pass_time("50m")
    await run.pass_time("11m")
    await run.answer({"what": {"name": "Ann"}})
    assert run.text == "Nobody"
