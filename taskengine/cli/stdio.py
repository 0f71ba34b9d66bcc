"""`taskengine stdio`: the front end for hosts that start a program and talk over its standard input and output."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Annotated

import typer
from pydantic import SecretStr

from taskengine import logs, running
from taskengine.cli.keep import KeeperFailed, join, use
from taskengine.cli.place import configured
from taskengine.cli.screen import Target, complain
from taskengine.durations import parse_duration
from taskengine.engine import TaskEngine
from taskengine.errors import DeclarationError, EngineError, SettingsError
from taskengine.running import Running
from taskengine.server.caller import Caller
from taskengine.server.service import Service
from taskengine.server.stdio import TOO_LONG, StdioServer
from taskengine.settings import Settings, load_settings
from taskengine.target import load_target, source_folder

__all__ = ["stdio"]

logger = logging.getLogger("taskengine.stdio")

LOOK_S = 5.0
AHEAD = 100
"""Lines that are read before the first of them is taken."""


def stdio(
    target: Target,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder for the database and the logs; default: .taskengine beside TARGET.", file_okay=False),
    ] = None,
    inline_wait: Annotated[
        str | None,
        typer.Option(help="How long this host lets a call stay open, such as 100s; default: the setting inline_wait."),
    ] = None,
) -> None:
    """Serve TARGET's tools on standard input and output. Its tasks outlive it.

    Joins what runs over the data folder, or the services that the settings name; where there is neither, it starts
    what keeps the tasks going, detached from the host.
    """
    output = _take_output()
    caller = Caller(f"stdio:{_account()}", _duration(inline_wait))  # fixed, and none that HTTP could have (X-STDIO-14)
    settings = load_settings()
    logs.configure(settings)
    if data is not None or not configured():
        data = (data or source_folder(target) / ".taskengine").resolve()
    code = 0
    try:
        asyncio.run(_serve(load_target(target), settings, caller, output, target=target, data=data))
    except EngineError as error:
        complain(str(error))
        code = 2 if isinstance(error, (DeclarationError, SettingsError)) else 1
    with suppress(OSError):
        output.flush()
    # A tool's thread or the reader may still hang in a system call: nothing of it is waited for (X-STDIO-04).
    logging.shutdown()
    os._exit(code)


async def _serve(
    engine: TaskEngine, settings: Settings, caller: Caller, output: IO[bytes], *, target: str, data: Path | None
) -> None:
    tending: list[asyncio.Task[None]] = []

    async def start() -> Service:
        if data is None:
            logger.info("joins the configured services")
            return Service(engine, settings)
        held = await use(data)
        found = await join(target, data)
        logger.info("joins process %d over %s", found.pid, data)
        tending.append(asyncio.create_task(_tend(target, data, held)))
        return Service(engine, _on(settings, found))

    def write_now(message: bytes) -> None:
        output.write(message)
        output.flush()

    async def write(message: bytes) -> None:
        await asyncio.to_thread(write_now, message)

    server = StdioServer(Service(engine, settings), start, caller, _lines(settings.max_body_bytes), write)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    await server.serve()
    for task in tending:
        task.cancel()
    await asyncio.gather(*tending, return_exceptions=True)


async def _tend(target: str, data: Path, held: IO[str]) -> None:
    """Whatever this process has joined and that has ended is replaced: the database keeps its address. As long as
    `held` is open, what keeps the tasks going does not end by itself."""
    assert not held.closed
    missed = 0
    while True:
        await asyncio.sleep(LOOK_S)
        missed = 0 if running.find(data) is not None else missed + 1
        if missed >= 2:  # once may be somebody who starts again
            try:
                await join(target, data)
            except (KeeperFailed, SettingsError) as error:
                logger.warning("%s", error)


def _take_output() -> IO[bytes]:
    """Standard output for us alone: what tools and libraries print goes to standard error (X-STDIO-02)."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own


async def _lines(limit: int) -> AsyncIterator[bytes]:
    """The lines of standard input, read in a thread; a longer one than `limit` bytes is TOO_LONG."""
    loop = asyncio.get_running_loop()
    read: asyncio.Queue[bytes | None] = asyncio.Queue(AHEAD)
    source = sys.stdin.buffer

    def put(line: bytes | None) -> None:
        asyncio.run_coroutine_threadsafe(read.put(line), loop).result()

    def read_all() -> None:
        with suppress(RuntimeError, OSError, ValueError):  # the loop or the input is closed
            while line := source.readline(limit + 1):
                if len(line) > limit and not line.endswith(b"\n"):
                    while (rest := source.readline(limit)) and not rest.endswith(b"\n"):
                        pass
                    line = TOO_LONG
                put(line)
            put(None)

    threading.Thread(target=read_all, name="stdin", daemon=True).start()
    while (line := await read.get()) is not None:
        yield line


def _on(settings: Settings, found: Running) -> Settings:
    services = {"database_url": SecretStr(found.database_url), "broker_url": SecretStr(found.broker_url)}
    return settings.model_copy(update=services)


def _duration(inline_wait: str | None) -> timedelta | None:
    try:
        return None if inline_wait is None else parse_duration(inline_wait)
    except ValueError as error:
        raise SettingsError(f"--inline-wait: {error}") from None


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
