"""Many calls whose outcomes are taken as they come, with `taskengine.testing`: no worker, no database."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from taskengine import CallOutcome, Context, ReplayMismatch, SyncContext, TaskEngine, ToolError
from taskengine.arrivals import _pause
from taskengine.lifecycle import Status
from taskengine.testing import Run, call


class Name(BaseModel):
    name: str


async def double(number: int) -> dict[str, int]:
    if number < 0:
        raise ToolError("too small")
    return {"twice": 2 * number}


async def ask(who: str, ctx: Context) -> str:
    answer = await ctx.elicit(f"{who}?", Name)
    return f"{who} is {answer.data.name}"


async def run_of(function: Callable[..., Any], **options: Any) -> Run:
    engine = TaskEngine("test")
    engine.add_tool(function, name="tool", description="Test.", **options)
    for helper in (double, ask):
        engine.add_tool(helper, description="Helper.")
    return await call(engine, "tool")


QUESTIONS = [("ask", {"who": who}) for who in "abc"]


def line(done: CallOutcome) -> str:
    return f"{done.index} {done.result.text}"


async def in_turn(ctx: Context) -> str:
    seen = []
    async for done in ctx.as_completed(QUESTIONS):
        seen.append(line(done))
        await ctx.step(f"keep {done.index}", str)
    return ", ".join(seen)


def in_turn_sync(ctx: SyncContext) -> str:
    seen = []
    for done in ctx.as_completed(QUESTIONS):
        seen.append(line(done))
        ctx.step(f"keep {done.index}", str)
    return ", ".join(seen)


async def in_a_branch(ctx: Context) -> str:
    return str((await ctx.gather(in_turn(ctx), ctx.sleep(1)))[0])


@pytest.mark.parametrize("tool", [in_turn, in_turn_sync, in_a_branch])
async def test_outcomes_come_in_the_order_in_which_calls_end_and_replay_so(tool: Callable[..., Any]) -> None:
    run = await run_of(tool)
    children = list(run.calls)
    assert [child.status for child in children] == [Status.INPUT_REQUIRED] * 3
    for who in "cab":
        child = children["abc".index(who)]
        await child.answer({f"{who}?": {"name": who.upper()}})
        # As a worker is woken by the end of a child, with what the others ask still open.
        run.questions = [each for each in run.questions if not each.params["message"].startswith(who)]
        again = run.questions
        run.questions = []
        await run._go({})
        assert run.status is not Status.INPUT_REQUIRED or run.questions == again
    assert run.text == "2 c is C, 0 a is A, 1 b is B"
    assert len(run.calls) == 3
    assert run.outcome is not None
    assert (await run.replay()).result == run.outcome.result


async def test_what_calls_ask_is_asked_in_their_callers_name() -> None:
    run = await run_of(in_turn)
    assert sorted(str(each.params["message"]) for each in run.questions) == ["a?", "b?", "c?"]
    await run.answer({f"{who}?": {"name": who.upper()} for who in "abc"})
    assert run.text == "0 a is A, 1 b is B, 2 c is C"


async def test_all_that_have_ended_are_taken_at_once() -> None:
    async def tool(ctx: Context) -> str:
        done = [line(each) async for each in ctx.as_completed([("double", {"number": n}) for n in range(50)])]
        await ctx.sleep("1h")
        return str(len(done))

    run = await run_of(tool)
    assert (run.text, run.attempts) == ("50", 2)
    assert [entry.kind for entry in run._journal.values()].count("arrived") == 1


async def test_no_calls_have_no_outcomes() -> None:
    async def tool(ctx: Context) -> str:
        return str([each async for each in ctx.as_completed([])])

    assert (await run_of(tool)).text == "[]"


async def test_a_call_that_fails_or_is_refused_is_an_outcome_with_its_error() -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("double", {"number": -1}),
        ("missing", {}),
        ("double", {"number": "x"}),
        ("double", {"number": 4}),
    ]
    seen: list[list[str]] = []

    async def tool(ctx: Context) -> str:
        errors = {done.index: done.error async for done in ctx.as_completed(calls)}
        seen.append([f"{type(error).__name__}: {error}" for _, error in sorted(errors.items())])
        await ctx.sleep("1h")
        return "done"

    async def careless(ctx: Context) -> None:
        async for done in ctx.as_completed(calls):
            line(done)

    assert (await run_of(tool)).text == "done"
    assert [each.partition(":")[0] for each in seen[0]] == [
        "CallFailed",
        "DeclarationError",
        "InvalidArguments",
        "NoneType",
    ]
    assert seen[0] == seen[1]
    run = await run_of(careless)
    assert (run.is_error, run.text) == (True, "double failed: too small")


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("double", "a list of calls"),
        ([("double", {"number": 1}), "double"], "a list of calls"),
        ([("", {})], "is no name"),
        ([("double", {"number": object()})], "not JSON"),
    ],
)
async def test_calls_that_are_written_wrongly_are_refused_and_none_is_made(calls: Any, said: str) -> None:
    async def tool(ctx: Context) -> None:
        async for _ in ctx.as_completed(calls):
            pass

    run = await run_of(tool)
    assert (run.is_error, run.calls) == (True, [])
    assert said in run.text


Code = Callable[[Context], Coroutine[Any, Any, None]]


def takes(*calls: tuple[str, dict[str, Any]], most: int = 10) -> Code:
    async def code(ctx: Context) -> None:
        async for done in ctx.as_completed(calls):
            if done.index + 1 == most:
                break

    return code


async def steps_first(ctx: Context) -> None:
    arriving = ctx.as_completed([("double", {"number": 1}), ("double", {"number": 2})])
    await ctx.step("new", str)
    async for _ in arriving:
        pass


async def gathers(ctx: Context) -> None:
    await ctx.gather(*(ctx.call_tool("double", {"number": number}) for number in (1, 2)))


ONE, TWO, OTHER = ("double", {"number": 1}), ("double", {"number": 2}), ("ask", {"who": "a"})


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (takes(ONE), "number of calls: '2'"),
        (takes(ONE, TWO, TWO), "number of calls: '2'"),
        (takes(ONE, OTHER), "called the tool 'double'"),
        (takes(ONE, TWO, most=0), None),
        (takes(ONE, TWO, most=1), None),
        (steps_first, "called tools to take what they give as it comes"),
        (gathers, "called tools to take what they give as it comes"),
    ],
)
async def test_code_that_changed_while_its_task_waited_is_found(after: Code, said: str | None) -> None:
    code = [takes(ONE, TWO)]

    async def tool(ctx: Context) -> str:
        await code[0](ctx)
        await ctx.elicit("Go on?", Name, key="go-on")
        return "done"

    run = await run_of(tool)
    code[0] = after
    await run.answer({"go-on": {"name": "Ann"}})
    if said is None:  # what it does with outcomes that came together is its own affair
        assert run.text == "done"
        return
    assert run.error is not None
    assert run.error["code"] == ReplayMismatch.CODE
    assert said in run.error["message"]


async def test_a_loop_may_leave_the_rest_behind() -> None:
    async def tool(ctx: Context) -> str:
        async for done in ctx.as_completed([("double", {"number": 3}), ("ask", {"who": "a"})]):
            return line(done)
        return "unreachable"

    run = await run_of(tool)
    assert run.text == '0 {"twice":6}'


def test_the_pauses_of_many_calls_make_some_hundred_attempts_whatever_the_time() -> None:
    for calls, hours, most in ((1_000, 0.25, 300), (1_000, 24, 500), (10_000, 24, 300), (100, 1, 200)):
        elapsed, attempts = timedelta(0), 0
        spacing = timedelta(hours=hours) / calls
        while elapsed < timedelta(hours=hours):
            elapsed += max(_pause(calls, elapsed), spacing)
            attempts += 1
        assert attempts <= most, (calls, hours, attempts)


def test_a_few_calls_are_hardly_held_up() -> None:
    assert _pause(5, timedelta(hours=1)) < timedelta(seconds=1)
