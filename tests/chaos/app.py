"""The tools of the load. What a call must give follows from its name and arguments alone (`tests.chaos.expected`).

Every run of a function leaves a line in the ledger when it starts and when it ends, with the attempt and a random
`run`; the same `run` stands in its result, so that the audit knows which of several runs the stored result is from.

Imported by `taskengine serve`, `worker` and the tool processes; the harness speaks to them by `CHAOS_*` variables.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import secrets
import signal
import subprocess
import threading
import time
from pathlib import Path

from pydantic import BaseModel

from taskengine import Context, Form, ProtocolError, SyncContext, TaskEngine, ToolError
from tests.chaos import ledger, triggers

FOLDER = Path(os.environ["CHAOS_FOLDER"])
LEDGER = FOLDER / "ledger"
JOURNALED = hasattr(Context, "step")
"""Whether this engine has steps, sleeps and child tasks."""
MEBIBYTE = 1 << 20

engine = TaskEngine("chaos", version="1", instructions="Tools of the fault harness.")
triggers.listen(FOLDER)


class Done(BaseModel):
    """Every tool's result."""

    label: str
    value: str
    attempt: int
    run: str


class Word(BaseModel):
    word: str


class Run:
    """One run of a function, from its first line to its last."""

    def __init__(self, ctx: Context | SyncContext, label: str) -> None:
        self.task_id = ctx.task_id or ""
        self.attempt = ctx.attempt
        self.label = label
        self.run = secrets.token_hex(6)
        # A sync tool's process is a child of the worker, which is what the harness counts in.
        worker = os.getppid() if isinstance(ctx, SyncContext) else os.getpid()
        self.note("start", f"{label} {self.run} {worker}")

    def note(self, event: str, text: str) -> None:
        ledger.write(LEDGER, event, self.task_id, self.attempt, text)

    def done(self, value: object) -> Done:
        self.note("end", self.run)
        return Done(label=self.label, value=str(value), attempt=self.attempt, run=self.run)


@engine.tool(quick_wait="200ms")
async def instant(label: str, x: int, ctx: Context) -> Done:
    """Square a number."""
    return Run(ctx, label).done(x * x)


@engine.tool(quick_wait="0s")
async def doze(label: str, seconds: float, ctx: Context) -> Done:
    """Sleep on the event loop, with progress."""
    run = Run(ctx, label)
    for part in range(4):
        await ctx.progress(part, 4, "dozing")
        await asyncio.sleep(seconds / 4)
    return run.done("slept")


@engine.tool(quick_wait="0s")
def crunch(label: str, n: int, ctx: SyncContext) -> Done:
    """Compute in a process."""
    run = Run(ctx, label)
    ctx.progress(0, 1, "crunching")
    total = 0
    for number in range(n):
        total = (total * 31 + number) % 1_000_003
    return run.done(total)


@engine.tool(quick_wait="0s")
def block(label: str, seconds: float, ctx: SyncContext) -> Done:
    """Sleep in a process, in one blocking call."""
    run = Run(ctx, label)
    time.sleep(seconds)
    return run.done("slept")


@engine.tool(quick_wait="0s")
async def ask(label: str, ctx: Context) -> Done:
    """Ask for two words, one after the other."""
    run = Run(ctx, label)
    first = await ctx.elicit("First?", Word, key="first")
    second = await ctx.elicit("Second?", Word, key="second")
    return run.done(f"{_word(first)} {_word(second)}")


@engine.tool(quick_wait="0s")
def ask_sync(label: str, ctx: SyncContext) -> Done:
    """Ask for two words at once, from a process."""
    run = Run(ctx, label)
    answers = ctx.elicit_all({"first": Form("First?", Word), "second": Form("Second?", Word)})
    return run.done(f"{_word(answers['first'])} {_word(answers['second'])}")


@engine.tool(quick_wait="0s")
async def tool_error(label: str, ctx: Context) -> Done:
    """Fail as a tool should."""
    Run(ctx, label).note("end", "")
    raise ToolError(f"{label} cannot be had")


@engine.tool(quick_wait="0s")
async def protocol_error(label: str, ctx: Context) -> Done:
    """Fail as a call."""
    Run(ctx, label).note("end", "")
    raise ProtocolError(-32050, f"{label} is refused")


@engine.tool(quick_wait="0s")
async def endless(label: str, ctx: Context) -> Done:
    """Run until cancelled."""
    run = Run(ctx, label)
    while True:
        await ctx.progress(0, None, "running")
        await asyncio.sleep(0.5)
    return run.done("never")


@engine.tool(quick_wait="0s")
def endless_sync(label: str, ctx: SyncContext) -> Done:
    """Run until cancelled, in one blocking call after another."""
    run = Run(ctx, label)
    while True:
        time.sleep(60)
    return run.done("never")


@engine.tool(quick_wait="0s")
async def probe(label: str, holds: int, seconds: float, ctx: Context) -> Done:
    """Hang in the first `holds` attempts, `seconds` at most; end at once in a later one."""
    run = Run(ctx, label)
    until = time.monotonic() + (seconds if ctx.attempt <= holds else 0)
    while time.monotonic() < until:
        await asyncio.sleep(0.05)
    return run.done("held")


@engine.tool(quick_wait="0s")
def probe_sync(label: str, holds: int, seconds: float, ctx: SyncContext) -> Done:
    """The same in a process, blocking."""
    run = Run(ctx, label)
    if ctx.attempt <= holds:
        time.sleep(seconds)
    return run.done("held")


@engine.tool(quick_wait="0s")
def brood(label: str, holds: int, seconds: float, ctx: SyncContext) -> Done:
    """Wait for a process of its own in the first `holds` attempts."""
    run = Run(ctx, label)
    if ctx.attempt <= holds:
        subprocess.run(["sleep", str(seconds + 60)], check=True, timeout=seconds)
    return run.done("held")


@engine.tool(quick_wait="0s")
def thready(label: str, ctx: SyncContext) -> Done:
    """Leave a thread behind that never ends."""
    run = Run(ctx, label)
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return run.done("held")


@engine.tool(quick_wait="0s")
def die(label: str, how: str, times: int, ctx: SyncContext) -> Done:
    """End the process in the middle of the first `times` attempts."""
    run = Run(ctx, label)
    if ctx.attempt > times:
        return run.done("lived")
    match how:
        case "segfault":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            _run_out_of_memory()
    raise ToolError(f"{how} did not end the process")


@engine.tool(quick_wait="0s", timeout="3s")
def limited(label: str, ctx: SyncContext) -> Done:
    """Run past a limit of three seconds."""
    run = Run(ctx, label)
    time.sleep(600)
    return run.done("never")


@engine.tool(quick_wait="0s")
def endless_stubborn(label: str, ctx: SyncContext) -> Done:
    """Run until cancelled, and then go on."""
    run = Run(ctx, label)
    while True:
        try:
            time.sleep(0.2)
        except BaseException as signalled:
            run.note("swallowed", type(signalled).__name__)
    return run.done("never")


@engine.tool(quick_wait="0s")
def grip(label: str, seconds: float, ctx: SyncContext) -> Done:
    """Hold the interpreter's lock in a process."""
    run = Run(ctx, label)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return run.done("slept")


@engine.tool(quick_wait="0s")
async def hog(label: str, seconds: float, ctx: Context, holds: int = 99) -> Done:
    """Block the event loop in the first `holds` attempts, as no async tool should."""
    run = Run(ctx, label)
    if ctx.attempt <= holds:
        time.sleep(seconds)
    return run.done("slept")


def _run_out_of_memory() -> None:
    """As far as the limit goes, and then what the kernel does where it is the limit that speaks."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * MEBIBYTE,) * 2)
    hoard = []
    try:
        while True:
            hoard.append(bytearray(8 * MEBIBYTE))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)


def _word(answer: object) -> str:
    data = getattr(answer, "data", None)
    return data.word if isinstance(data, Word) else "-"


if JOURNALED:
    from tests.chaos import journaled

    journaled.declare(engine, Run, Done)

if "CHAOS_VISIBILITY_S" in os.environ:
    # No setting: this engine's answer to the broker's clocks is that they never meet a running tool.
    from taskengine.jobs import app as jobs_app

    _options = jobs_app._redis_options
    _seconds = float(os.environ["CHAOS_VISIBILITY_S"])
    jobs_app._redis_options = lambda settings: _options(settings) | {"visibility_timeout": _seconds}
