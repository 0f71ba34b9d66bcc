"""Named points, from both sides: the harness arms one, and the first process that passes it does what it is told.

An armed point is a file named for it with the action in it. Taking it is one `rename`, so of all processes one does it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from taskengine import points
from taskengine.errors import StoreUnavailable
from tests.chaos import ledger

__all__ = ["ACTIONS", "arm", "armed", "disarm", "listen"]

ACTIONS = ("kill", "stop", "raise", "sleep 2")


def listen(folder: Path) -> None:
    """In a process under test: act at the points that are armed in `folder`."""
    place = _place(folder)
    place.mkdir(exist_ok=True)

    def action(name: str) -> None:
        path = place / name
        if not path.exists():
            return
        taken = place / f".{name}.{os.getpid()}"
        try:
            path.rename(taken)
        except FileNotFoundError:
            return
        what = taken.read_text()
        taken.unlink()
        ledger.write(folder / "ledger", "fired", "", 0, f"{name} {what}")
        _do(what)

    points.install(action)


def _do(what: str) -> None:
    verb, _, amount = what.partition(" ")
    match verb:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise StoreUnavailable("an answer that was lost on purpose")
        case "sleep":
            time.sleep(float(amount))


def arm(folder: Path, name: str, what: str) -> float:
    """When it was armed: what fired before was another."""
    at_s = time.time()
    place = _place(folder)
    place.mkdir(exist_ok=True)
    waiting = place / f".{name}"
    waiting.write_text(what)
    waiting.rename(place / name)
    return at_s


def armed(folder: Path, name: str) -> bool:
    return (_place(folder) / name).exists()


def disarm(folder: Path, name: str) -> bool:
    """Whether it had not fired."""
    try:
        (_place(folder) / name).unlink()
    except FileNotFoundError:
        return False
    return True


def _place(folder: Path) -> Path:
    return folder / "armed"
