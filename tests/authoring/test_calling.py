"""Calling: whatever a function does ends in one outcome, and only the engine's own signals pass through."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import mcp_types
import pytest
from pydantic import BaseModel

from taskengine import Context, MissingCapability, ProtocolError, SyncContext, ToolError
from taskengine.calling import Outcome, call_async, call_sync, outcome_of_message
from taskengine.content import text_result
from taskengine.declaration import make_tool
from taskengine.errors import (
    AttemptReleased,
    BadAnswer,
    ClaimLost,
    DeclarationError,
    StoreUnavailable,
    Suspended,
    TaskCancelled,
)
from tests.authoring.test_context import Fake, SyncFake


class Name(BaseModel):
    name: str


@pytest.fixture(params=["async", "sync"])
def colour(request):
    return request.param


async def outcome(
    colour: str, body: Any, arguments: Any = None, *, show: bool = True, limit: int = 1 << 20, **options: Any
) -> Outcome:
    """Call a tool of either colour whose function is `body(ctx)`."""
    if colour == "async":

        async def tool(ctx: Context, n: int = 0) -> Any:
            value = body(ctx)
            return await value if asyncio.iscoroutine(value) else value

        made = make_tool(tool, description="d", **options)
        return await call_async(made, arguments or {}, Fake(SyncFake()), show_exceptions=show, max_result_bytes=limit)

    def tool_(ctx: SyncContext, n: int = 0) -> Any:
        return body(ctx)

    made = make_tool(tool_, name="tool", description="d", **options)
    return call_sync(made, arguments or {}, SyncFake(), show_exceptions=show, max_result_bytes=limit)


def raising(error: BaseException) -> Any:
    def body(ctx: Any) -> Any:
        raise error

    return body


def text_of(found: Outcome) -> str:
    assert found.result is not None
    return str(json.loads(found.result)["content"][0]["text"])


async def test_a_returned_value_is_the_result(colour):
    found = await outcome(colour, lambda ctx: "done")
    assert found == Outcome('{"content":[{"type":"text","text":"done"}]}')


async def test_a_tool_error_is_an_error_result_with_its_text(colour):
    found = await outcome(colour, raising(ToolError("no such dataset\nlook again")))
    assert found.is_error
    assert json.loads(found.result or "") == text_result("no such dataset\nlook again", is_error=True)
    assert found.message == "no such dataset"
    assert (found.error, found.traceback) == (None, None)


async def test_a_protocol_error_is_a_json_rpc_error(colour):
    found = await outcome(colour, raising(ProtocolError(4001, "quota used up", {"limit": 3})))
    assert json.loads(found.error or "") == {"code": 4001, "message": "quota used up", "data": {"limit": 3}}
    assert (found.result, found.is_error, found.message) == (None, False, "quota used up")
    plain = await outcome(colour, raising(ProtocolError(-5, "no data")))
    assert json.loads(plain.error or "") == {"code": -5, "message": "no data"}


async def test_a_missing_capability_is_a_json_rpc_error_that_names_it(colour):
    found = await outcome(colour, raising(MissingCapability({"sampling": {}})))
    assert json.loads(found.error or "")["data"] == {"requiredCapabilities": {"sampling": {}}}
    assert json.loads(found.error or "")["code"] == -32021


async def test_data_of_a_protocol_error_that_is_not_json_is_left_out(colour, caplog):
    with caplog.at_level(logging.WARNING, "taskengine.tool"):
        found = await outcome(colour, raising(ProtocolError(1, "bad", object())))
    assert json.loads(found.error or "") == {"code": 1, "message": "bad"}
    assert "left out" in caplog.text
    large = await outcome(colour, raising(ProtocolError(1, "m" * 10_000, "x" * 10_000)), limit=9_000)
    assert len(large.error or "") < 5_000
    huge = await outcome(colour, raising(ProtocolError(2**70, "past what JSON carries exactly")))
    assert json.loads(huge.error or "")["code"] == -32603
    odd = await outcome(colour, raising(ProtocolError("x", "", None)))  # type: ignore[arg-type]
    assert json.loads(odd.error or "") == {"code": -32603, "message": "The tool failed."}


async def test_any_other_exception_is_named_and_its_traceback_kept(colour, caplog):
    with caplog.at_level(logging.ERROR, "taskengine.tool"):
        found = await outcome(colour, raising(ValueError("bad value")))
    assert found.is_error
    assert text_of(found) == "ValueError: bad value"
    assert found.message == "ValueError: bad value"
    assert found.traceback is not None
    assert "in body" in found.traceback
    assert "Traceback" not in (found.result or "")
    assert "tool tool raised ValueError" in caplog.text
    assert "in body" in caplog.text


async def test_exceptions_can_be_hidden(colour):
    found = await outcome(colour, raising(ValueError("secret")), show=False)
    assert "secret" not in (found.result or "")
    assert "ValueError" not in (found.result or "")
    assert "secret" in (found.traceback or "")
    shown = await outcome(colour, raising(ToolError("meant to be read")), show=False)
    assert text_of(shown) == "meant to be read"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError(), "KeyError"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (BaseException("odd"), "BaseException: odd"),
        (DeclarationError("key used"), "DeclarationError: key used"),
        (BadAnswer("k", "no"), "the answer to 'k' does not fit: no"),
        (ValueError("\ud800\0"), "ValueError: ?\ufffd"),
    ],
)
async def test_nothing_a_tool_raises_gets_out(colour, error, text):
    found = await outcome(colour, raising(error))
    assert found.is_error
    assert text_of(found) == text
    assert found.traceback
    found.traceback.encode()


async def test_an_exception_without_a_readable_message_is_named_all_the_same(colour):
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert "Broken: (its message cannot be read)" in text_of(await outcome(colour, raising(Broken())))


async def test_long_messages_are_cut(colour):
    found = await outcome(colour, raising(ValueError("x" * 1_000_000)), limit=100_000)
    assert len(found.result or "") < 5_000
    assert len(found.message or "") <= 200
    assert len(found.traceback or "") <= 32_000
    huge = await outcome(colour, raising(ToolError("x" * 1_000_000)), limit=100_000)
    assert len(huge.result or "") < 5_000


@pytest.mark.parametrize("signal", [Suspended(), AttemptReleased(), TaskCancelled()])
async def test_signals_pass_through(colour, signal):
    with pytest.raises(type(signal)):
        await outcome(colour, raising(signal))


@pytest.mark.parametrize("error", [ClaimLost("tsk_1", 2), StoreUnavailable("down")])
async def test_a_lost_claim_or_database_is_not_the_tool_s_result(colour, error):
    with pytest.raises(type(error)):
        await outcome(colour, raising(error))


async def test_a_signal_the_tool_swallowed_still_ends_the_attempt(colour):
    def swallow(ctx: Any) -> Any:
        try:
            return ctx.elicit("?", Name)
        except BaseException:
            return "went on"

    async def swallow_async(ctx: Any) -> Any:
        try:
            return await ctx.elicit("?", Name)
        except BaseException:
            return "went on"

    async def turned(ctx: Any) -> Any:
        try:
            return await ctx.elicit("?", Name)
        except BaseException as error:
            raise ValueError("other") from error

    with pytest.raises(Suspended):
        await outcome(colour, swallow_async if colour == "async" else swallow)
    if colour == "async":
        with pytest.raises(Suspended):
            await outcome(colour, turned)


async def test_except_exception_does_not_catch_a_question():
    async def body(ctx: Any) -> Any:
        try:
            await ctx.elicit("?", Name)
        except Exception:
            return "caught"

    with pytest.raises(Suspended):
        await outcome("async", body)


async def test_a_question_inside_a_task_group_suspends():
    async def body(ctx: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.elicit("1?", Name))
            group.create_task(ctx.elicit("2?", Name))

    with pytest.raises(Suspended):
        await outcome("async", body)


async def test_a_single_error_of_a_task_group_counts_as_itself():
    async def fail() -> None:
        raise ToolError("only this")

    async def body(ctx: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    assert text_of(await outcome("async", body)) == "only this"

    async def two(ctx: Any) -> Any:
        raise ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])])

    assert text_of(await outcome("async", two)).startswith("ExceptionGroup: several")


async def test_cancellation_of_the_attempt_passes_through():
    started = asyncio.Event()

    async def body(ctx: Any) -> Any:
        started.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(outcome("async", body))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_error_of_the_tool_s_own_is_its_failure():
    async def body(ctx: Any) -> Any:
        inner = asyncio.create_task(asyncio.sleep(60))
        inner.cancel()
        await inner

    found = await outcome("async", body)
    assert text_of(found) == "CancelledError"


async def test_arguments_that_do_not_fit_are_an_error_result(colour):
    found = await outcome(colour, lambda ctx: "x", {"n": "many"})
    assert found.is_error
    assert "`n`" in text_of(found)
    assert found.traceback is None


async def test_a_result_with_no_json_form_is_an_error_result(colour):
    found = await outcome(colour, lambda ctx: {"a": object()})
    assert found.is_error
    assert "a dict, which has no JSON form" in text_of(found)
    assert found.traceback is None, "the sentence says it all"
    assert "NaN" in text_of(await outcome(colour, lambda ctx: {"a": float("nan")}))
    assert "surrogate" in text_of(await outcome(colour, lambda ctx: "\ud800"))


async def test_a_result_over_the_limit_is_an_error_result_that_names_both(colour):
    found = await outcome(colour, lambda ctx: "é" * 1_000, limit=1_500)
    assert found.is_error
    assert "2,039 bytes" in text_of(found)
    assert "1,500" in text_of(found)
    assert not (await outcome(colour, lambda ctx: "é" * 1_000, limit=2_039)).is_error


async def test_a_result_outside_its_schema_is_an_error_result(colour):
    found = await outcome(colour, lambda ctx: {"n": "x"}, output_schema={"properties": {"n": {"type": "integer"}}})
    assert found.is_error
    assert "`n` must be an integer" in text_of(found)


async def test_an_error_result_that_the_tool_made_is_kept(colour):
    whole = mcp_types.CallToolResult(content=[mcp_types.TextContent(text="not today")], is_error=True)
    found = await outcome(colour, lambda ctx: whole)
    assert (found.is_error, found.message) == (True, "not today")
    assert json.loads(found.result or "") == text_result("not today", is_error=True)


async def test_a_def_tool_that_returns_a_coroutine_is_told_what_to_change():
    async def work() -> str:
        return "x"

    found = await outcome("sync", lambda ctx: work())
    assert "async def" in text_of(found)


def test_the_engine_s_own_messages_are_outcomes_too():
    found = outcome_of_message("It ran longer than its timeout of 6h.")
    assert found.is_error
    assert found.message == "It ran longer than its timeout of 6h."
    assert not outcome_of_message("fine", is_error=False).is_error
