"""Durable functions as their authors write and test them, with `taskengine.testing`: no worker, no database."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from taskengine import (
    CallFailed,
    Context,
    DeclarationError,
    ProtocolError,
    StepFailed,
    SyncContext,
    TaskEngine,
    ToolError,
    Unanswered,
)
from taskengine.lifecycle import Status
from taskengine.testing import Run, call

FOREVER = timedelta(days=30)


class Name(BaseModel):
    name: str


@dataclass
class Point:
    x: int
    y: int


class Counter:
    """Counts how often each step really ran."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    def __call__(self, value: Any) -> Any:
        self.ran.append(value)
        return value

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return self(value)


async def run_of(function: Callable[..., Any], arguments: dict[str, Any] | None = None, **options: Any) -> Run:
    engine = TaskEngine("test")
    given = {name: options.pop(name) for name in ("answers",) if name in options}
    helpers = options.pop("helpers", ())
    tool = engine.add_tool(function, description="Test.", **options)
    for helper in helpers:
        engine.add_tool(helper, description="Helper.")
    return await call(engine, tool.name, arguments or {}, **given)


# -- steps


async def test_a_step_runs_once_in_all_attempts() -> None:
    ran = Counter()

    async def tool(ctx: Context) -> str:
        before = await ctx.step("before", ran, 1)
        answer = await ctx.elicit("Who?", Name)
        after = await ctx.step("after", ran.later, 2)
        return f"{before}{after}{answer.data.name}"

    run = await run_of(tool, answers={"Who?": {"name": "Ann"}})
    assert (run.text, ran.ran, run.attempts) == ("12Ann", [1, 2], 2)


async def test_a_step_of_a_def_tool_runs_once_in_all_attempts() -> None:
    ran = Counter()

    def tool(ctx: SyncContext) -> str:
        before = ctx.step("before", ran, 1)
        answer = ctx.elicit("Who?", Name)
        after = ctx.step("after", ran.later, 2)
        return f"{before}{after}{answer.data.name}"

    run = await run_of(tool, answers={"Who?": {"name": "Ann"}})
    assert (run.text, ran.ran, run.attempts) == ("12Ann", [1, 2], 2)


async def test_steps_in_a_loop_may_share_a_name() -> None:
    ran = Counter()

    async def tool(ctx: Context) -> list[int]:
        got = []
        for number in range(5):
            got.append(await ctx.step("square", ran, number * number))
            await ctx.sleep("1h")
        return got

    run = await run_of(tool)
    assert run.structured == [0, 1, 4, 9, 16]
    assert (len(ran.ran), run.attempts) == (5, 6)


def point() -> Point:
    return Point(1, 2)


async def model() -> Name:
    return Name(name="Ann")


def when() -> datetime:
    return datetime(2026, 1, 2, tzinfo=UTC)


def raw() -> bytes:
    return b"\xff\x00"


def nothing() -> None:
    return None


def points() -> dict[str, list[Point]]:
    return {"all": [Point(3, 4)]}


def endless() -> float:
    return float("inf")


@pytest.mark.parametrize("function", [point, model, when, raw, nothing, points, endless])
async def test_a_result_comes_back_as_its_annotation_says(function: Callable[[], Any]) -> None:
    seen: list[Any] = []

    async def tool(ctx: Context) -> str:
        seen.append(await ctx.step("it", function))
        await ctx.sleep("1h")
        return "done"

    assert (await run_of(tool)).text == "done"
    made = function()
    expected = await made if isinstance(made, Awaitable) else made
    assert seen == [expected, expected]
    assert {type(each) for each in seen} == {type(expected)}


async def test_a_later_attempt_gets_what_the_first_one_got_and_not_the_object_itself() -> None:
    async def tool(ctx: Context) -> str:
        got = await ctx.step("it", points)
        got["all"].clear()
        await ctx.sleep("1h")
        return str(len((await ctx.step("again", points))["all"]))

    assert (await run_of(tool)).text == "1"


class Strange:
    pass


def strange() -> Strange:
    return Strange()


def unannotated():  # type: ignore[no-untyped-def]
    return Strange()


def not_an_int() -> int:
    return "text"  # type: ignore[return-value]


def a_tuple():  # type: ignore[no-untyped-def]
    return (1, 2)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (strange, "Strange"),
        (unannotated, "Strange"),
        (not_an_int, "str"),
        (a_tuple, "tuple"),
        (lambda: {1: 2}, "keys are not all text"),
        (lambda: float("nan"), "nan"),
        (lambda: "x" * 20_000_000, "20,000,002 bytes"),
    ],
)
async def test_a_result_that_cannot_be_kept_is_refused_with_its_type(function: Callable[[], Any], said: str) -> None:
    async def tool(ctx: Context) -> str:
        await ctx.step("odd", function)
        return "unreachable"

    run = await run_of(tool)
    assert run.is_error
    assert said in run.text
    assert "'odd'" in run.text


async def test_a_step_that_cannot_be_kept_is_refused_before_it_runs() -> None:
    ran = []

    def opened() -> Strange:
        ran.append(1)
        return Strange()

    async def tool(ctx: Context) -> None:
        await ctx.step("open", opened)

    assert (await run_of(tool)).is_error
    assert ran == []


async def test_a_plain_function_of_an_async_tool_may_block() -> None:
    def block() -> str:
        return asyncio.run(asyncio.sleep(0.01, "slept"))  # would fail on the event loop

    async def tool(ctx: Context) -> str:
        return await ctx.step("block", block)

    assert (await run_of(tool)).text == "slept"


async def test_partials_and_methods_keep_their_annotation() -> None:
    async def tool(ctx: Context) -> str:
        return type(await ctx.step("it", functools.partial(point))).__name__

    assert (await run_of(tool)).text == "Point"


# -- failures


async def test_a_failed_step_raises_the_same_in_every_attempt() -> None:
    ran = Counter()
    seen = []

    async def fail() -> None:
        ran(1)
        raise ValueError("unlucky")

    async def tool(ctx: Context) -> str:
        try:
            await ctx.step("fail", fail)
        except StepFailed as error:
            seen.append((error.step, error.error, error.message, error.tries, str(error)))
        await ctx.sleep("1h")
        return "went on"

    assert (await run_of(tool)).text == "went on"
    assert seen == [("fail", "ValueError", "unlucky", 1, "the step 'fail' failed: ValueError: unlucky")] * 2
    assert len(ran.ran) == 1


@pytest.mark.parametrize("error", [ToolError("on purpose"), ProtocolError(-31999, "on purpose", {"a": 1})])
async def test_what_a_step_raises_on_purpose_is_raised_as_it_is_and_not_retried(error: Exception) -> None:
    ran = Counter()

    def fail() -> None:
        ran(1)
        raise error

    async def tool(ctx: Context) -> None:
        with contextlib.suppress(type(error)):
            await ctx.step("fail", fail, retries=5)
        await ctx.sleep("1h")
        await ctx.step("fail twice", fail, retries=5)

    run = await run_of(tool)
    assert len(ran.ran) == 2
    if isinstance(error, ToolError):
        assert (run.is_error, run.text) == (True, "on purpose")
    else:
        assert run.error == {"code": -31999, "message": "on purpose", "data": {"a": 1}}


async def test_a_step_is_tried_again_with_growing_waits() -> None:
    tries = Counter()

    async def tool(ctx: Context) -> str:
        def fail() -> str:
            tries(run_now())
            if len(tries.ran) < 4:
                raise ConnectionError("away")
            return "there"

        return await ctx.step("fetch", fail, retries=3, backoff="10s")

    engine = TaskEngine("test")
    declared = engine.add_tool(tool, description="Test.")
    run = Run(declared, {}, {})
    run_now = lambda: run.now  # noqa: E731
    await run._go({})
    assert run.text == "there"
    waits = [(after - before).total_seconds() for before, after in zip(tries.ran, tries.ran[1:], strict=False)]
    assert waits == [10, 20, 40]


async def test_a_step_fails_for_good_when_its_tries_are_used_up() -> None:
    tries = Counter()

    def fail() -> None:
        tries(1)
        raise ConnectionError("away")

    def tool(ctx: SyncContext) -> None:
        ctx.step("fetch", fail, retries=2, backoff=["1s", "2s"])

    run = await run_of(tool)
    assert run.is_error
    assert "failed 3 times: ConnectionError: away" in run.text
    assert len(tries.ran) == 3


async def slow() -> None:
    await asyncio.sleep(60)


def slow_plain() -> None:
    import time  # noqa: PLC0415

    time.sleep(2)


@pytest.mark.parametrize("function", [slow, slow_plain])
async def test_a_try_ends_after_its_timeout(function: Callable[[], Any]) -> None:
    async def tool(ctx: Context) -> None:
        await ctx.step("slow", function, timeout=0.05)

    def plain(ctx: SyncContext) -> None:
        ctx.step("slow", function, timeout=0.05)

    for each in (tool, plain):
        assert "TimeoutError: it ran longer than 50ms" in (await run_of(each)).text


async def test_a_tool_is_tried_again_and_keeps_what_it_did() -> None:
    ran = Counter()

    async def tool(ctx: Context) -> str:
        await ctx.step("kept", ran, "kept")
        if ran("whole") and ran.ran.count("whole") < 3:
            raise ConnectionError("away")
        return "there"

    run = await run_of(tool, retries=2, backoff="1h")
    assert (run.text, run.attempts, ran.ran.count("kept")) == ("there", 3, 1)


async def test_a_step_that_failed_is_run_again_when_its_tool_is() -> None:
    ran = Counter()

    async def flaky() -> str:
        ran("flaky")
        if len(ran.ran) < 3:
            raise ConnectionError("away")
        return "there"

    async def tool(ctx: Context) -> str:
        return (await ctx.gather(ctx.step("flaky", flaky), ctx.step("other", Counter(), 1)))[0]

    run = await run_of(tool, retries=2, backoff="1h")
    assert (run.text, len(ran.ran)) == ("there", 3)


async def test_a_failure_that_was_caught_stays_when_its_tool_is_tried_again() -> None:
    ran = Counter()

    def fail() -> None:
        ran("fail")
        raise ValueError("unlucky")

    async def tool(ctx: Context) -> str:
        with contextlib.suppress(StepFailed):
            await ctx.step("fail", fail)
        await ctx.step("instead", ran, "instead")
        if ran("whole") and ran.ran.count("whole") < 2:
            raise ConnectionError("away")
        return "there"

    run = await run_of(tool, retries=2)
    assert (run.text, ran.ran.count("fail"), ran.ran.count("instead")) == ("there", 1, 1)


@pytest.mark.parametrize("error", [ToolError("no"), ProtocolError(-31999, "no")])
async def test_a_tool_that_says_no_is_not_tried_again(error: Exception) -> None:
    async def tool() -> None:
        raise error

    assert (await run_of(tool, retries=5)).attempts == 1


# -- values, time


@pytest.mark.parametrize("kind", ["now", "uuid", "random"])
async def test_values_are_the_same_in_every_attempt(kind: str) -> None:
    seen = []

    async def tool(ctx: Context) -> str:
        seen.append([await getattr(ctx, kind)(), await getattr(ctx, kind)()])
        await ctx.sleep("1h")
        return "done"

    def plain(ctx: SyncContext) -> str:
        seen.append([getattr(ctx, kind)(), getattr(ctx, kind)()])
        ctx.sleep("1h")
        return "done"

    for each in (tool, plain):
        seen.clear()
        assert (await run_of(each)).text == "done"
        assert seen[0] == seen[1]
        if kind != "now":
            assert seen[0][0] != seen[0][1]


async def test_a_sleep_ends_the_attempt_and_time_passes() -> None:
    async def tool(ctx: Context) -> str:
        began = await ctx.now()
        await ctx.sleep("7d")
        await ctx.sleep_until(began + timedelta(days=9))
        await ctx.sleep_until(began)
        return str((await ctx.now()) - began)

    run = await run_of(tool)
    assert (run.text, run.attempts) == ("9 days, 0:00:00", 3)


@pytest.mark.parametrize("delay", ["soon", -1, float("nan"), None, True, "-1s"])
async def test_a_delay_that_is_none_is_refused(delay: Any) -> None:
    async def tool(ctx: Context) -> None:
        await ctx.sleep(delay)

    assert "ctx.sleep" in (await run_of(tool)).text


async def test_a_time_without_a_zone_is_refused() -> None:
    async def tool(ctx: Context) -> None:
        await ctx.sleep_until(datetime(2026, 1, 1))  # noqa: DTZ001

    assert "zone" in (await run_of(tool)).text


# -- side by side


async def test_branches_run_side_by_side_and_replay_exactly() -> None:
    ran = Counter()
    order: list[int] = []

    async def branch(ctx: Context, number: int) -> int:
        first = await ctx.step("first", ran.later, number)
        await asyncio.sleep(0.001 * (5 - number))
        order.append(number)
        second = await ctx.step("second", ran.later, number * 10)
        await ctx.sleep(timedelta(hours=number + 1))
        return first + second + await ctx.step("third", ran.later, number * 100)

    async def tool(ctx: Context) -> list[int]:
        return await ctx.gather(*(branch(ctx, number) for number in range(5)))

    run = await run_of(tool, structured=False)
    assert run.text == "[0,111,222,333,444]"
    assert sorted(ran.ran) == sorted([0, 0, 0, 1, 10, 100, 2, 20, 200, 3, 30, 300, 4, 40, 400])
    assert order[:5] != sorted(order[:5])


async def test_branches_wait_together() -> None:
    async def tool(ctx: Context) -> str:
        one, two, _ = await ctx.gather(
            ctx.elicit("First?", Name, key="one"), ctx.elicit("Second?", Name, key="two"), ctx.sleep("1h")
        )
        return f"{one.data.name} {two.data.name}"

    run = await run_of(tool)
    assert [question.key for question in run.questions] == ["one", "two"]
    await run.answer({"one": {"name": "Ann"}, "two": {"name": "Bob"}})
    assert run.text == "Ann Bob"


async def test_branches_of_a_def_tool_wait_together() -> None:
    ran = Counter()

    def tool(ctx: SyncContext) -> str:
        one, two, three = ctx.gather(
            lambda: ctx.elicit("First?", Name), lambda: ctx.elicit("Second?", Name), lambda: ctx.step("it", ran, 3)
        )
        return f"{one.data.name} {two.data.name} {three}"

    run = await run_of(tool, answers={"First?": {"name": "Ann"}, "Second?": {"name": "Bob"}})
    assert (run.text, run.attempts, ran.ran) == ("Ann Bob 3", 2, [3])


async def test_the_first_error_of_a_gather_is_raised_when_all_are_done() -> None:
    ran = Counter()

    async def fail(ctx: Context) -> None:
        raise ToolError("first")

    async def tool(ctx: Context) -> str:
        everything = await ctx.gather(fail(ctx), ctx.step("it", ran.later, 1), return_exceptions=True)
        assert isinstance(everything[0], ToolError)
        await ctx.gather(fail(ctx), ctx.step("it", ran.later, 2))
        return "unreachable"

    run = await run_of(tool)
    assert (run.is_error, run.text, ran.ran) == (True, "first", [1, 2])


async def test_gathers_within_gathers() -> None:
    async def inner(ctx: Context, number: int) -> int:
        parts = await ctx.gather(*(ctx.step("part", Counter(), number + each) for each in range(3)))
        await ctx.sleep("1h")
        return sum(parts)

    async def tool(ctx: Context) -> str:
        return str(await ctx.gather(*(inner(ctx, number) for number in range(3))))

    assert (await run_of(tool)).text == "[3, 6, 9]"


async def test_steps_side_by_side_without_gather_are_refused() -> None:
    async def tool(ctx: Context) -> None:
        await asyncio.gather(ctx.step("one", Counter().later, 1), ctx.step("two", Counter().later, 2))

    assert "ctx.gather" in (await run_of(tool)).text


async def test_a_step_within_a_step_is_refused() -> None:
    async def tool(ctx: Context) -> None:
        async def outer() -> None:
            await ctx.step("inner", Counter(), 1)

        await ctx.step("outer", outer)

    assert "ctx.gather" in (await run_of(tool)).text


async def test_what_is_no_branch_is_refused() -> None:
    async def tool(ctx: Context) -> None:
        await ctx.gather(ctx.step("it", Counter(), 1), 7)  # type: ignore[arg-type]

    def plain(ctx: SyncContext) -> None:
        ctx.gather(ctx.step("it", Counter(), 1))

    assert "cannot be awaited" in (await run_of(tool)).text
    assert "is not a function" in (await run_of(plain)).text


# -- other tools


async def double(number: int) -> dict[str, int]:
    return {"twice": 2 * number}


async def refuse() -> None:
    raise ToolError("no luck")


async def break_down() -> None:
    raise ProtocolError(-31999, "out of paper")


async def ask(ctx: Context) -> str:
    answer = await ctx.elicit("Who?", Name, key="who")
    return f"Hello, {answer.data.name}!"


HELPERS = (double, refuse, break_down, ask)


async def test_a_tool_calls_another_and_gets_its_result() -> None:
    async def tool(ctx: Context) -> str:
        results = await ctx.gather(*(ctx.call_tool("double", {"number": n}) for n in range(4)))
        return ",".join(str(result.structured["twice"]) for result in results)

    def plain(ctx: SyncContext) -> str:
        return str(ctx.call_tool("double", {"number": 21}).structured["twice"])

    run = await run_of(tool, helpers=HELPERS)
    assert (run.text, len(run.calls)) == ("0,2,4,6", 4)
    assert (await run_of(plain, helpers=HELPERS)).text == "42"


@pytest.mark.parametrize(("name", "said"), [("refuse", "no luck"), ("break_down", "out of paper")])
async def test_the_failure_of_a_call_is_an_error_of_its_own(name: str, said: str) -> None:
    async def tool(ctx: Context) -> str:
        try:
            await ctx.call_tool(name)
        except CallFailed as error:
            return f"{error.tool}: {error.message}"
        return "unreachable"

    async def careless(ctx: Context) -> None:
        await ctx.call_tool(name)

    assert (await run_of(tool, helpers=HELPERS)).text == f"{name}: {said}"
    run = await run_of(careless, helpers=HELPERS)
    assert (run.is_error, run.text) == (True, f"{name} failed: {said}")


async def test_what_a_called_tool_asks_is_asked_in_its_callers_name() -> None:
    async def tool(ctx: Context) -> str:
        return (await ctx.call_tool("ask")).text

    run = await run_of(tool, helpers=HELPERS)
    assert run.status is Status.INPUT_REQUIRED
    (question,) = run.questions
    assert question.key.endswith(":who")
    await run.answer({"Who?": {"name": "Ann"}})
    assert run.text == "Hello, Ann!"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("missing", {}, "There is no tool 'missing'"),
        ("plain", {}, 'task="forbidden"'),
        ("double", {"number": "x"}, "do not fit the input schema of double"),
        ("double", {"number": object()}, "not JSON"),
        ("", {}, "is no name"),
    ],
)
async def test_a_call_that_cannot_be_made_says_why(name: str, arguments: dict[str, Any], said: str) -> None:
    async def tool(ctx: Context) -> None:
        await ctx.call_tool(name, arguments)

    engine = TaskEngine("test")
    engine.add_tool(tool, description="Test.")
    engine.add_tool(double, description="Helper.")

    async def plain() -> None:
        pass

    engine.add_tool(plain, description="Helper.", task="forbidden")
    assert said in (await call(engine, "tool")).text


# -- deadlines of questions


async def test_a_default_answers_when_nobody_does() -> None:
    async def tool(ctx: Context) -> str:
        answer = await ctx.elicit("Who?", Name, answer_by="1h", default=Name(name="Nobody"))
        return f"{answer.action} {answer.data.name}"

    run = await run_of(tool)
    assert run.status is Status.INPUT_REQUIRED
    await run.pass_time("59m")
    assert run.status is Status.INPUT_REQUIRED
    await run.pass_time("2m")
    assert run.text == "accept Nobody"


async def test_without_a_default_an_unanswered_question_is_an_error() -> None:
    async def tool(ctx: Context) -> str:
        try:
            await ctx.elicit("Who?", Name, key="who")
        except Unanswered as error:
            await ctx.sleep("1h")
            return f"nobody for {error.key}"
        return "unreachable"

    run = await run_of(tool, answer_by="1h")
    await run.pass_time("2h")
    assert run.text == "nobody for who"


async def test_an_answer_in_time_counts() -> None:
    async def tool(ctx: Context) -> str:
        answer = await ctx.elicit("Who?", Name, answer_by="1h", default=Name(name="Nobody"))
        await ctx.sleep("2h")
        return answer.data.name

    run = await run_of(tool, answers={"Who?": {"name": "Ann"}})
    assert run.text == "Ann"


async def test_a_default_that_does_not_fit_its_form_is_refused() -> None:
    async def tool(ctx: Context) -> None:
        await ctx.elicit("Who?", Name, answer_by="1h", default={"nam": "x"})  # type: ignore[call-overload]

    assert "default answer" in (await run_of(tool)).text


# -- what cannot be


@pytest.mark.parametrize(
    "use",
    [
        lambda ctx: ctx.step("it", Counter(), 1),
        lambda ctx: ctx.sleep(1),
        lambda ctx: ctx.now(),
        lambda ctx: ctx.call_tool("double"),
        lambda ctx: ctx.gather(),
        lambda ctx: ctx.elicit("Who?", Name, answer_by="1s"),
    ],
)
async def test_a_tool_without_a_task_has_no_journal(use: Callable[[Context], Awaitable[Any]]) -> None:
    async def tool(ctx: Context) -> None:
        await use(ctx)

    assert "needs a task" in (await run_of(tool, task="forbidden")).text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retries": -1}, "retries is -1"),
        ({"retries": "many"}, "retries is 'many'"),
        ({"retries": True}, "retries is True"),
        ({"retries": 1, "backoff": "soon"}, "backoff: 'soon'"),
        ({"retries": 1, "backoff": []}, "backoff is empty"),
        ({"retries": 1, "backoff": 5}, "backoff"),
        ({"backoff": "1s"}, "backoff without retries"),
        ({"answer_by": "soon"}, "answer_by: 'soon'"),
        ({"answer_by": "0s"}, "answer_by is zero"),
        ({"version": 1}, "version is 1"),
        ({"version": ""}, "version is ''"),
        ({"task": "forbidden", "retries": 1}, "retries is for tasks"),
        ({"task": "forbidden", "version": "1"}, "version is for tasks"),
        ({"task": "forbidden", "answer_by": "1s"}, "answer_by is for tasks"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_the_declaration(options: dict[str, Any], said: str) -> None:
    async def tool() -> None:
        pass

    with pytest.raises(DeclarationError, match=said):
        TaskEngine("test").add_tool(tool, description="Test.", **options)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("", Counter()), {}, "'' is no name"),
        ((3, Counter()), {}, "3 is no name"),
        (("x" * 201, Counter()), {}, "is no name"),
        (("it", "text"), {}, "'text' is not a function"),
        (("it", Counter()), {"retries": -1}, "it: retries is -1"),
        (("it", Counter()), {"backoff": "soon"}, "it: backoff"),
        (("it", Counter()), {"timeout": "soon"}, "it: 'soon'"),
    ],
)
async def test_a_step_that_is_written_wrongly_says_how(
    arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    async def tool(ctx: Context) -> None:
        await ctx.step(*arguments, **options)

    assert said in (await run_of(tool)).text


# -- signals


async def test_no_except_keeps_a_wait_from_ending_the_attempt_and_finally_runs() -> None:
    seen: list[str] = []

    async def tool(ctx: Context) -> str:
        try:
            await ctx.sleep("1h")
        except Exception:
            seen.append("swallowed")
        finally:
            seen.append("finally")
        return "slept"

    run = await run_of(tool)
    assert (run.text, run.attempts, seen) == ("slept", 2, ["finally", "finally"])


async def test_even_a_bare_except_only_delays_the_end() -> None:
    ran = Counter()

    async def tool(ctx: Context) -> str:
        try:
            await ctx.sleep("1h")
        except BaseException:
            ran("swallowed")
        await ctx.step("after", ran, "after")
        return "slept"

    run = await run_of(tool)
    assert (run.text, ran.ran) == ("slept", ["swallowed", "after"])


async def test_a_branch_that_swallows_its_wait_waits_all_the_same() -> None:
    async def branch(ctx: Context) -> str:
        try:
            await ctx.sleep("1h")
        except BaseException:
            return "swallowed"
        return "slept"

    async def tool(ctx: Context) -> str:
        return " ".join(await ctx.gather(branch(ctx), branch(ctx)))

    assert (await run_of(tool)).text == "slept slept"


async def test_a_question_answered_before_there_were_journals_gets_its_place() -> None:
    """A task that was asked by code without a journal goes on, and every later attempt finds the same places."""
    ran = Counter()

    async def tool(ctx: Context) -> str:
        answer = await ctx.elicit("Who?", Name, key="who")
        await ctx.step("it", ran, 1)
        await ctx.sleep("1h")
        return answer.data.name

    engine = TaskEngine("test")
    engine.add_tool(tool, description="Test.")
    run = await call(engine, "tool")
    run._journal.clear()
    await run.answer({"who": {"name": "Ann"}})
    assert (run.text, ran.ran) == ("Ann", [1])
