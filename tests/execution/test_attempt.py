"""How an attempt ends that reports what cannot be stored."""

from __future__ import annotations

from taskengine import Context, TaskEngine
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
