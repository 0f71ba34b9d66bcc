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
from dataclasses import dataclass
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
LOG_BYTES = 1 << 20
"""A log that is longer is set aside at the next start."""
IN_USE = "in use by another"
"""What the embedded services say of a folder that somebody else has taken."""
_DETACH = "import subprocess as s, sys; print(s.Popen(sys.argv[1:], stdin=-3, stdout=2, start_new_session=True).pid)"


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
    """What runs over the folder from now on goes on until the returned file is closed. Waits for one that stops.
    Raises SettingsError for a folder that cannot be used."""
    while (held := _lock_users(data, fcntl.LOCK_SH | fcntl.LOCK_NB)) is None:  # noqa: ASYNC110 (another process's)
        await asyncio.sleep(0.05)
    return held


async def join(target: str, data: Path) -> Running:
    """What runs over the folder, started if there was nothing. Raises KeeperFailed and SettingsError.

    Others may do the same at the same time: of several keepers that start, the folder's lock lets one live.
    """
    started: _Started | None = None
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
        if not running.is_taken(data) and (started is None or not running.is_alive(started.pid)):
            if started is not None and IN_USE not in started.output():
                raise KeeperFailed(f"what keeps the tasks going ended at its start:\n{started.output()}")
            started = await asyncio.to_thread(_start, target, data)
        if time.monotonic() > deadline:
            said = f":\n{started.output()}" if started is not None else ""
            raise KeeperFailed(f"nothing runs over {data} after {START_TIMEOUT_S:.0f} s{said}")
        await asyncio.sleep(0.05)


def take_over(data: Path) -> bool:
    """Whether there was a keeper over the folder; it has stopped, and its tasks go on with whoever is next."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while (found := running.find(data)) is None and running.is_taken(data) and time.monotonic() < deadline:
        time.sleep(0.05)  # it has only begun to start, or begun to stop
    if found is None or not found.kept:
        return False
    with suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    while running.is_alive(found.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return True


@dataclass(frozen=True, slots=True)
class _Started:
    pid: int
    log: Path
    offset: int

    def output(self) -> str:
        """The end of what it wrote."""
        try:
            with self.log.open("rb") as file:
                file.seek(self.offset)
                return "\n".join(file.read().decode(errors="replace").splitlines()[-15:])
        except OSError:
            return ""


def _start(target: str, data: Path) -> _Started:
    """A keeper that is nobody's child and in a session of its own: neither the host's end, nor a signal to its group,
    nor one to all its descendants reaches it."""
    log = data / "logs" / "keep.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name("keep.log.1"))
    command = [sys.executable, "-m", "taskengine", "keep", absolute(target), "--data", str(data)]
    with log.open("ab") as output:
        offset = output.tell()
        parent = subprocess.run(  # noqa: S603 (the command is ours)
            [sys.executable, "-I", "-S", "-c", _DETACH, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            check=False,
        )
    if not parent.stdout.strip().isdigit():
        raise KeeperFailed(f"what keeps the tasks going cannot be started:\n{_Started(0, log, offset).output()}")
    return _Started(int(parent.stdout), log, offset)


def _lock_users(data: Path, operation: int) -> IO[str] | None:
    """The open file that is the lock; None when others hold it. Raises SettingsError."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        file = (data / "users").open("a+")
    except OSError as error:
        raise SettingsError(f"{data} cannot be used as data folder ({error.strerror}): give another --data") from error
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
