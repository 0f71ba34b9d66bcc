"""Names of the NOTIFY channels, and the notification as part of the statement that makes the change.

A notification is only a hint that saves waiting: whoever listens also looks by itself (`changes.py`,
`execution/heartbeat.py`), so a lost one costs a second and never a hang.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CTE, ColumnElement, Select, func, literal, select

__all__ = ["SESSIONS", "TASKS", "TOOLS", "WORKERS", "telling"]

TASKS = "taskengine_tasks"
"""Payload: the id of a task of which something visible changed."""
WORKERS = "taskengine_workers"
"""Payload: the id of a worker that should look at the tasks it holds."""
TOOLS = "taskengine_tools"
"""No payload: the list of tools changed."""

SESSIONS = "taskengine_sessions"
"""Payload: a session of 2025-11-25 and what its open streams and calls should know (`Notice`)."""


def telling(changed: CTE, *columns: ColumnElement[Any]) -> Select[Any]:
    """Select `columns` of the rows a change returned, telling each task's watchers when it commits."""
    return select(*columns, func.pg_notify(literal(TASKS), changed.c.id)).select_from(changed)
