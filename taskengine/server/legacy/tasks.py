"""`tasks/get`, `tasks/result`, `tasks/list` and `tasks/cancel`: read, follow or cancel one row, and translate."""

from __future__ import annotations

import logging
import secrets
from datetime import datetime
from typing import Any

from taskengine import bridge
from taskengine.lifecycle import Status
from taskengine.records import TaskRecord
from taskengine.server.exchange import Exchange
from taskengine.server.legacy.call import Call
from taskengine.server.legacy.following import Follower
from taskengine.server.legacy.streams import Labelled
from taskengine.server.legacy.turns import Turn
from taskengine.server.service import Service
from taskengine.wire import legacy
from taskengine.wire.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, RpcError

__all__ = ["cancel_task", "follow_result", "get_result", "get_task", "list_tasks", "lists_tasks"]

audit = logging.getLogger("taskengine.audit")

PAGE = 50


async def get_task(call: Call) -> dict[str, Any]:
    """The task as it is now; neither result nor error (L-TASK-25)."""
    task_id = call.task_id()
    await call.service.budgets.polling(call.caller, task_id)
    record = await call.service.store.tasks.get(task_id, call.caller.owner)
    call.service.budgets.polled(call.caller, record, result_apart=True)
    return legacy.task(record)


async def get_result(call: Call, exchange: Exchange, framing: Labelled) -> Any:
    """What the call would have returned, once the task has ended (L-TASK-28, L-TASK-30)."""
    task_id = call.task_id()
    await call.service.budgets.polling(call.caller, task_id, of_result=True)
    record = await call.service.store.tasks.get(task_id, call.caller.owner)
    call.service.budgets.polled(call.caller, record)
    if record.terminal:
        return await follow_result(call, record, exchange, framing)
    name = secrets.token_urlsafe(12)
    framing.stream = call.front.tokens.seal("result", s=call.session.id, r=call.request_id, t=task_id, n=name)
    async with call.service.budgets.stream(call.caller, name):
        return await follow_result(call, record, exchange, framing)


async def follow_result(
    call: Call, record: TaskRecord, exchange: Exchange, framing: Labelled, turn: Turn | None = None
) -> Any:
    """The same, from the first moment or, with a `turn`, from where the client left the stream. Leaving it changes
    nothing (L-TASK-33). Waiting costs neither a database connection nor a session that listens."""
    store, front, task_id = call.service.store, call.front, record.id
    if not record.terminal:
        framing.goes_on = True
        token = record.progress_token if record.session == call.session.id else None
        with (
            front.wanting(call.session, token) as wanted,
            front.running(call.session, call.request_id, exchange, turn=turn),
        ):
            async with (
                store.changes.watch([task_id]) as watch,
                front.tellers.telling(call.session.id, task_id) as teller,
            ):
                follower = Follower(call, exchange, framing, task_id, wanted=wanted, teller=teller)
                record = await follower.follow(watch)
    call.service.trail.read(call.caller.owner, record)
    return legacy.call_outcome(record, call.session.version, related_task=True)


async def list_tasks(call: Call) -> dict[str, Any]:
    """A page of the caller's tasks, newest first (L-TASK-48 to L-TASK-51)."""
    if not lists_tasks(call.service):
        raise RpcError(METHOD_NOT_FOUND, "tasks/list is not offered: callers cannot be told apart here")
    cursor = call.params.get("cursor")
    before = None if cursor is None else _read_cursor(call, cursor)
    await call.service.budgets.acting(call.caller)
    records = await call.service.store.tasks.page(call.caller.owner, before, PAGE + 1)
    call.service.trail.note(call.caller.owner, "list")
    page = records[:PAGE]
    following = None
    if len(records) > PAGE:
        last = page[-1]
        following = call.front.tokens.seal("cursor", o=call.caller.owner, c=last.created_at.isoformat(), i=last.id)
    return legacy.list_tasks_result(page, following)


async def cancel_task(call: Call) -> dict[str, Any]:
    """The task, which is cancelled when this returns (L-TASK-53, L-TASK-54). Raises RpcError for one that had ended
    (L-TASK-52)."""
    task_id = call.task_id()
    tasks = call.service.store.tasks
    await call.service.budgets.acting(call.caller)
    record = await tasks.get(task_id, call.caller.owner)
    if not record.terminal:
        await tasks.cancel(task_id, call.caller.owner)
        record = await tasks.get(task_id, call.caller.owner)
        if record.status is Status.CANCELLED:
            audit.info("task %s cancelled by %s", task_id, call.caller.owner)
            return legacy.task(record)
    ended = legacy.task(record)["status"]
    raise RpcError(INVALID_PARAMS, f"The task has ended already: it is {ended}")


def lists_tasks(service: Service) -> bool:
    """As long as all callers are one owner, only where nobody but this machine can call, or as the setting says
    (L-TASK-04)."""
    return bridge.lists_tasks(service.settings)


def _read_cursor(call: Call, cursor: Any) -> tuple[datetime, str]:
    try:
        ttl_s = call.service.settings.request_state_ttl.total_seconds()
        facts = call.front.tokens.open(cursor, "cursor", ttl_s=ttl_s) if isinstance(cursor, str) else {}
    except ValueError:
        facts = {}
    if facts.get("o") != call.caller.owner:
        why = "a cursor that was changed, is another's, or is too old"
        call.service.trail.note(call.caller.owner, "refuse", detail=why)
        raise RpcError(INVALID_PARAMS, "The cursor is not valid: begin again without it")
    return datetime.fromisoformat(facts["c"]), facts["i"]
