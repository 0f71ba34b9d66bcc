"""Calls of the context that are refused: a tool that catches the refusal meets the same one in every attempt."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from taskengine import CallFailed, Context, StepFailed, SyncContext, TaskEngine, TooDeep, ToolError
from taskengine.errors import DeclarationError, InvalidArguments, ResultError
from taskengine.lifecycle import Status
from taskengine.testing import Run, call


class Strange:
    pass


def unannotated():  # type: ignore[no-untyped-def]
    return Strange()


def annotated() -> Strange:
    return Strange()


def endless():  # type: ignore[no-untyped-def]
    deep: list[Any] = []
    deep.append(deep)
    return deep


async def double(number: int) -> dict[str, int]:
    return {"twice": 2 * number}


async def plain() -> None:
    pass


async def run_of(function: Callable[..., Any], **options: Any) -> Run:
    engine = TaskEngine("test")
    engine.add_tool(function, name="tool", description="Test.", **options)
    engine.add_tool(double, description="Helper.")
    engine.add_tool(plain, description="Helper.", task="forbidden")
    return await call(engine, "tool")


REFUSED = [
    (lambda ctx: ctx.call_tool("missing"), DeclarationError),
    (lambda ctx: ctx.call_tool("plain"), DeclarationError),
    (lambda ctx: ctx.call_tool("double", {"number": "x"}), InvalidArguments),
    (lambda ctx: ctx.call_tool("double", {"number": object()}), InvalidArguments),
    (lambda ctx: ctx.step("odd", unannotated), ResultError),
    (lambda ctx: ctx.step("odd", annotated), ResultError),
    (lambda ctx: ctx.step("odd", endless), ResultError),
]


@pytest.mark.parametrize(("use", "kind"), REFUSED)
async def test_a_refusal_that_is_caught_is_the_same_in_every_attempt(
    use: Callable[[Any], Any], kind: type[Exception]
) -> None:
    seen: list[tuple[str, str]] = []

    async def tool(ctx: Context) -> str:
        try:
            await use(ctx)
        except Exception as error:
            seen.append((type(error).__name__, str(error)))
        await ctx.sleep("1h")
        return await ctx.step("after", str)

    def in_a_process(ctx: SyncContext) -> str:
        try:
            use(ctx)
        except Exception as error:
            seen.append((type(error).__name__, str(error)))
        ctx.sleep("1h")
        return ctx.step("after", str)

    async def in_a_branch(ctx: Context) -> str:
        return (await ctx.gather(tool(ctx), ctx.sleep("2h")))[0]

    for each, attempts in ((tool, 2), (in_a_process, 2), (in_a_branch, 3)):
        seen.clear()
        run = await run_of(each)
        assert (run.status, run.attempts) == (Status.COMPLETED, attempts), run.error
        assert not run.is_error, run.text
        assert [name for name, _ in seen] == [kind.__name__] * attempts
        assert len(set(seen)) == 1


async def test_a_tool_that_was_missing_is_called_when_the_caller_is_tried_again() -> None:
    engine = TaskEngine("test")

    async def tool(ctx: Context) -> str:
        try:
            return (await ctx.call_tool("late", {"number": 2})).text
        except DeclarationError:
            engine.add_tool(double, name="late", description="Deployed meanwhile.")
            raise

    engine.add_tool(tool, description="Test.", retries=1)
    assert (await call(engine, "tool")).structured is None
    assert '"twice":4' in (await call(engine, "tool")).text


class Cancelled(asyncio.CancelledError):
    """Raised by the function of a step, not by whoever cancels the attempt."""


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), Cancelled("inside"), StopIteration(1)])
async def test_whatever_a_step_raises_is_kept_as_its_failure(error: BaseException) -> None:
    tries = []

    def fail() -> None:
        tries.append(1)
        raise error

    async def fail_later() -> None:
        fail()

    async def tool(ctx: Context) -> str:
        for function in (fail, fail_later):
            with contextlib.suppress(StepFailed):
                await ctx.step("fail", function)
        await ctx.sleep("1h")
        return "went on"

    def plain(ctx: SyncContext) -> str:
        for function in (fail, fail_later):
            with contextlib.suppress(StepFailed):
                ctx.step("fail", function)
        ctx.sleep("1h")
        return "went on"

    for each in (tool, plain):
        tries.clear()
        async with asyncio.timeout(30):
            run = await run_of(each)
        assert (run.text, run.attempts, len(tries)) == ("went on", 2, 2)


# -- calls in calls


async def test_a_tool_that_calls_itself_for_ever_is_stopped_with_an_error_that_says_so() -> None:
    started = []

    async def again(ctx: Context) -> str:
        started.append(1)
        return (await ctx.call_tool("again")).text

    engine = TaskEngine("test")
    engine.add_tool(again, description="Calls itself.")
    run = await call(engine, "again")
    assert run.is_error
    assert "33 levels deep" in run.text
    assert len(started) == 33


async def test_a_tool_may_catch_that_it_is_too_deep_and_replays() -> None:
    seen = []

    def again(depth: int, ctx: SyncContext) -> str:
        try:
            return ctx.call_tool("again", {"depth": depth + 1}).text
        except TooDeep as error:
            seen.append(str(error))
            ctx.sleep("1h")
            return f"{depth} was the last"
        except CallFailed as error:
            raise ToolError(error.message) from None

    engine = TaskEngine("test")
    engine.add_tool(again, description="Calls itself.")
    assert (await call(engine, "again", {"depth": 0})).text == "32 was the last"
    assert len(seen) == 2
    assert len(set(seen)) == 1
