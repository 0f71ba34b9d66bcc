"""What an attempt makes of what it was given and of what it reports."""

from __future__ import annotations

from pydantic import BaseModel

from taskengine import Context, Form, TaskEngine
from taskengine.execution.attempt import Attempt
from taskengine.execution.processes import ToolProcesses
from taskengine.lifecycle import Status
from taskengine.records import Doorbell
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
