"""`taskengine stdio`: the front end for hosts that start a program and talk over its standard input and output."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Annotated

import typer
from pydantic import SecretStr

from taskengine import logs, running
from taskengine.cli.keep import join, use
from taskengine.cli.screen import Target, complain
from taskengine.cli.stdio_pipes import Pipes
from taskengine.durations import parse_duration
from taskengine.engine import TaskEngine
from taskengine.errors import DeclarationError, EngineError, SettingsError
from taskengine.jobs.bell import Bell
from taskengine.running import Running
from taskengine.server.caller import Caller
from taskengine.server.service import Service
from taskengine.server.stdio import StdioServer
from taskengine.settings import Settings, load_settings
from taskengine.target import load_target, source_folder

__all__ = ["stdio"]

logger = logging.getLogger("taskengine.stdio")

LOOK_S = 5.0


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

    This process runs no tasks, because hosts kill it when they like. It
    joins the `taskengine dev` that runs over the data folder, or the
    services that TASKENGINE_DATABASE_URL names. Where there is neither, it
    starts a keeper: the database, the broker and a worker, detached from
    the host. So tasks go on at once, not when a host starts this again.

    The keeper ends by itself when no stdio process has used it and nothing
    has run for ten minutes. If it is killed, the next start goes on.
    """
    pipes = Pipes.take()
    patience = _duration(inline_wait)
    # Who listens is this machine's account alone, and it cannot come back for the rest of a stream.
    settings = load_settings(host="127.0.0.1", stream_limit=timedelta(0))
    logs.configure(settings)
    caller = Caller(f"stdio:{_account()}", patience)  # fixed, and none that HTTP could have (X-STDIO-14)
    if data is not None or "database_url" not in settings.model_fields_set:
        data = (data or source_folder(target) / ".taskengine").resolve()
    if pipes.human:
        logger.info("waits for a host's messages, a line each; `taskengine connect` tells hosts how to start this")
    code = 0
    runner = asyncio.Runner()
    try:
        runner.run(_serve(load_target(target), settings, caller, pipes, target=target, data=data))
    except EngineError as error:
        complain(str(error))
        code = 2 if isinstance(error, (DeclarationError, SettingsError)) else 1
    # A tool's thread, the reader and the writer may still hang in a system call: the loop is not closed, because that
    # would wait for them (X-STDIO-04).
    logging.shutdown()
    os._exit(code)


async def _serve(
    engine: TaskEngine, settings: Settings, caller: Caller, pipes: Pipes, *, target: str, data: Path | None
) -> None:
    tending: list[asyncio.Task[None]] = []

    async def start() -> Service:
        if data is None:
            logger.info("joins the configured services")
            return Service(engine, settings)
        held = await use(data)
        found = await join(target, data)
        logger.info("joins process %d over %s", found.pid, data)
        service = Service(engine, _on(settings, found))
        tending.append(asyncio.create_task(_tend(service, found, data, held)))
        return service

    server = StdioServer(Service(engine, settings), start, caller, pipes.lines(settings.max_body_bytes), pipes.write)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    try:
        await server.serve()
    finally:
        for task in tending:
            task.cancel()
        await asyncio.gather(*tending, return_exceptions=True)


async def _tend(service: Service, joined: Running, data: Path, held: IO[str]) -> None:
    """Whatever this process has joined and that has ended is replaced; what has taken its place is joined.

    The database keeps its address, the broker has a new one at each start. As long as `held` is open, what keeps the
    tasks going does not end by itself.
    """
    assert not held.closed
    missed = 0
    while True:
        await asyncio.sleep(LOOK_S)
        found = running.find(data)
        missed = 0 if found is not None else missed + 1
        try:
            if missed >= 2:  # once may be somebody who starts again
                found = await join(joined.target, data)
            if found is None or found.pid == joined.pid:
                continue
            if found.target != joined.target:
                logger.warning("%s is over %s now: give one of them another --data", found.target, data)
            old, service.bell = service.bell, Bell(_on(service.settings, found))
            service.bell.start()
            await asyncio.to_thread(old.stop)
        except (EngineError, OSError) as error:
            logger.warning("%s", error)
        else:
            logger.info("joins process %d over %s", found.pid, data)
            joined = replace(found, target=joined.target)


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
