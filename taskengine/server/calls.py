"""`tools/call`: checked here; a durable tool's call becomes a row, which its client then sees in one of three ways.

A client that declares the tasks extension gets the plain result when the call ends within `quick_wait`, else the
task. For any other client the request stays open with progress, and when the task asks, the answer is an
`InputRequiredResult` whose state names the task, so that the retry resumes it (A-53). Where the call is bridged, the
request stays open for `inline_wait` only and then ends with an ordinary result that names the task (see `bridge`);
such a task is not touched by the end of any request (M-CANC-04). Where it is not, it is a synchronous call, which ends
with its request.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from taskengine.bridge import joined_by, shown_state, wait_of, with_answers_by_model
from taskengine.calling import outcome_of_message
from taskengine.durations import milliseconds
from taskengine.errors import InvalidArguments, StoreUnavailable
from taskengine.lifecycle import LONGEST_POLL, Status
from taskengine.limits import LOWEST_PRIORITY
from taskengine.questions import missing_capabilities
from taskengine.records import Answered, NewTask, Question, TaskRecord
from taskengine.server.call import Call
from taskengine.server.creating import create
from taskengine.server.direct import call_direct
from taskengine.server.exchange import Exchange
from taskengine.server.handles import call_handle
from taskengine.server.progress import Reporter
from taskengine.server.rounds import Rounds, read_rounds
from taskengine.server.sameness import no_task_for, same_call
from taskengine.server.tasks import answer, fitting_answers
from taskengine.server.waiting import Report, follow
from taskengine.store.changes import Watch
from taskengine.tool import Tool
from taskengine.wire import headers, modern
from taskengine.wire.jsonrpc import INVALID_PARAMS, RpcError
from taskengine.wire.meta import idempotency_key, priority, traceparent

__all__ = ["call_tool"]


async def call_tool(call: Call, exchange: Exchange) -> Any:
    """The result of the call, or what must happen before there is one.

    Arguments that do not fit the tool are a result with `isError`, which a model can act on (X-TOOL-21). Nothing is
    written before every check is done (M-HDR-26).
    """
    name = call.text("name")
    arguments = call.mapping("arguments") if "arguments" in call.params else {}
    await call.service.budgets.calling(call.caller)
    call.service.budgets.check_size(arguments)
    tool = call.service.engine.get_tool(name)
    if tool is None:
        handle = call.service.handles.get(name)
        if handle is not None:
            return await _call_handle(call, handle, arguments, exchange)
        raise RpcError(INVALID_PARAMS, f"Unknown tool: {name[:128]}")
    headers.check_parameters(call.headers, tool.header_parameters, arguments)
    if tool.task == "required" and not call.service.bridges(tool):
        call.needs_tasks()
    rounds = await read_rounds(call, tool, arguments)
    if rounds.state.task_id is not None:
        return await _resume(rounds, tool, rounds.state.task_id, exchange)
    try:
        tool.check_arguments(arguments)
    except InvalidArguments as error:
        return _call_result(call, outcome_of_message(str(error)).result)
    if not tool.durable:
        no_task_for(tool, idempotency_key(call.params, call.headers))
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
    bridged = _bridged(call, tool)
    repeated_by = idempotency_key(call.params, call.headers)
    if still_open and repeated_by is not None:
        made = await _made_under(call, tool, arguments, repeated_by)
        if made is not None:
            return await _resume(rounds, tool, made.id, exchange)
    if still_open and not (bridged and _only_its_model_can_answer(call, still_open)):
        return await rounds.ask(still_open, [Answered(questions[key], answer) for key, answer in known.items()])
    new = NewTask(
        id=f"tsk_{secrets.token_urlsafe(24)}",
        owner=call.caller.owner,
        caller=call.caller.identity,
        token=call.caller.token_for(tool),
        tool=tool.name,
        queue=tool.route,
        arguments=arguments,
        capabilities=with_answers_by_model(call.envelope.capabilities) if bridged else call.envelope.capabilities,
        ttl_ms=milliseconds(call.service.ttl_of(tool)),
        poll_interval_ms=max(1, milliseconds(tool.poll_interval or LONGEST_POLL)),
        priority=priority(call.params, tool.priority, LOWEST_PRIORITY, tool.max_priority),
        slots=tool.slots(call.caller.owner, arguments),
        first=known,
        nonce=rounds.state.nonce,
        # A call with a key joins no other: the key would not be found again, and counts alone.
        dedupe=joined_by(tool, arguments, known) if bridged and repeated_by is None else None,
        same=same_call(tool, arguments, known, repeated_by),
        sensitive=tool.sensitive,
        trace=traceparent(call.params, call.headers),
    )
    if call.envelope.declares_tasks and tool.task == "required":
        made = await create(call.service, call.caller, new)
        return modern.create_task_result(made, call.service.meta)  # whatever comes of it, later
    if not call.envelope.declares_tasks:
        await call.service.sealer.prepare()  # a task whose client could not be sent back to it would be lost
    async with call.service.store.changes.watch([new.id]) as watch:
        try:
            record = await create(call.service, call.caller, new)
        except asyncio.CancelledError:
            # Whether it was committed is not known. A task may live on, a synchronous call may not.
            if exchange.disconnected and not call.envelope.declares_tasks and not _kept(call, tool):
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


async def _present(rounds: Rounds, tool: Tool, record: TaskRecord, watch: Watch, exchange: Exchange) -> Any:
    if rounds.call.envelope.declares_tasks:
        return await _as_task(rounds.call, tool, record, watch, exchange)
    bridged = _bridged(rounds.call, tool)
    try:
        return await _inline(rounds, tool, record, watch, exchange, bridged=bridged)
    except asyncio.CancelledError:
        if exchange.disconnected:
            if not _kept(rounds.call, tool):
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
            call.service.trail.read(call.caller.owner, record)
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


async def _inline(
    rounds: Rounds, tool: Tool, record: TaskRecord, watch: Watch, exchange: Exchange, *, bridged: bool
) -> Any:
    """The end of the task, or its questions; for a bridged call how it stands, when the wait is over.

    Raises the error it failed with.
    """
    call, service = rounds.call, rounds.call.service
    await service.sealer.prepare()
    wait = wait_of(tool, call.caller.patience, service.settings).total_seconds() if bridged else None
    report = _reporter(call, exchange)
    exchange.end_after(call.caller.stream_s)
    record = await follow(service, call.caller.owner, record, watch, within_s=wait, report=report)
    service.trail.read(call.caller.owner, record)
    if record.status is Status.INPUT_REQUIRED:
        if not (bridged and missing_capabilities(record.open_questions, call.envelope.capabilities)):
            return await rounds.ask_for_task(record.id, record.open_questions)
    elif record.status is Status.FAILED and record.error is not None:
        raise modern.stored_error(record.error)
    return _call_result(call, shown_state(record))


async def _call_handle(call: Call, tool: Tool, arguments: dict[str, Any], exchange: Exchange) -> Any:
    """The result of one of the engine's own tools."""
    result = await call_handle(call.service, call.caller, tool, arguments, _reporter(call, exchange))
    return _call_result(call, result)


def _reporter(call: Call, exchange: Exchange) -> Report:
    reporter = Reporter(exchange, call.envelope)

    async def report(record: TaskRecord) -> None:
        if record.progress is not None:
            await reporter.progress(record.progress, record.progress_total, record.progress_message)

    return report


def _only_its_model_can_answer(call: Call, questions: Sequence[Question]) -> bool:
    """The client cannot be asked these, but they can be left to the task, whose questions its model answers."""
    declared = call.envelope.capabilities
    return bool(missing_capabilities(questions, declared)) and not missing_capabilities(
        questions, with_answers_by_model(declared)
    )


async def _made_under(call: Call, tool: Tool, arguments: dict[str, Any], key: str) -> TaskRecord | None:
    """The task that an earlier call has made under the key: nothing needs to be asked again. Raises KeyReused."""
    same = same_call(tool, arguments, {}, key)
    assert same is not None
    return await call.service.store.tasks.same_call(call.caller.owner, tool.name, arguments, same)


def _kept(call: Call, tool: Tool) -> bool:
    """The end of the request is not the end of the task: its client may come back for it by repeating the call."""
    repeatable = tool.dedupe_for is not None or idempotency_key(call.params, call.headers) is not None
    return repeatable or _bridged(call, tool)


def _bridged(call: Call, tool: Tool) -> bool:
    """The client knows no tasks, and gets this one by the engine's own tools."""
    return not call.envelope.declares_tasks and call.service.bridges(tool)


def _call_result(call: Call, text: str | None) -> Any:
    assert text is not None, "a completed call has a result"
    return modern.call_result(text, call.service.meta)
