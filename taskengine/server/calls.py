"""`tools/call`: checked here; a durable tool's call becomes a row, which its client then sees in one of three ways.

A client that declares the tasks extension gets the plain result when the call ends within `quick_wait`, else the
task. Any other client gets the call as if it were synchronous: its request stays open with progress, and when the
task asks, the answer is an `InputRequiredResult` whose state names the task, so that the retry resumes it (A-53).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

from taskengine.calling import outcome_of_message
from taskengine.durations import milliseconds
from taskengine.errors import InvalidArguments, StoreUnavailable
from taskengine.lifecycle import LONGEST_POLL, Status
from taskengine.records import Answered, NewTask, TaskRecord
from taskengine.server.call import Call
from taskengine.server.direct import call_direct
from taskengine.server.exchange import Exchange
from taskengine.server.progress import Reporter
from taskengine.server.rounds import Rounds, read_rounds
from taskengine.server.tasks import answer, fitting_answers
from taskengine.store.changes import Watch
from taskengine.tool import Tool
from taskengine.wire import headers, modern
from taskengine.wire.jsonrpc import INVALID_PARAMS, RpcError

__all__ = ["call_tool"]

audit = logging.getLogger("taskengine.audit")

LOOK_AGAIN_S = 30.0
CREATE_TRIES = 3
RETRY_S = 0.5
LONGEST_OUTAGE_S = 30.0


async def call_tool(call: Call, exchange: Exchange) -> Any:
    """The result of the call, or what must happen before there is one.

    Arguments that do not fit the tool are a result with `isError`, which a model can act on (X-TOOL-21). Nothing is
    written before every check is done (M-HDR-26).
    """
    name = call.text("name")
    arguments = call.mapping("arguments") if "arguments" in call.params else {}
    tool = call.service.engine.get_tool(name)
    if tool is None:
        raise RpcError(INVALID_PARAMS, f"Unknown tool: {name[:128]}")
    headers.check_parameters(call.headers, tool.header_parameters, arguments)
    if tool.task == "required":
        call.needs_tasks()
    rounds = await read_rounds(call, tool, arguments)
    if rounds.state.task_id is not None:
        return await _resume(rounds, tool, rounds.state.task_id, exchange)
    try:
        tool.check_arguments(arguments)
    except InvalidArguments as error:
        return _call_result(call, outcome_of_message(str(error)).result)
    if not tool.durable:
        return await call_direct(rounds, tool, arguments, exchange)
    return await _begin(rounds, tool, arguments, exchange)


async def _begin(rounds: Rounds, tool: Tool, arguments: dict[str, Any], exchange: Exchange) -> Any:
    """Ask what the tool wants answered first, one round or several; then make the task (M-TASK-18)."""
    call = rounds.call
    questions = {question.key: question for question in tool.first_questions}
    # Another question than this one may have stood under the key before a deployment: it is asked again.
    valid = [question for question in questions.values() if not rounds.was_other(question)]
    known = {
        question.key: rounds.state.answers[question.key] for question in valid if question.key in rounds.state.answers
    }
    wanted = tuple(question for question in valid if question.key not in known)
    fitting = fitting_answers(wanted, rounds.responses)
    for key, response in fitting.items():
        tool.check_first(key, response)
    known |= fitting
    still_open = [question for key, question in questions.items() if key not in known]
    if still_open:
        return await rounds.ask(still_open, [Answered(questions[key], answer) for key, answer in known.items()])
    new = NewTask(
        id=f"tsk_{secrets.token_urlsafe(24)}",
        owner=call.caller.owner,
        tool=tool.name,
        queue=tool.route,
        arguments=arguments,
        capabilities=call.envelope.capabilities,
        ttl_ms=milliseconds(call.service.ttl_of(tool)),
        poll_interval_ms=max(1, milliseconds(tool.poll_interval or LONGEST_POLL)),
        first=known,
        nonce=rounds.state.nonce,
    )
    if not call.envelope.declares_tasks:
        await call.service.sealer.prepare()  # a task whose client could not be sent back to it would be lost
    async with call.service.store.changes.watch([new.id]) as watch:
        try:
            record = await _create(call, new)
        except asyncio.CancelledError:
            # Whether it was committed is not known. A task may live on, a synchronous call may not.
            if exchange.disconnected and not call.envelope.declares_tasks:
                call.service.cancel_abandoned(new.id, call.caller)
            raise
        if record.id != new.id:
            watch.add(record.id)
        return await _present(rounds, tool, record, watch, exchange)


async def _resume(rounds: Rounds, tool: Tool, task_id: str, exchange: Exchange) -> Any:
    """Go on with the task that an earlier round of this call made, with what the client answered."""
    call = rounds.call
    async with call.service.store.changes.watch([task_id]) as watch:
        record = await call.service.store.tasks.get(task_id, call.caller.owner)
        if record.status is Status.INPUT_REQUIRED and rounds.responses:
            await answer(call, record, rounds.responses)
            record = await call.service.store.tasks.get(task_id, call.caller.owner)
        return await _present(rounds, tool, record, watch, exchange)


async def _create(call: Call, new: NewTask) -> TaskRecord:
    """The task is committed and its doorbell rung when this returns (M-TASK-13). Raises StoreUnavailable."""
    for attempt in range(1, CREATE_TRIES + 1):
        try:
            record, doorbell = await call.service.store.tasks.create(new)
        except StoreUnavailable:
            if attempt == CREATE_TRIES:
                if new.nonce is None:  # it may be there all the same, and no retry of its client will find it
                    call.service.cancel_abandoned(new.id, call.caller)
                raise
            await asyncio.sleep(RETRY_S)
        else:
            if doorbell is not None:
                call.service.bell.ring(doorbell)
                audit.info("task %s created by %s: %s", record.id, call.caller.owner, record.tool)
            return record
    raise AssertionError("the last try returns or raises")


async def _present(rounds: Rounds, tool: Tool, record: TaskRecord, watch: Watch, exchange: Exchange) -> Any:
    if rounds.call.envelope.declares_tasks:
        return await _as_task(rounds.call, tool, record, watch, exchange)
    try:
        return await _inline(rounds, record, watch, exchange)
    except asyncio.CancelledError:
        if exchange.disconnected:
            rounds.call.service.cancel_abandoned(record.id, rounds.call.caller)
            raise
        return await rounds.ask_for_task(record.id)
    except StoreUnavailable:
        # The task goes on: its client comes back to it, and does not make another.
        return await rounds.ask_for_task(record.id)


async def _as_task(call: Call, tool: Tool, record: TaskRecord, watch: Watch, exchange: Exchange) -> Any:
    """The plain result of a call that is quick, else the task, which lives on whatever becomes of this request."""
    if tool.task == "optional":
        quick_wait = call.service.settings.quick_wait if tool.quick_wait is None else tool.quick_wait
        try:
            record = await _wait_briefly(call, record, watch, quick_wait.total_seconds())
        except asyncio.CancelledError:
            if exchange.disconnected:
                raise
        if record.status is Status.COMPLETED:
            return _call_result(call, record.result)
    return modern.create_task_result(record, call.service.meta)


async def _wait_briefly(call: Call, record: TaskRecord, watch: Watch, seconds: float) -> TaskRecord:
    """The task once it no longer works, or as it was last seen when the time is over."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while record.status is Status.WORKING and (left := until - loop.time()) > 0:
        if await watch.next(left):
            try:
                record = await call.service.store.tasks.get(record.id, call.caller.owner)
            except StoreUnavailable:
                break  # the task is committed: its client can ask for it later
    return record


async def _inline(rounds: Rounds, record: TaskRecord, watch: Watch, exchange: Exchange) -> Any:
    """The end of the task, or its questions. Raises the error it failed with."""
    call = rounds.call
    reporter = Reporter(exchange, call.envelope)
    while record.status is Status.WORKING:
        if record.progress is not None:
            await reporter.progress(record.progress, record.progress_total, record.progress_message)
        record = await _next(call, record.id, watch)
    if record.status is Status.INPUT_REQUIRED:
        return await rounds.ask_for_task(record.id, record.open_questions)
    if record.status is Status.FAILED and record.error is not None:
        raise modern.stored_error(record.error)
    if record.status is Status.CANCELLED:
        return _call_result(call, outcome_of_message("The call was cancelled before it ended.").result)
    return _call_result(call, record.result)


async def _next(call: Call, task_id: str, watch: Watch) -> TaskRecord:
    """The task after its next change. A database that is away for a while is waited for. Raises StoreUnavailable."""
    loop = asyncio.get_running_loop()
    await watch.next(LOOK_AGAIN_S)
    until = loop.time() + LONGEST_OUTAGE_S
    while True:
        try:
            return await call.service.store.tasks.get(task_id, call.caller.owner)
        except StoreUnavailable:
            if loop.time() > until:
                raise
            await asyncio.sleep(RETRY_S)


def _call_result(call: Call, text: str | None) -> Any:
    assert text is not None, "a completed call has a result"
    return modern.call_result(text, call.service.meta)
