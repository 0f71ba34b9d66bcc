"""What a request leaves behind that only the collector finds, and what it builds anew although it never changes.

A front end with thousands of streams stands still while such things are collected: a fifth of a second, once they end.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import Executable

from taskengine import Context, TaskEngine
from taskengine.execution.attempt import Attempt
from taskengine.execution.processes import ToolProcesses
from taskengine.lifecycle import Phase, Status
from taskengine.records import Claim
from taskengine.settings import Settings
from taskengine.store import Store, database
from tests.legacy import tools as legacy_tools
from tests.legacy.peer import ALL
from tests.legacy.peer import serving as serving_legacy
from tests.server import tools
from tests.server.peer import EXTENSION, QUEUES, WORKER, Hands, serving
from tests.store.calls import OWNER, new_task

OURS = ("taskengine.", "sqlalchemy.", "starlette.", "uvicorn.")
TIMES = 3


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)


@contextmanager
def _no_leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    built: list[str] = []
    compiled = database.compiled

    def counted(statement: Executable, values: Mapping[str, Any], columns: list[str] | None = None) -> Any:
        built.append(str(statement))
        return compiled(statement, values, columns)

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(database, "compiled", counted)
            yield
        gc.collect()
        found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
    assert not built
    assert not {name: count for name, count in found.items() if name.startswith(OURS)}


async def _repeated(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Awaitable[None]]) -> None:
    await work()  # what is made once and kept
    with _no_leftovers(monkeypatch):
        for _ in range(TIMES):
            await work()


async def test_a_call_its_polls_and_a_stream_of_its_end(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tools.engine, settings) as peer:

        async def work() -> None:
            task_id = (await peer.call("job", tasks=True)).result["taskId"]
            await peer.get(task_id)
            watched = {"notifications": {"taskIds": [task_id]}}
            async with peer.stream("subscriptions/listen", watched, capabilities=EXTENSION) as stream:
                await stream.next()
                await hands.complete(await hands.take())
                while (await stream.next())["params"].get("status") != "completed":
                    pass
            assert (await peer.get(task_id)).result["status"] == "completed"

        await _repeated(monkeypatch, work)


async def test_the_same_of_the_revision_before(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = settings.model_copy(update={"keep_alive": timedelta(seconds=0.1)})  # it answers when there is something
    async with serving_legacy(legacy_tools.engine, soon) as peer:
        await peer.initialize(capabilities=ALL)

        async def work() -> None:
            task_id = await peer.begin("plain_job")
            await peer.get(task_id)
            async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
                await hands.complete(await hands.take())
                while "result" not in await stream.next():
                    pass
            assert (await peer.get(task_id))["status"] == "completed"

        await _repeated(monkeypatch, work)


class _Name(BaseModel):
    name: str


patient = TaskEngine("patient")


@patient.tool()
async def step_and_ask(ctx: Context) -> str:
    """A step, a log line, and a question."""
    await ctx.step("one", lambda: 1)
    await ctx.log.info("asking")
    answer = await ctx.elicit("Who is it?", _Name)
    return answer.data.name if answer.data else answer.action


@patient.tool()
async def step_and_sleep(ctx: Context) -> str:
    """A step, and a long sleep."""
    await ctx.step("one", lambda: 1)
    await ctx.sleep(3600)
    return "awake"


@pytest.mark.parametrize("name", ["step_and_ask", "step_and_sleep"])
async def test_an_attempt_that_waits_and_the_answer(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    at_once = settings.model_copy(update={"linger": timedelta(0)})
    store, tool = hands.store, patient.get_tool(name)
    assert tool is not None

    async def run(claim: Claim) -> None:
        processes = ToolProcesses("unused", 0)
        await Attempt(claim, tool, store=store, settings=at_once, processes=processes, ring=lambda _: None).run()

    async def work() -> None:
        call = new_task(tool=name, queue=tool.route, arguments={}, capabilities={"elicitation": {}})
        await store.tasks.create(call)
        claim = await hands.take()
        await run(claim)
        waiting = await store.tasks.get(claim.task_id, OWNER)
        if not waiting.open_questions:
            assert waiting.phase is Phase.WAITING
            return
        answers = {waiting.open_questions[0].key: {"action": "accept", "content": {"name": "Ann"}}}
        assert await store.inputs.answer(claim.task_id, OWNER, answers) is not None
        await run(await hands.take())
        assert (await store.tasks.get(claim.task_id, OWNER)).status is Status.COMPLETED

    await _repeated(monkeypatch, work)
