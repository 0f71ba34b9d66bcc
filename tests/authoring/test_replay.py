"""Code that changed while a task waited: it replays, or the task fails with what was and what is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pydantic import BaseModel

from taskengine import Context, ProtocolError, ReplayMismatch, TaskEngine, ToolError
from taskengine.lifecycle import Status
from taskengine.records import ChildState, Entry
from taskengine.replay import History
from taskengine.testing import Run, call

Code = Callable[[Context], Coroutine[Any, Any, Any]]


class Name(BaseModel):
    name: str


def one() -> int:
    return 1


async def changed(before: Code, after: Code, **options: Any) -> Run:
    """A run whose code changes between its first attempt, which asks at its end, and the second."""
    code = [before]

    async def tool(ctx: Context) -> str:
        result = await code[0](ctx)
        await ctx.elicit("Go on?", Name, key="go-on")
        code.append(after)
        return str(result)

    engine = TaskEngine("test")
    engine.add_tool(tool, description="Test.", **options)
    engine.add_tool(helper, description="Helper.")
    run = await call(engine, "tool")
    assert run.status is Status.INPUT_REQUIRED
    code[0] = after
    return await run.answer({"go-on": {"name": "Ann"}})


async def helper() -> str:
    return "helped"


async def original(ctx: Context) -> None:
    await ctx.step("fetch", one)
    await ctx.step("store", one)


async def renamed(ctx: Context) -> None:
    await ctx.step("fetch", one)
    await ctx.step("save", one)


async def inserted(ctx: Context) -> None:
    await ctx.step("check", one)
    await ctx.step("fetch", one)
    await ctx.step("store", one)


async def appended(ctx: Context) -> None:
    await ctx.step("fetch", one)
    await ctx.step("store", one)
    await ctx.step("announce", one)


async def removed(ctx: Context) -> None:
    await ctx.step("fetch", one)


async def reordered(ctx: Context) -> None:
    await ctx.step("store", one)
    await ctx.step("fetch", one)


async def other_kind(ctx: Context) -> None:
    await ctx.step("fetch", one)
    await ctx.sleep(1)


async def side_by_side(ctx: Context) -> None:
    await ctx.gather(ctx.step("fetch", one), ctx.step("store", one))


async def asks_before(ctx: Context) -> None:
    await ctx.elicit("Fetch?", Name, key="fetch?")
    await ctx.step("fetch", one)
    await ctx.step("store", one)


async def calls(ctx: Context) -> None:
    await ctx.step("fetch", one)
    await ctx.call_tool("helper")


@pytest.mark.parametrize(
    ("after", "was", "now"),
    [
        (renamed, "ran the step 'store'", "ran the step 'save'"),
        (inserted, "ran the step 'fetch'", "ran the step 'check'"),
        (appended, "asked (question 'go-on')", "ran the step 'announce'"),
        (removed, "ran the step 'store'", "asked (question 'go-on')"),
        (reordered, "ran the step 'fetch'", "ran the step 'store'"),
        (other_kind, "ran the step 'store'", "slept"),
        (side_by_side, "ran the step 'fetch'", "ran 2 branches side by side"),
        (asks_before, "ran the step 'fetch'", "asked (question 'fetch?')"),
        (calls, "ran the step 'store'", "called the tool 'helper'"),
    ],
)
async def test_changed_code_fails_with_what_was_and_what_is(after: Code, was: str, now: str) -> None:
    run = await changed(original, after, version="2026-11")
    assert run.status is Status.FAILED
    assert run.error is not None
    assert run.error["code"] == ReplayMismatch.CODE
    message = run.error["message"]
    assert f"where an earlier attempt {was}" in message
    assert now in message
    assert "2026-11" in message


async def test_code_whose_steps_are_the_same_replays() -> None:
    async def reworded(ctx: Context) -> str:
        total = await ctx.step("fetch", lambda: 5)
        return f"{total + await ctx.step('store', lambda: 7)}"

    assert (await changed(original, reworded)).text == "2"


async def test_branches_that_came_first_are_told_from_a_step() -> None:
    run = await changed(side_by_side, original)
    assert run.error is not None
    assert "side by side" in run.error["message"]


async def test_fewer_branches_than_before_are_found() -> None:
    async def three(ctx: Context) -> None:
        await ctx.gather(*(ctx.step("it", one) for _ in range(3)))

    async def two(ctx: Context) -> None:
        await ctx.gather(*(ctx.step("it", one) for _ in range(2)))

    run = await changed(three, two)
    assert run.error is not None
    assert "ran more of them" in run.error["message"]


async def test_a_tool_that_returns_before_its_journal_ends_fails() -> None:
    short = []

    async def tool(ctx: Context) -> str:
        await ctx.step("fetch", one)
        if short:
            return "done"
        await ctx.step("store", one)
        await ctx.elicit("Go on?", Name, key="go-on")
        return "unreachable"

    engine = TaskEngine("test")
    engine.add_tool(tool, description="Test.")
    run = await call(engine, "tool")
    short.append(1)
    await run.answer({"go-on": {"name": "Ann"}})
    assert run.error is not None
    assert "returned" in run.error["message"]
    assert "'store'" in run.error["message"]


async def test_no_except_of_a_tool_gets_past_a_mismatch() -> None:
    async def careless(ctx: Context) -> None:
        for _ in range(3):
            with contextlib.suppress(Exception):
                await ctx.step("other", one)

    run = await changed(original, careless)
    assert run.status is Status.FAILED
    assert run.error is not None
    assert run.error["code"] == ReplayMismatch.CODE


async def test_a_mismatch_in_a_branch_fails_the_whole() -> None:
    async def branch(ctx: Context, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(Exception):
                await ctx.step(name, one)

    async def before(ctx: Context) -> None:
        await ctx.gather(branch(ctx, ["a", "b"]), branch(ctx, ["c", "d"]))

    async def after(ctx: Context) -> None:
        await ctx.gather(branch(ctx, ["a", "b"]), branch(ctx, ["c", "x"]))

    run = await changed(before, after)
    assert run.error is not None
    assert "'x'" in run.error["message"]


async def test_a_mismatch_is_not_tried_again() -> None:
    run = await changed(original, renamed, retries=3)
    assert (run.status, run.attempts) == (Status.FAILED, 2)


async def test_a_finished_run_replays_without_running_a_step() -> None:
    ran = []

    async def tool(ctx: Context) -> str:
        number = await ctx.step("it", lambda: ran.append(1) or len(ran))  # type: ignore[func-returns-value]
        await ctx.sleep("1h")
        return f"{number} {await ctx.uuid()}"

    engine = TaskEngine("test")
    engine.add_tool(tool, description="Test.")
    run = await call(engine, "tool")
    again = await run.replay()
    assert run.outcome is not None
    assert (again.result, len(ran)) == (run.outcome.result, 1)


async def test_steps_whose_order_is_left_to_chance_are_found() -> None:
    """Without `gather`, which branch comes first is nobody's promise: refused in the first attempt already."""

    async def tool(ctx: Context) -> None:
        async def branch(number: int) -> None:
            await asyncio.sleep(0.01 * number)
            await ctx.step("it", one)
            await asyncio.sleep(0.05)
            await ctx.step("it", one)

        async with asyncio.TaskGroup() as group:
            for number in range(2):
                group.create_task(branch(number))

    engine = TaskEngine("test")
    engine.add_tool(tool, description="Test.")
    assert "ctx.gather" in (await call(engine, "tool")).text


async def test_a_wait_for_around_a_step_is_no_branch() -> None:
    async def tool(ctx: Context) -> str:
        first = await asyncio.wait_for(ctx.step("one", one), 5)
        second = await asyncio.wait_for(ctx.step("two", one), 5)
        return str(first + second)

    engine = TaskEngine("test")
    engine.add_tool(tool, description="Test.")
    assert (await call(engine, "tool")).text == "2"


@pytest.mark.parametrize(("before", "after"), [(2, 3), (0, 2), (3, 2)])
async def test_a_gather_that_was_finished_with_other_branches_is_found(before: int, after: int) -> None:
    def code(branches: int) -> Code:
        async def gathers(ctx: Context) -> None:
            await ctx.gather(*(ctx.step("it", one) for _ in range(branches)))

        return gathers

    run = await changed(code(before), code(after))
    assert run.status is Status.FAILED
    assert run.error is not None
    assert run.error["code"] == ReplayMismatch.CODE


async def deep(ctx: Context, names: list[str]) -> None:
    for name in names:
        await ctx.step(name, one)


@pytest.mark.parametrize(
    ("after", "said"), [(["a"], "ran the step 'b'"), (["a", "b", "c"], "nothing that was recorded")]
)
async def test_a_branch_within_a_branch_that_does_less_or_more_is_found(after: list[str], said: str) -> None:
    """Found where it happens, before anything is done after it."""
    done: list[str] = []

    def code(names: list[str], ledger: list[str]) -> Code:
        async def gathers(ctx: Context) -> None:
            async def outer() -> None:
                await ctx.gather(deep(ctx, ["x"]), deep(ctx, names))
                ledger.append("after the inner gather")

            await ctx.gather(outer(), deep(ctx, ["y"]))
            ledger.append("after the outer gather")

        return gathers

    run = await changed(code(["a", "b"], []), code(after, done))
    assert run.error is not None
    assert said in run.error["message"]
    assert done == []


async def test_a_loop_with_fewer_rounds_than_before_is_found() -> None:
    def code(rounds: int) -> Code:
        return lambda ctx: deep(ctx, ["it"] * rounds)

    for before, after in ((3, 2), (2, 3)):
        run = await changed(code(before), code(after))
        assert run.error is not None
        assert run.error["code"] == ReplayMismatch.CODE


@pytest.mark.parametrize("error", [ToolError("no"), ProtocolError(-31999, "no")])
async def test_a_tool_that_says_no_before_its_journal_ends_fails(error: Exception) -> None:
    async def says_no(ctx: Context) -> None:
        await ctx.step("fetch", one)
        raise error

    run = await changed(original, says_no)
    assert run.error is not None
    assert run.error["code"] == ReplayMismatch.CODE
    assert f"raised {type(error).__name__} (no" in run.error["message"]
    assert "ran the step 'store'" in run.error["message"]


async def test_a_fault_that_passes_before_the_journal_ends_is_tried_again() -> None:
    broken = [True]

    async def stumbles(ctx: Context) -> None:
        await ctx.step("fetch", one)
        if broken.pop():
            broken.append(False)
            raise ConnectionError("away")
        await ctx.step("store", one)

    assert (await changed(original, stumbles, retries=1)).status is Status.COMPLETED


async def test_a_branch_that_stumbled_is_found_if_the_tool_goes_on_without_it() -> None:
    async def stumbles() -> None:
        raise ConnectionError("away")

    def code(branch: Callable[[Context], Any]) -> Code:
        async def gathers(ctx: Context) -> None:
            await ctx.gather(branch(ctx), return_exceptions=True)

        return gathers

    run = await changed(code(lambda ctx: ctx.step("it", one)), code(lambda _: stumbles()))
    assert run.error is not None
    assert run.error["code"] == ReplayMismatch.CODE


async def test_a_result_that_does_not_fit_its_declaration_any_more_fails_the_task() -> None:
    """No `except` may take another way than the attempt that got the result."""

    def text() -> str:
        return "text"

    def number() -> int:
        return 1

    async def before(ctx: Context) -> None:
        await ctx.step("it", text)

    async def after(ctx: Context) -> None:
        with contextlib.suppress(Exception):
            await ctx.step("it", number)

    run = await changed(before, after)
    assert run.error is not None
    assert run.error["code"] == ReplayMismatch.CODE
    assert "'it'" in run.error["message"]


# -- the history itself


def step(path: str, name: str = "it", **changes: Any) -> Entry:
    return Entry(path, "step", name, **{"value": "1", **changes})


def history(*entries: Entry) -> History:
    return History({entry.path: entry for entry in entries}, "tool", "2")


def test_a_place_that_was_left_out_is_found() -> None:
    with pytest.raises(ReplayMismatch, match="nothing that was recorded"):
        history(step("1"), step("3")).find("2", "step", "new")


def test_the_end_of_the_journal_is_where_new_work_begins() -> None:
    known = history(step("1"))
    assert known.find("1", "step", "it") is not None
    assert known.find("2", "step", "new") is None
    known.note(step("2", "new"))
    known.check_end()


def test_positions_count_as_numbers() -> None:
    known = history(*(step(str(number)) for number in range(1, 12)))
    assert known.find("12", "step", "new") is None


def test_only_failures_that_nothing_followed_are_tried_again() -> None:
    failed: dict[str, Any] = {"value": None, "error": "{}"}
    cancelled = ChildState("tsk_1", "tool", Status.CANCELLED)
    known = history(
        step("1", **failed),
        step("2.0.1", **failed),
        step("2.0.2"),
        step("2.1.1", **failed),
        step("2.2.1.0.1", **failed),
        Entry("2.3.1", "call", "tool", child_id="tsk_1", child=cancelled),
        Entry("2.4.1", "call", "tool", child_id="tsk_2", child=ChildState("tsk_2", "tool", Status.WORKING)),
    )
    assert sorted(known.loose_failures()) == ["2.1.1", "2.2.1.0.1", "2.3.1"]
    known.note(step("3"))
    assert known.loose_failures() == []


def test_the_versions_are_in_the_error() -> None:
    with pytest.raises(ReplayMismatch, match=r"version 2.*version 1"):
        history(step("1", version="1")).find("1", "step", "other")
