"""Which engine runs over a data folder: written by it into `running.json`, read by everybody who would join it.

A file alone may be a leftover: the folder's lock says whether its writer is alive.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Running", "announce", "find", "is_alive", "is_taken", "withdraw"]

_FILE = "running.json"


@dataclass(frozen=True, slots=True)
class Running:
    """What runs: its process, what it serves, and where. Addresses hold passwords: the file is its owner's alone."""

    pid: int
    target: str
    database_url: str
    broker_url: str
    url: str | None = None
    """Of its MCP endpoint; None when nothing listens, or not yet."""
    kept: bool = False
    """Nobody started it by hand: it gives way to who does."""


def announce(data_dir: Path, running: Running) -> None:
    """Whoever looks from now on sees `running`, whole."""
    temporary = data_dir / f".{_FILE}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(running), file)
    temporary.replace(data_dir / _FILE)


def withdraw(data_dir: Path) -> None:
    (data_dir / _FILE).unlink(missing_ok=True)


def find(data_dir: Path) -> Running | None:
    """The engine that runs over this folder, None when there is none or it has only begun to start."""
    try:
        found = Running(**json.loads((data_dir / _FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if _holder(data_dir) == found.pid else None


def is_taken(data_dir: Path) -> bool:
    """Whether a living process holds the folder, be it announced, starting or stopping."""
    return _holder(data_dir) is not None


def is_alive(pid: int) -> bool:
    """Whether the process still does anything: one that has ended and that nobody has collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # no Linux, or gone just now
        return sys.platform != "linux"
    return state != "Z"


def _holder(data_dir: Path) -> int | None:
    """The living process that holds the folder's lock."""
    try:
        pid = int((data_dir / "lock").read_text())
        # The lock is looked at last, and only when it should be held: a look at a free one would be in the way of
        # whoever takes it just then.
        return pid if is_alive(pid) and _is_locked(data_dir / "lock") else None
    except (OSError, ValueError, OverflowError):
        return None


def _is_locked(path: Path) -> bool:
    """Whether another process holds the lock on this file."""
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
