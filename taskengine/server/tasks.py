"""`tasks/get`, `tasks/update` and `tasks/cancel`: read, answer or cancel one row, and translate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from taskengine.errors import BadAnswer
from taskengine.points import point
from taskengine.questions import check_answer
from taskengine.records import Question, TaskRecord
from taskengine.server.call import Call
from taskengine.server.caller import Caller
from taskengine.server.service import Service
from taskengine.wire import modern

__all__ = ["answer", "cancel_task", "fitting_answers", "get_task", "store_answers", "update_task"]

audit = logging.getLogger("taskengine.audit")


async def get_task(call: Call) -> dict[str, Any]:
    """The task as it is now; reading changes nothing (M-TASK-42)."""
    call.needs_tasks()
    task_id = call.task_id()
    await call.service.budgets.polling(call.caller, task_id)
    record = await call.service.store.tasks.get(task_id, call.caller.owner)
    call.service.budgets.polled(call.caller, record)
    call.service.trail.read(call.caller.owner, record)
    return modern.get_task_result(record, call.service.meta)


async def update_task(call: Call) -> dict[str, Any]:
    """The answers to open questions are committed when this returns; the rest are ignored (M-TASK-49 to M-TASK-51).

    When one does not fit its question, none is taken and all stay open (M-TASK-59).
    """
    call.needs_tasks()
    task_id, responses = call.task_id(), call.mapping("inputResponses")
    await call.service.budgets.acting(call.caller)
    record = await call.service.store.tasks.get(task_id, call.caller.owner)
    await answer(call, record, responses)
    return modern.complete(call.service.meta)


async def cancel_task(call: Call) -> dict[str, Any]:
    """The task is cancelled, unless it had ended before: the same acknowledgement for both (M-TASK-62)."""
    call.needs_tasks()
    task_id = call.task_id()
    await call.service.budgets.acting(call.caller)
    await call.service.store.tasks.cancel(task_id, call.caller.owner)
    point("cancel.committed")
    audit.info("task %s cancelled by %s", task_id, call.caller.owner)
    return modern.complete(call.service.meta)


async def answer(call: Call, record: TaskRecord, responses: Mapping[str, Any]) -> None:
    """Store those responses that answer the task's open questions. Raises BadAnswer, having stored none."""
    await store_answers(call.service, call.caller, record, responses)


async def store_answers(service: Service, caller: Caller, record: TaskRecord, responses: Mapping[str, Any]) -> None:
    """The same for any wire."""
    fitting = fitting_answers(record.open_questions, responses)
    if not fitting:
        return
    point("answer.checked")
    doorbell = await service.store.inputs.answer(record.id, caller.owner, fitting)
    point("answer.committed")
    audit.info("task %s got %d answers from %s", record.id, len(fitting), caller.owner)
    if doorbell is not None:
        service.bell.ring(doorbell)


def fitting_answers(questions: tuple[Question, ...], responses: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The responses to these questions; other keys are dropped before their values are looked at (M-TASK-51).

    Raises BadAnswer for one that does not fit.
    """
    fitting: dict[str, Mapping[str, Any]] = {}
    for question in questions:
        if question.key in responses:
            response = responses[question.key]
            if not isinstance(response, Mapping):
                raise BadAnswer(question.key, "give a result object")
            check_answer(question, response)
            fitting[question.key] = response
    return fitting
