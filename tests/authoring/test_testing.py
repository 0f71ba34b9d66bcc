"""`taskengine.testing`: calls run as in the engine, without any of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from taskengine import (
    BadAnswer,
    Context,
    Form,
    ProtocolError,
    Roots,
    Sample,
    SyncContext,
    TaskEngine,
    ToolError,
)
from taskengine.lifecycle import Status
from taskengine.testing import LogEntry, Progress, call

engine = TaskEngine("tests")
starts: list[int] = []


class Day(BaseModel):
    day: str
    part: Literal["morning", "evening"] = "morning"


class Booking(BaseModel):
    city: str
    day: str
    part: str


@engine.tool
async def book(city: str, ctx: Context) -> Booking:
    """Book a trip."""
    starts.append(ctx.attempt)
    await ctx.progress(1, 2, "asking")
    answer = await ctx.elicit("Which day?", Day)
    if answer.data is None:
        raise ToolError(f"not booked: {answer.action}")
    sure = await ctx.elicit("Sure?", {"type": "object", "properties": {}}, key="sure")
    if not sure.accepted:
        raise ToolError("not sure")
    await ctx.log.info({"city": city}, logger="booking")
    await ctx.progress(2, 2)
    return Booking(city=city, day=answer.data.day, part=answer.data.part)


@engine.tool
def slow(ctx: SyncContext, n: int = 1) -> str:
    """Ask in a def tool."""
    time.sleep(0.001)
    answers = ctx.elicit_all({"a": Form("A?", Day), "b": Sample("B?", max_tokens=9), "c": Roots()})
    ctx.log.warning("done")
    return f"{answers['a'].data.day} {answers['b'].text} {len(answers['c'])} {n}"


@engine.tool(ask_first={"who": Form("Who?", {"type": "object", "properties": {"name": {"type": "string"}}})})
async def greet(ctx: Context) -> str:
    """Greet."""
    return f"Hello, {ctx.first['who'].data['name']}! {ctx.task_id}"


@engine.tool(task="forbidden")
def quick(ctx: SyncContext) -> str:
    """Quick."""
    ctx.tools_changed()
    return f"{ctx.task_id} {ctx.elicit('Day?', Day).action}"


@engine.tool
async def fails(how: str) -> None:
    """Fail."""
    raise ProtocolError(7, "no") if how == "protocol" else ValueError("oops")


async def test_a_tool_runs_to_its_end_with_the_answers_given():
    starts.clear()
    run = await call(engine, "book", {"city": "Oslo"}, answers={"Which day?": {"day": "2026-12-01"}, "sure": "accept"})
    assert (run.status, run.is_error, run.attempts) == ("completed", False, 3)
    assert run.structured == {"city": "Oslo", "day": "2026-12-01", "part": "morning"}
    assert run.text == '{"city":"Oslo","day":"2026-12-01","part":"morning"}'
    assert starts == [1, 2, 3], "the function ran from the top for each answer"
    assert run.progress[-1] == Progress(2, 2, None)
    assert run.logs == [LogEntry("info", {"city": "Oslo"}, "booking")]
    assert [question.key for question in run.asked] == ["elicit-1", "sure"]
    assert run.questions == []


async def test_a_tool_waits_for_an_answer_and_goes_on():
    run = await call(engine, "book", {"city": "Oslo"})
    assert (run.status, run.result, run.attempts) == ("input_required", None, 1)
    assert [question.params["message"] for question in run.questions] == ["Which day?"]
    await run.answer({"elicit-1": Day(day="2026-12-02", part="evening")})
    assert (run.status, [question.key for question in run.questions]) == ("input_required", ["sure"])
    await run.answer({"Sure?": "accept"})
    assert run.structured["part"] == "evening"
    with pytest.raises(LookupError):
        await run.answer({"Sure?": "accept"})


@pytest.mark.parametrize("answer", ["decline", {"action": "decline"}, lambda question: "decline"])
async def test_a_question_can_be_declined(answer):
    run = await call(engine, "book", {"city": "Oslo"}, answers={"Which day?": answer})
    assert (run.status, run.is_error, run.text) == ("completed", True, "not booked: decline")


async def test_several_questions_can_be_answered_one_by_one():
    run = await call(engine, "slow", answers={"a": {"day": "mon"}})
    assert [question.key for question in run.questions] == ["b", "c"]
    await run.answer({"c": ["file:///a", {"uri": "file:///b", "name": "b"}]})
    assert [question.key for question in run.questions] == ["b"]
    await run.answer({"b": "yes"})
    assert (run.text, run.attempts) == ("mon yes 2 1", 2)
    assert run.logs == [LogEntry("warning", "done", None)]


async def test_questions_before_the_task_are_asked_first():
    run = await call(engine, "greet")
    assert (run.status, run.attempts, run.questions[0].key) == ("input_required", 0, "who")
    await run.answer({"who": {"name": "Alice"}})
    assert (run.text, run.attempts) == ("Hello, Alice! tsk_test", 1)


async def test_a_quick_tool_has_no_task():
    run = await call(engine, "quick", answers={"Day?": "cancel"})
    assert run.text == "None cancel"
    assert run.tools_changed == 2


async def test_failures_are_told_apart():
    protocol = await call(engine, "fails", {"how": "protocol"})
    assert (protocol.status, protocol.error, protocol.result) == ("failed", {"code": 7, "message": "no"}, None)
    other = await call(engine, "fails", {"how": "x"})
    assert (other.status, other.is_error, other.text) == ("completed", True, "ValueError: oops")
    assert "oops" in (other.traceback or "")
    hidden = await call(engine, "fails", {"how": "x"}, show_exceptions=False)
    assert "oops" not in hidden.text


async def test_bad_arguments_never_start_the_function():
    run = await call(engine, "book", {"town": "Oslo"})
    assert (run.status, run.is_error, run.attempts) == ("completed", True, 0)
    assert "`city` is missing" in run.text


async def test_a_client_that_cannot_be_asked_gets_the_error():
    run = await call(engine, "book", {"city": "Oslo"}, capabilities={})
    assert run.status == "failed"
    assert run.error is not None
    assert (run.error["code"], run.error["data"]) == (-32021, {"requiredCapabilities": {"elicitation": {}}})


async def test_an_answer_that_does_not_fit_is_the_test_s_mistake():
    with pytest.raises(BadAnswer, match="`day` is missing"):
        await call(engine, "book", {"city": "Oslo"}, answers={"Which day?": {"part": "evening"}})
    run = await call(engine, "book", {"city": "Oslo"})
    with pytest.raises(LookupError, match="open are elicit-1"):
        await run.answer({"What?": "accept"})
    with pytest.raises(BadAnswer):
        await run.answer({"elicit-1": 3})


async def test_an_unknown_tool_is_named():
    with pytest.raises(LookupError, match="'nothing'; there are book, slow"):
        await call(engine, "nothing")


async def test_a_tool_can_be_called_by_itself():
    run = await call(engine.tools["quick"], answers={"Day?": "accept" and {"day": "x"}})
    assert run.text == "None accept"


async def test_a_waiting_run_can_be_cancelled():
    run = await call(engine, "book", {"city": "Oslo"})
    run.cancel()
    assert (run.status, run.questions) == ("cancelled", [])
    with pytest.raises(LookupError, match="cancelled"):
        await run.answer({})


async def test_another_question_under_a_key_that_was_asked_is_an_error():
    async def forgetful(ctx: Context) -> Any:
        return (await ctx.elicit(f"Attempt {ctx.attempt}?", Day)).action

    tool = TaskEngine("e").add_tool(forgetful, description="d")
    run = await call(tool, answers={"elicit-1": {"day": "x"}})
    assert run.status is Status.FAILED
    assert run.error is not None
    assert "'Attempt 1?'" in run.error["message"]
    assert "'Attempt 2?'" in run.error["message"]


async def test_questions_asked_side_by_side_are_asked_one_after_the_other():
    """Only `elicit_all` asks several at once: the first question that has no answer ends the attempt."""

    async def both(ctx: Context) -> str:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(ctx.elicit("1?", Day))
            two = group.create_task(ctx.elicit("2?", Day))
        return f"{one.result().action} {two.result().action}"

    tool = TaskEngine("e").add_tool(both, description="d")
    run = await call(tool)
    assert [question.key for question in run.questions] == ["elicit-1"]
    await run.answer({"1?": "decline"})
    assert [question.key for question in run.questions] == ["elicit-2"]
    await run.answer({"2?": "cancel"})
    assert run.text == "decline cancel"


async def test_a_result_over_the_limit_is_an_error():
    async def big() -> str:
        return "x" * 5_000

    run = await call(TaskEngine("e").add_tool(big, description="d"), max_result_bytes=1_024)
    assert run.is_error
    assert "1,024" in run.text
