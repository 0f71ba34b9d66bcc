"""What every end of a task sets, and what every visible change does."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Delete, delete, func, select

from taskengine.lifecycle import Event, Phase, target
from taskengine.store import retention
from taskengine.store.tables import inputs, tasks

__all__ = ["ending", "touched", "withdraw"]


def ending(event: Event) -> dict[str, ColumnElement[Any] | Any]:
    """The SET common to every end of a task: no holder, no token, nothing to wait for, an end time, and time left to
    read it.

    A cancel keeps the name of the holder: it has a run to stop (see `stops`).
    """
    status, phase = target(event)
    stopper = {"stopper": tasks.c.worker_id} if event is Event.CANCEL else {}
    return {
        **stopper,
        "status": status,
        "phase": phase,
        "worker_id": None,
        "wake_at": None,
        "wake_open": None,
        "token": None,
        "ended_at": func.clock_timestamp(),
        **touched(),
        **retention.ahead(),
    }


def withdraw(which: ColumnElement[bool]) -> Delete:
    """Take back the open questions of ended tasks: nobody waits for an answer any more."""
    ended = select(tasks.c.id).where(which, tasks.c.phase == Phase.DONE)
    return delete(inputs).where(inputs.c.response.is_(None), inputs.c.task_id.in_(ended))


def touched() -> dict[str, ColumnElement[Any]]:
    """The SET of every visible change: `updated_at` moves and never goes back (M-TASK-84)."""
    return {"updated_at": func.greatest(tasks.c.updated_at, func.clock_timestamp())}
