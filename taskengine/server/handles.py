"""The four tools of the engine itself: what their calls do. Neutral of any wire; the texts are in `bridge`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from taskengine import bridge
from taskengine.bridge import Answer, Cancel, List, Wait
from taskengine.errors import BadAnswer, InvalidArguments, TaskNotFound
from taskengine.lifecycle import Status
from taskengine.records import TaskRecord
from taskengine.server.caller import Caller
from taskengine.server.ids import is_task_id
from taskengine.server.service import Service
from taskengine.server.tasks import store_answers
from taskengine.server.waiting import Report, follow
from taskengine.tool import Tool

__all__ = ["call_handle"]

audit = logging.getLogger("taskengine.audit")

MAX_LISTED = 20
ENDED_WITHIN_S = 3600.0


async def call_handle(
    service: Service, caller: Caller, tool: Tool, arguments: Mapping[str, Any], report: Report | None = None
) -> str:
    """The neutral result of one of `service.handles`. What a model can correct is a result too, with `isError`.

    A wait that is cancelled leaves its task alone. Raises StoreUnavailable.
    """
    try:
        match bridge.read_action(tool, arguments):
            case Wait(task_id) | Answer(task_id, _) | Cancel(task_id) if not is_task_id(task_id):
                return _refused(service, caller, TaskNotFound(task_id))
            case Wait(task_id):
                record = await _wait(service, caller, tool, task_id, report)
                service.trail.read(caller.owner, record)
                if record.status is Status.INPUT_REQUIRED and not _takes_answers(service, record):
                    return bridge.shown_to_others(record)
                return bridge.shown_state(record)
            case Answer(task_id, answers):
                return await _answer(service, caller, task_id, answers)
            case Cancel(task_id):
                await service.store.tasks.cancel(task_id, caller.owner)
                audit.info("task %s cancelled by %s", task_id, caller.owner)
                return bridge.after_cancel(await service.store.tasks.get(task_id, caller.owner))
            case List():
                service.trail.note(caller.owner, "list")
                found = await service.store.tasks.recent(caller.owner, ENDED_WITHIN_S, MAX_LISTED + 1)
                return bridge.shown_list(found[:MAX_LISTED], more=len(found) > MAX_LISTED)
    except InvalidArguments as error:
        return bridge.refusal(str(error))
    except TaskNotFound as error:
        return _refused(service, caller, error)


def _refused(service: Service, caller: Caller, error: TaskNotFound) -> str:
    """The same for a task that is another owner's, is gone or never was (X-SEC-03)."""
    service.trail.refused(caller.owner, error, error.task_id)
    return bridge.refusal(f"{error}: it was never made here, or its time is over. Check the task_id.")


async def _wait(service: Service, caller: Caller, tool: Tool, task_id: str, report: Report | None) -> TaskRecord:
    """The task when it no longer works, when the wait or the caller's token is over, or when the server stops."""
    seconds = caller.within_token(bridge.wait_of(tool, caller.patience, service.settings).total_seconds())
    async with service.store.changes.watch([task_id]) as watch:
        record = await service.store.tasks.get(task_id, caller.owner)
        try:
            return await follow(service, caller.owner, record, watch, within_s=seconds, report=report)
        except asyncio.CancelledError:
            if not service.stopping:
                raise
            return record


async def _answer(service: Service, caller: Caller, task_id: str, answers: Mapping[str, Any]) -> str:
    record = await service.store.tasks.get(task_id, caller.owner)
    if not _takes_answers(service, record):
        return bridge.refusal(
            f"{record.tool} takes its answers from a person by the client that began it, not by a tool."
        )
    if record.status is not Status.INPUT_REQUIRED:
        return bridge.refusal(
            f"{record.tool} asks nothing now ({record.status}): call task_wait with task_id {task_id}."
        )
    asked = {question.key for question in record.open_questions}
    unknown = [key for key in answers if key not in asked]
    if unknown or not answers:
        keys = ", ".join(sorted(asked)) or "none"
        return bridge.refusal(
            f"{record.tool} has no open question {', '.join(unknown) or 'of no key'}; open questions: {keys}."
        )
    responses = bridge.read_answers(record.open_questions, answers)
    try:
        await store_answers(service, caller, record, responses)
    except BadAnswer as error:
        return bridge.refusal(f"Nothing was taken: {error}. Correct it and call task_answer again.")
    return bridge.after_answer(await service.store.tasks.get(task_id, caller.owner), len(responses))


def _takes_answers(service: Service, record: TaskRecord) -> bool:
    """Whether a model may answer for this task. Of a tool that is not known here nobody can say that it wants no
    person."""
    declared = service.engine.get_tool(record.tool)
    return declared is not None and declared.bridge
