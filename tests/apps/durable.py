"""Tools that keep what they do, for tests of the journal. A ledger outside the engine counts what really ran."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel

from taskengine import CallFailed, Context, EngineError, StepFailed, SyncContext, TaskEngine, TooDeep, ToolError

engine = TaskEngine("durable")


class Name(BaseModel):
    name: str


def note(ledger: str, line: str) -> None:
    if ledger:
        with Path(ledger).open("a") as file:
            file.write(f"{line} {os.getpid()}\n")


def noted(ledger: str, line: str, value: int) -> int:
    note(ledger, line)
    return value


async def noted_later(ledger: str, line: str, value: int) -> int:
    await asyncio.sleep(0.01)
    note(ledger, line)
    return value


@engine.tool(quick_wait="0s")
async def stairs(steps: int, ctx: Context, ledger: str = "", hold: str = "") -> str:
    """Add up in steps; with `hold`, wait before the last one until that file is there."""
    note(ledger, "start")
    total = 0
    for number in range(steps):
        while hold and number == steps - 1 and not Path(hold).exists():
            await asyncio.sleep(0.05)
        total += await ctx.step(f"stair {number}", noted_later, ledger, f"stair-{number}", number)
    return f"{total} in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def stairs_sync(steps: int, ctx: SyncContext, ledger: str = "", hold: str = "") -> str:
    """The same in a process."""
    note(ledger, "start")
    total = 0
    for number in range(steps):
        while hold and number == steps - 1 and not Path(hold).exists():
            time.sleep(0.05)
        total += ctx.step(f"stair {number}", noted, ledger, f"stair-{number}", number)
    return f"{total} in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
async def ask_between(ctx: Context, ledger: str = "") -> str:
    """A step, a question, a step."""
    note(ledger, "start")
    before = await ctx.step("before", noted, ledger, "before", 1)
    answer = await ctx.elicit("Who are you?", Name, key="name")
    after = await ctx.step("after", noted, ledger, "after", 2)
    return f"{before}{after} {answer.data.name if answer.data else '-'} in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def ask_between_sync(ctx: SyncContext, ledger: str = "") -> str:
    """The same in a process."""
    note(ledger, "start")
    before = ctx.step("before", noted, ledger, "before", 1)
    answer = ctx.elicit("Who are you?", Name, key="name")
    after = ctx.step("after", noted, ledger, "after", 2)
    return f"{before}{after} {answer.data.name if answer.data else '-'} in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
async def nap(seconds: float, ctx: Context, ledger: str = "") -> str:
    """Sleep, with a value from before it."""
    token = await ctx.uuid()
    note(ledger, f"before-{token}")
    await ctx.sleep(seconds)
    note(ledger, f"after-{token}")
    return f"awake in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def nap_sync(seconds: float, ctx: SyncContext, ledger: str = "") -> str:
    """The same in a process."""
    token = ctx.uuid()
    note(ledger, f"before-{token}")
    ctx.sleep(seconds)
    note(ledger, f"after-{token}")
    return f"awake in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
async def family(children: int, ctx: Context) -> str:
    """Call a tool many times side by side and add up what they give."""
    results = await ctx.gather(*(ctx.call_tool("double", {"number": n}) for n in range(children)))
    return f"{sum(result.structured['result'] for result in results)} in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def family_sync(children: int, ctx: SyncContext) -> str:
    """The same in a process."""
    results = ctx.gather(*(lambda n=n: ctx.call_tool("double", {"number": n}) for n in range(children)))
    return f"{sum(result.structured['result'] for result in results)} in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
async def asks_beside_a_call(ctx: Context) -> str:
    """Wait for a person and for another tool."""
    answer, called = await ctx.gather(ctx.elicit("Who are you?", Name, key="name"), ctx.call_tool("sleeper"))
    return f"{answer} {called}"


@engine.tool(quick_wait="0s", structured=True)
async def double(number: int) -> dict[str, int]:
    """Twice the number."""
    return {"result": 2 * number}


@engine.tool(quick_wait="0s")
async def caller(tool: str, ctx: Context) -> str:
    """Call one tool without arguments."""
    try:
        return (await ctx.call_tool(tool)).text
    except CallFailed as error:
        return f"caught: {error}"


@engine.tool(quick_wait="0s")
async def asker(ctx: Context) -> str:
    """Ask for a name."""
    answer = await ctx.elicit("Who are you?", Name, key="name")
    return f"Hello, {answer.data.name}!" if answer.data else "nobody"


@engine.tool(quick_wait="0s")
async def sleeper(ctx: Context) -> str:
    """Sleep for an hour."""
    await ctx.sleep("1h")
    return "awake"


@engine.tool(quick_wait="0s")
async def unlucky() -> str:
    """Fail the way a tool should."""
    raise ToolError("no luck today")


@engine.tool(quick_wait="0s", retries=2, backoff="100ms")
async def third_time(ctx: Context, ledger: str) -> str:
    """Raise in the first two tries."""
    note(ledger, "start")
    await ctx.step("kept", noted, ledger, "kept", 1)
    tries = Path(ledger).read_text().count("start")
    await ctx.step("fragile", fragile, ledger, tries)
    return f"lucky in try {tries}"


def fragile(ledger: str, tries: int) -> None:
    note(ledger, "fragile")
    if tries < 3:
        raise ConnectionError("not yet")


@engine.tool(quick_wait="0s")
async def patient_step(ctx: Context, ledger: str, backoff: str) -> str:
    """A step that fails once."""
    try:
        return await ctx.step("once", fails_once, ledger, retries=1, backoff=backoff)
    except StepFailed as error:
        return f"failed: {error}"


def fails_once(ledger: str) -> str:
    note(ledger, "try")
    if Path(ledger).read_text().count("try") < 2:
        raise ConnectionError("not yet")
    return "done"


@engine.tool(quick_wait="0s")
async def swallow(ctx: Context, ledger: str) -> str:
    """Catch every Exception around a wait, and clean up."""
    note(ledger, "start")
    try:
        await ctx.sleep("1h")
    except Exception:
        note(ledger, "swallowed")
    finally:
        note(ledger, "finally")
    return "went on"


@engine.tool(quick_wait="0s")
def swallow_sync(ctx: SyncContext, ledger: str) -> str:
    """The same in a process."""
    note(ledger, "start")
    try:
        ctx.sleep("1h")
    except Exception:
        note(ledger, "swallowed")
    finally:
        note(ledger, "finally")
    return "went on"


@engine.tool(quick_wait="0s", timeout="4s")
async def brief(ctx: Context) -> str:
    """Ask and sleep for longer than it may run."""
    await ctx.elicit("Who are you?", Name, key="name")
    await ctx.sleep(6)
    return "in time"


@engine.tool(quick_wait="0s", answer_by="2s")
async def impatient(ctx: Context) -> str:
    """Ask with a default for when nobody answers."""
    answer = await ctx.elicit("Who are you?", Name, key="name", default=Name(name="Nobody"))
    return f"Hello, {answer.data.name}!" if answer.data else answer.action


@engine.tool(quick_wait="0s")
async def dies_between(ctx: Context, ledger: str) -> str:
    """Kill the worker between two steps of the first attempt."""
    first = await ctx.step("first", noted, ledger, "first", 1)
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{first}{await ctx.step('second', noted, ledger, 'second', 2)} in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
async def arriving(children: int, ctx: Context, ledger: str = "", straggler: bool = False) -> str:
    """Call a tool many times and note what comes as it comes; with `straggler`, the first call takes an hour."""
    note(ledger, "start")
    calls = [("sleeper", {}) if straggler and n == 0 else ("double", {"number": n}) for n in range(children)]
    order = []
    async for done in ctx.as_completed(calls):
        order.append(done.index if "awake" in done.result.text else done.result.structured["result"] // 2)
        await ctx.step("took", noted, ledger, f"took-{done.index}", 1)
    return f"{len(order)} of {len(set(order))}, the last was {order[-1]}, in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def arriving_sync(children: int, ctx: SyncContext, ledger: str = "", straggler: bool = False) -> str:
    """The same in a process."""
    note(ledger, "start")
    calls = [("sleeper", {}) if straggler and n == 0 else ("double", {"number": n}) for n in range(children)]
    order = []
    for done in ctx.as_completed(calls):
        order.append(done.index if "awake" in done.result.text else done.result.structured["result"] // 2)
        ctx.step("took", noted, ledger, f"took-{done.index}", 1)
    return f"{len(order)} of {len(set(order))}, the last was {order[-1]}, in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def endless(ctx: SyncContext) -> str:
    """Call itself."""
    try:
        return ctx.call_tool("endless").text
    except TooDeep as error:
        return str(error)


@engine.tool(quick_wait="0s")
def refused(ctx: SyncContext, ledger: str) -> str:
    """Catch refusals, wait, and say what they were."""
    said = []
    for name, arguments in (("missing", {}), ("double", {"number": "x"})):
        try:
            ctx.call_tool(name, arguments)
        except EngineError as error:
            said.append(type(error).__name__)
    note(ledger, "/".join(said))
    ctx.elicit("Who are you?", Name, key="name")
    return "/".join(said)


@engine.tool(quick_wait="0s")
def ticking(ctx: SyncContext, ledger: str) -> None:
    """A step with a limit that it does not reach."""
    ctx.step("tick", ticks, ledger, timeout="1h")


def ticks(ledger: str) -> None:
    try:
        while True:
            note(ledger, "tick")
            time.sleep(0.05)
    finally:
        note(ledger, "ended")
