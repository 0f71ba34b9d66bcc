"""Calls that are the same call: the second gets the first one's task.

The unique index over owner and `same` decides between calls at the same moment. What a call is compared with are the
stored arguments themselves, so no digest of them has to be kept. A name that counts no longer is taken from its task
when somebody else needs it; until then it does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal_column, not_, or_, select, update

from taskengine.errors import KeyReused
from taskengine.lifecycle import Phase, Status
from taskengine.records import Same
from taskengine.store import retention
from taskengine.store.database import Database
from taskengine.store.payload import load
from taskengine.store.tables import tasks

__all__ = ["earlier"]

_MILLISECOND: ColumnElement[timedelta] = literal_column("interval '1 millisecond'")


async def earlier(database: Database, owner: str, tool: str, arguments: Mapping[str, Any], same: Same) -> str | None:
    """The id of the task that counts as the same call; None when there is none (any more).

    With an idempotency key that is the task made under it, as long as it is retained and however it ended. With a
    window it is one that lives, or has succeeded and was made within the window. Raises KeyReused when the key's call
    was another.
    """
    named = and_(tasks.c.owner == owner, tasks.c.same == same.name)
    spent = not_(retention.readable())
    if same.window_ms is not None:
        over = tasks.c.created_at + same.window_ms * _MILLISECOND <= func.clock_timestamp()
        failed = or_(tasks.c.status != Status.COMPLETED, tasks.c.is_error)
        spent = or_(spent, and_(tasks.c.phase == Phase.DONE, or_(over, failed)))
    await database.run(update(tasks).where(named, spent).values(same=None))
    found = await database.run(select(tasks.c.id, tasks.c.tool, tasks.c.arguments).where(named))
    row = found.one_or_none()
    if row is None:
        return None
    if same.window_ms is None:
        stored = load(database.sealing.open(row.id, "arguments", row.arguments))
        if row.tool != tool or _text(stored) != _text(arguments):
            raise KeyReused(row.id)
    return str(row.id)


def _text(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, sort_keys=True, default=dict)
