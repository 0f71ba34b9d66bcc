"""Tools that are stopped in every way there is, and what they do about it."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from taskengine import Cancelled, Context, SyncContext, TaskEngine

engine = TaskEngine("stopping")

Block = Literal["sleep", "recv", "lock", "child", "c"]
Wait = Literal["sleep", "recv", "child", "thread"]


class Sure(BaseModel):
    sure: bool


def _note(ledger: str, line: str) -> None:
    with Path(ledger).open("a") as file:
        file.write(f"{line} {os.getpid()} {time.time()}\n")


@engine.tool(quick_wait="0s")
def block(how: Block, ledger: str) -> str:
    """Wait in one blocking call."""
    _note(ledger, "start")
    try:
        match how:
            case "sleep":
                time.sleep(600)
            case "recv":
                mine, theirs = socket.socketpair()
                with mine, theirs:
                    mine.recv(1)
            case "lock":
                lock = threading.Lock()
                lock.acquire()
                lock.acquire()
            case "child":
                subprocess.run(["sleep", "600"], check=True)
            case "c":
                ctypes.CDLL(None).sleep(600)
                time.sleep(600)
    except BaseException as error:
        _note(ledger, type(error).__name__)
        raise
    return "done"


@engine.tool(quick_wait="0s")
async def blocks_below(ledger: str, ctx: Context) -> str:
    """Wait for a tool that blocks."""
    return (await ctx.call_tool("block", {"how": "sleep", "ledger": ledger})).text


@engine.tool(quick_wait="0s")
async def wait(how: Wait, ledger: str) -> str:
    """Wait in one await."""
    try:
        match how:
            case "sleep":
                _note(ledger, "start")
                await asyncio.sleep(600)
            case "recv":
                mine, theirs = socket.socketpair()
                with mine, theirs:
                    mine.setblocking(False)
                    _note(ledger, "start")
                    await asyncio.get_running_loop().sock_recv(mine, 1)
            case "child":
                process = await asyncio.create_subprocess_exec("sleep", "600")
                _note(ledger, "start")
                try:
                    await process.wait()
                finally:
                    process.kill()
            case "thread":
                over = threading.Event()
                _note(ledger, "start")
                try:
                    await asyncio.to_thread(over.wait, 600)
                finally:
                    over.set()
    except BaseException as error:
        _note(ledger, type(error).__name__)
        raise
    return "done"


def _clean(cancelled: Cancelled) -> None:
    _note(cancelled.arguments["ledger"], f"cleaned attempt {cancelled.attempt} {cancelled.tool}")


async def _clean_async(cancelled: Cancelled) -> None:
    await asyncio.sleep(0)
    _clean(cancelled)


def _fail(cancelled: Cancelled) -> None:
    _note(cancelled.arguments["ledger"], "failing")
    raise ValueError("cannot be undone")


async def _hang(cancelled: Cancelled) -> None:
    _note(cancelled.arguments["ledger"], "hanging")
    await asyncio.sleep(600)


@engine.tool(quick_wait="0s", on_cancel=_clean)
def tidy(ledger: str) -> str:
    """Sleep in a process, and clean up when cancelled."""
    _note(ledger, "start")
    time.sleep(600)
    return "done"


@engine.tool(quick_wait="0s", on_cancel=_clean_async)
async def tidy_async(ledger: str) -> str:
    """Sleep on the loop, and clean up when cancelled."""
    _note(ledger, "start")
    await asyncio.sleep(600)
    return "done"


@engine.tool(quick_wait="0s", on_cancel=_clean_async)
async def tidy_asks(ledger: str, ctx: Context) -> str:
    """Ask, and clean up when cancelled while nobody runs it."""
    await ctx.elicit("Sure?", Sure, key="sure")
    return "done"


@engine.tool(quick_wait="0s", on_cancel=_clean)
def tidy_asks_sync(ledger: str, ctx: SyncContext) -> str:
    """The same in a process."""
    ctx.elicit("Sure?", Sure, key="sure")
    return "done"


@engine.tool(quick_wait="0s", on_cancel=_fail)
def messy(ledger: str) -> str:
    """Fail to clean up."""
    _note(ledger, "start")
    time.sleep(600)
    return "done"


@engine.tool(quick_wait="0s", on_cancel=_hang)
async def endless(ledger: str) -> str:
    """Never be done with cleaning up."""
    _note(ledger, "start")
    await asyncio.sleep(600)
    return "done"


@engine.tool(quick_wait="0s")
def unwinds(ledger: str) -> str:
    """Sleep in a process, and take as long over the end as the test wants."""
    _note(ledger, "start")
    try:
        time.sleep(600)
    finally:
        _note(ledger, "unwinding")
        while not Path(f"{ledger}.go").exists():
            time.sleep(0.02)
        _note(ledger, "unwound")
    return "done"


@engine.tool(quick_wait="0s")
def stubborn(ledger: str) -> str:
    """Swallow every stop, in a process."""
    _note(ledger, "start")
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            _note(ledger, "swallowed")


@engine.tool(quick_wait="0s")
async def deaf(ledger: str) -> str:
    """Swallow every cancellation, for ever."""
    _note(ledger, "start")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            _note(ledger, "swallowed")


@engine.tool(quick_wait="0s")
async def hard_of_hearing(ledger: str, ctx: Context) -> str:
    """Swallow cancellations and go on, but tell how far it is."""
    _note(ledger, "start")
    try:
        while True:
            try:
                await asyncio.sleep(0.05)
                await ctx.progress(1)
            except asyncio.CancelledError:
                _note(ledger, "swallowed")
    finally:
        _note(ledger, "left")


@engine.tool(quick_wait="0s")
async def nap(seconds: float, ledger: str, ctx: Context) -> str:
    """Sleep on the loop in one go."""
    _note(ledger, "start")
    await asyncio.sleep(seconds)
    return f"napped in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def hog(megabytes: int, ledger: str) -> str:
    """Take much memory, and be killed for it."""
    _note(ledger, "start")
    held = b"x" * (megabytes * 1_000_000)
    os.kill(os.getpid(), signal.SIGKILL)
    return str(len(held))


@engine.tool(quick_wait="0s")
def spawns(ledger: str) -> str:
    """Start a program, and a fork that goes on with everything this process has; note both, and wait for neither."""
    program = subprocess.Popen(["sleep", "600"])
    fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    fork.start()
    for each in (program, fork):
        _note(ledger, f"spawned {each.pid}")
    time.sleep(600)
    return "done"


@engine.tool(quick_wait="0s")
async def speak(how: Literal["progress", "log", "elicit", "tools"], ledger: str, ctx: Context) -> str:
    """Run long, and call the context now and then; end at once in a later attempt."""
    _note(ledger, "start")
    while ctx.attempt == 1:
        match how:
            case "progress":
                await ctx.progress(1)
            case "log":
                await ctx.log.info("still here")
            case "tools":
                await ctx.tools_changed()
            case "elicit":
                if Path(f"{ledger}.drains").exists():
                    await ctx.elicit("Sure?", Sure, key="sure")
        await asyncio.sleep(0.05)
    return f"spoke in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def speak_sync(ledger: str, ctx: SyncContext) -> str:
    """The same in a process, by its log."""
    _note(ledger, "start")
    while ctx.attempt == 1:
        ctx.log.info("still here")
        time.sleep(0.05)
    return f"spoke in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
def hours(ledger: str, ctx: SyncContext, loops: int = 10**15) -> str:
    """Compute for hours without a word, in a process; end at once in a later attempt."""
    _note(ledger, "start")
    while ctx.attempt == 1 and loops:
        loops -= 1
    return f"computed in attempt {ctx.attempt}"


@engine.tool(quick_wait="0s")
async def tick(ledger: str, ctx: Context) -> str:
    """Leave a trace every 20 ms in the first attempt; give it time to leave more in a later one."""
    _note(ledger, f"start-{ctx.attempt}")
    while ctx.attempt == 1:
        _note(ledger, "tick")
        await asyncio.sleep(0.02)
    await asyncio.sleep(1)
    return f"ticked in attempt {ctx.attempt}"
