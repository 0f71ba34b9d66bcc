"""What keeps the tasks of stdio hosts going: the embedded services and a worker, in a process of their own.

A host kills the program it started when it likes, so that program starts no workers of its own: it starts this,
detached, unless something runs over the data folder already. Nothing listens on a port for others to call. It ends by
itself when no stdio process uses it and nothing has run for a while; questions may stay open over that, and are there
at the next start. `taskengine dev` takes its place.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated

import typer
from pydantic import SecretStr

from taskengine import logs, running
from taskengine.cli.process import Interrupts, watch_code
from taskengine.cli.screen import Target
from taskengine.cli.stack import Stack
from taskengine.durations import parse_duration
from taskengine.errors import EngineError, SettingsError, StoreUnavailable
from taskengine.running import Running
from taskengine.settings import Settings, load_settings
from taskengine.store import Store
from taskengine.target import absolute, source_folder

__all__ = ["KeeperFailed", "join", "keep", "take_over", "use"]

logger = logging.getLogger("taskengine.keep")

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0
LOOK_S = 5.0
IDLE = "10m"


class KeeperFailed(EngineError):
    """What should keep the tasks going did not start; the message says why."""


def keep(
    target: Target,
    data: Annotated[Path, typer.Option(help="Folder for the database and the logs.", file_okay=False)],
    idle: Annotated[str, typer.Option(help="End after this time without use and without work.")] = IDLE,
) -> None:
    """Keep the tasks of stdio hosts going. `taskengine stdio` starts this; nobody needs to."""
    settings = load_settings(host="127.0.0.1")
    logs.configure(settings)
    limit_s = _seconds(idle)
    interrupts = Interrupts()
    with Stack(target, data, settings, listens=False, kept=True, tell=_tell) as stack:
        stack.start_children()
        logger.info("taskengine ready: keeping the tasks of %s", absolute(target))
        changed = _changes(target)
        own = settings.model_copy(update={"database_url": SecretStr(stack.services.database_url)})
        used, look_at = time.monotonic(), 0.0
        while not interrupts.count:
            time.sleep(0.2)
            stack.tend()
            if changed.is_set():
                changed.clear()
                stack.restart_children()
            now = time.monotonic()
            if now < look_at:
                continue
            look_at = now + min(LOOK_S, limit_s)
            # Held while it stops, so that whoever would use it waits for its end and starts another.
            unused = _lock_users(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if unused is None or asyncio.run(_is_busy(own)):
                used = now
            elif now - used >= limit_s:
                logger.info("nothing to do for %s: ends", idle)
                break
            if unused is not None:
                unused.close()
        interrupts.second = lambda: stack.stop_children(at_once=True)


async def use(data: Path) -> IO[str]:
    """What runs over the folder from now on goes on until the returned file is closed. Waits for one that stops."""
    while (held := _lock_users(data, fcntl.LOCK_SH | fcntl.LOCK_NB)) is None:  # noqa: ASYNC110 (another process's)
        await asyncio.sleep(0.05)
    return held


async def join(target: str, data: Path) -> Running:
    """What runs over the folder, started if there was nothing. Raises KeeperFailed and SettingsError."""
    child: subprocess.Popen[bytes] | None = None
    log = data / "logs" / "keep.log"
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        found = running.find(data)
        if found is not None:
            if found.target != absolute(target):
                raise SettingsError(
                    f"{found.target} runs over {data} (process {found.pid}), not {absolute(target)}: "
                    "give another --data"
                )
            return found
        if child is None:
            child = _start(target, data, log)
        elif child.poll() is not None and "in use by another" not in _tail(log):  # of two that start, one is refused
            raise KeeperFailed(f"what keeps the tasks going ended with code {child.returncode}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise KeeperFailed(f"nothing runs over {data} after {START_TIMEOUT_S:.0f} s:\n{_tail(log)}")
        await asyncio.sleep(0.05)


def take_over(data: Path) -> bool:
    """Whether there was a keeper over the folder; it has stopped, and its tasks go on with whoever is next."""
    found = running.find(data)
    if found is None or not found.kept:
        return False
    with suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while running.is_alive(found.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return True


def _start(target: str, data: Path, log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own: neither the host's end nor a signal to its group reaches it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 (the command is ours)
            [sys.executable, "-m", "taskengine", "keep", absolute(target), "--data", str(data)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _lock_users(data: Path, operation: int) -> IO[str] | None:
    data.mkdir(parents=True, exist_ok=True)
    file = (data / "users").open("a+")
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        file.close()
        return None
    return file


async def _is_busy(settings: Settings) -> bool:
    store = await Store.open(settings)
    try:
        return await store.inspection.busy() > 0
    except StoreUnavailable:
        return True
    finally:
        await store.close()


def _changes(target: str) -> threading.Event:
    try:
        return watch_code(source_folder(target))
    except SettingsError:  # without watchfiles the tools stay as they are until it starts again
        return threading.Event()


def _seconds(idle: str) -> float:
    try:
        return parse_duration(idle).total_seconds()
    except ValueError as error:
        raise SettingsError(f"--idle: {error}") from None


def _tell(who: str, what: str) -> None:
    logger.warning("%s: %s", who, what)


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    except OSError:
        return ""
