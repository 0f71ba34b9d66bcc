"""What an attempt makes of what it was given and of what it reports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import pytest
from pydantic import BaseModel

from taskengine import Context, Form, TaskEngine
from taskengine.errors import StoreUnavailable
from taskengine.execution.attempt import Attempt
from taskengine.execution.processes import ToolProcesses
from taskengine.lifecycle import Phase, Status
from taskengine.records import Answered, Claim, Doorbell
from taskengine.settings import Settings
from taskengine.store import Store
from tests.store.calls import OWNER, claimed
from tests.store.sql import execute

engine = TaskEngine("attempts")


@engine.tool()
async def name_the_logger(ctx: Context) -> str:
    """Log under a name that Postgres refuses."""
    await ctx.log("info", "hello", "na\x00me \ud800")
    return "done"


class Name(BaseModel):
    name: str


@engine.tool(ask_first={"user_name": Form("Who?", Name)})
async def greet(times: int, user_name: Name) -> str:
    """Ask before there is anything to do."""
    return user_name.name * times


async def test_nobody_is_asked_for_a_call_whose_arguments_do_not_fit(store: Store, settings: Settings) -> None:
    """A-23."""
    tool = engine.get_tool("greet")
    assert tool is not None
    claim = await claimed(
        store, tool=tool.name, queue=tool.route, arguments={"times": "many"}, capabilities={"elicitation": {"form": {}}}
    )
    processes = ToolProcesses("unused", 0)
    rung: list[Doorbell] = []
    await Attempt(claim, tool, store=store, settings=settings, processes=processes, ring=rung.append).run()
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, record.is_error) == (Status.COMPLETED, True)


async def test_a_log_line_never_costs_the_call_its_result(store: Store, settings: Settings, database_url: str) -> None:
    tool = engine.get_tool("name_the_logger")
    assert tool is not None
    claim = await claimed(store, tool=tool.name, queue=tool.route, arguments={})
    processes = ToolProcesses("unused", 0)
    rung: list[Doorbell] = []
    await Attempt(claim, tool, store=store, settings=settings, processes=processes, ring=rung.append).run()
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, record.is_error) == (Status.COMPLETED, False)
    assert [row["logger"] for row in await execute(database_url, "SELECT logger FROM logs")] == ["name ?"]


class Broken(RuntimeError):
    """A fault nobody thought of."""


@engine.tool()
async def asks_and_catches(ctx: Context) -> str:
    """Catch whatever comes out of a question."""
    try:
        await ctx.elicit("Sure?", {"type": "object", "properties": {}}, key="sure")
    except Exception as error:
        return f"caught {type(error).__name__}"
    return "answered"


async def _asked(store: Store, settings: Settings, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Claim:
    async def fail(*_: object, **__: object) -> None:
        raise error

    tool = engine.get_tool("asks_and_catches")
    assert tool is not None
    claim = await claimed(store, tool=tool.name, queue=tool.route, arguments={})
    monkeypatch.setattr(Attempt, "_or_over", fail)  # on the way to the store
    await Attempt(claim, tool, store=store, settings=settings, processes=ToolProcesses("unused", 0), ring=print).run()
    return claim


async def test_a_fault_of_the_engine_in_a_question_is_not_the_tool_s_failure(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = await _asked(store, settings, Broken("no such column"), monkeypatch)
    row = await store.inspection.show(claim.task_id)
    assert (row["phase"], row["crashes"]) == (Phase.QUEUED, 1)
    assert row["losses"][0]["cause"] == "the engine failed in a call of the tool's context"


async def test_a_question_while_the_database_is_away_hands_the_task_back(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = await _asked(store, settings, StoreUnavailable("away"), monkeypatch)
    row = await store.inspection.show(claim.task_id)
    assert (row["phase"], row["crashes"]) == (Phase.QUEUED, 0)


@engine.tool(timeout="2s")
async def asks_briefly(ctx: Context) -> str:
    """Ask, with little time to run."""
    await ctx.elicit("Sure?", {"type": "object", "properties": {}}, key="sure")
    return "in time"


async def test_reading_what_came_while_it_lingered_does_not_count_as_running(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, read = engine.get_tool("asks_briefly"), store.waits.answers
    assert tool is not None

    looked, time_left = asyncio.Event(), Attempt._time_left_s

    def looking(self: Attempt) -> float | None:
        looked.set()
        return time_left(self)

    async def slowly(task_id: str) -> Mapping[str, Answered]:
        looked.clear()
        await looked.wait()  # at the clock, while the store has the attempt as held again
        return await read(task_id)

    monkeypatch.setattr(Attempt, "_time_left_s", looking)
    monkeypatch.setattr(store.waits, "answers", slowly)
    lingering = settings.model_copy(update={"linger": timedelta(seconds=60)})
    claim = await claimed(store, tool=tool.name, queue=tool.route, arguments={})
    attempt = Attempt(claim, tool, store=store, settings=lingering, processes=ToolProcesses("unused", 0), ring=print)
    running = asyncio.create_task(attempt.run())
    async with asyncio.timeout(30):
        while not attempt.parked:
            await asyncio.sleep(0.01)
    assert attempt._paused_at is not None
    attempt._began -= 3600  # it lingers for an hour, which is longer than it may run
    attempt._paused_at -= 3600
    await store.inputs.answer(claim.task_id, OWNER, {"sure": {"action": "accept", "content": {}}})
    await running
    record = await store.tasks.get(claim.task_id, OWNER)
    assert record.result is not None
    assert "in time" in record.result
