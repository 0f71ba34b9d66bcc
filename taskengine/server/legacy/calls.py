"""`tools/call`: as a task where its client asks for one, else on a stream that stays open until there is a result.

An augmented call gives its task at once (L-TASK-11). Any other call of a durable tool is followed on its own stream,
with its questions; where it is bridged, it ends after `inline_wait` with an ordinary result that names the task (see
`bridge`). The end of a connection is the end of nothing (L-CANC-11).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taskengine.bridge import joined_by, shown_state, wait_of, with_answers_by_model
from taskengine.calling import outcome_of_message
from taskengine.durations import milliseconds
from taskengine.errors import InvalidArguments, StoreUnavailable
from taskengine.lifecycle import LONGEST_POLL, Status
from taskengine.limits import LOWEST_PRIORITY
from taskengine.records import NewTask, TaskRecord
from taskengine.server.creating import create
from taskengine.server.exchange import Exchange
from taskengine.server.handles import call_handle
from taskengine.server.legacy.call import Call
from taskengine.server.legacy.direct import DirectRun
from taskengine.server.legacy.following import Follower
from taskengine.server.legacy.front import Wanted, key_of
from taskengine.server.legacy.streams import Labelled
from taskengine.server.legacy.turns import Turn
from taskengine.server.progress import Reporter
from taskengine.server.sameness import no_task_for, same_call
from taskengine.tool import Tool
from taskengine.wire import legacy
from taskengine.wire.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from taskengine.wire.meta import idempotency_key, priority, traceparent

__all__ = ["call_tool", "follow_call"]


async def call_tool(call: Call, exchange: Exchange, framing: Labelled) -> Any:
    """The result of the call, or its task. Nothing is written before every check is done."""
    name = call.text("name")
    arguments = call.params.get("arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RpcError(INVALID_PARAMS, "params.arguments must be an object")
    await call.service.budgets.calling(call.caller)
    call.service.budgets.check_size(arguments)
    token = legacy.progress_token(call.params)
    augmentation = legacy.read_augmentation(call.params) if call.session.features.tasks else None
    tool = call.service.engine.get_tool(name)
    handle = call.service.handles.get(name) if tool is None else None
    if tool is None and handle is None:
        raise RpcError(INVALID_PARAMS, f"Unknown tool: {name[:128]}")
    if augmentation is not None and (tool is None or not tool.durable):
        raise RpcError(METHOD_NOT_FOUND, f"{name} makes no tasks: call it without params.task")  # L-TASK-05
    if handle is not None:
        return await _call_handle(call, handle, arguments, exchange, token)
    assert tool is not None
    if augmentation is not None:
        return await _begin_task(call, tool, arguments, augmentation, token)
    if tool.task == "required" and not call.service.bridges(tool):
        raise RpcError(METHOD_NOT_FOUND, f"{name} is always a task: call it with params.task")  # L-TASK-06
    try:
        tool.check_arguments(arguments)
    except InvalidArguments as error:
        return _text_result(call, str(error))
    if not tool.durable:
        no_task_for(tool, idempotency_key(call.params, call.headers))
        return await _call_direct(call, tool, arguments, exchange, framing)
    return await _call_inline(call, tool, arguments, exchange, framing)


async def _begin_task(
    call: Call, tool: Tool, arguments: Mapping[str, Any], augmentation: legacy.Augmentation, token: str | int | None
) -> Any:
    """`CreateTaskResult`, once the task is committed. Arguments that do not fit make it fail (A-23)."""
    service = call.service
    settings = service.settings
    default_ms = milliseconds(service.ttl_of(tool))
    ttl_ms = augmentation.ttl_within(default_ms, milliseconds(settings.min_ttl), milliseconds(settings.max_ttl))
    new = _new_task(call, tool, arguments, ttl_ms, capabilities=call.session.capabilities, token=token)
    record = await create(call.service, call.caller, new)
    call.front.spawn(call.front.tell(call.session, "task", record.id))
    return legacy.create_task_result(record)


async def _call_handle(
    call: Call, tool: Tool, arguments: Mapping[str, Any], exchange: Exchange, token: str | int | None
) -> Any:
    """The result of one of the engine's own tools."""
    reporter = Reporter(exchange, Wanted(token, None), legacy)

    async def report(record: TaskRecord) -> None:
        if record.progress is not None:
            await reporter.progress(record.progress, record.progress_total, record.progress_message)

    with call.front.running(call.session, call.request_id, exchange):
        text = await call_handle(call.service, call.caller, tool, arguments, report)
    return legacy.call_result(text, call.session.version)


async def _call_direct(
    call: Call, tool: Tool, arguments: Mapping[str, Any], exchange: Exchange, framing: Labelled
) -> Any:
    exchange.outlive_token()
    run = DirectRun(call, tool, arguments)
    key, requests = key_of(call.session, call.request_id), call.front.requests
    requests.begin(key, run.cancel)
    run.on_end(lambda: requests.end(key))
    framing.stream = call.front.tokens.seal("direct", s=call.session.id, r=call.request_id, i=run.id)
    with call.front.running(call.session, call.request_id, exchange, run.cancel):
        try:
            result = await run.serve(exchange, framing)
        except asyncio.CancelledError:
            if not exchange.disconnected:
                run.cancel()
            raise
    if call.accepts.json and not framing.begun:  # the answer is one object: there is no stream to come back to
        call.front.runs.forget(run.id)
    return result


async def _call_inline(
    call: Call, tool: Tool, arguments: Mapping[str, Any], exchange: Exchange, framing: Labelled
) -> Any:
    token = legacy.progress_token(call.params)
    bridged = call.service.bridges(tool)
    capabilities = with_answers_by_model(call.capabilities) if bridged else call.capabilities
    ttl_ms = milliseconds(call.service.ttl_of(tool))
    new = _new_task(call, tool, arguments, ttl_ms, capabilities=capabilities, token=None, told=False)
    if bridged and new.same is None:  # a call with a key joins no other: it counts by that alone
        new = replace(new, dedupe=joined_by(tool, arguments, {}))
    record = await create(call.service, call.caller, new)
    keyed = idempotency_key(call.params, call.headers) is not None
    framing.stream = call.front.tokens.seal("call", s=call.session.id, r=call.request_id, t=record.id, p=token, k=keyed)
    return await follow_call(call, record, exchange, framing, token=token, keyed=keyed)


async def follow_call(
    call: Call,
    record: TaskRecord,
    exchange: Exchange,
    framing: Labelled,
    *,
    token: str | int | None,
    keyed: bool,
    turn: Turn | None = None,
) -> Any:
    """What the call comes to, from its first moment or, with a `turn`, from where its client left its stream.

    With `keyed` the call was made under an idempotency key.
    """
    tool = call.service.engine.get_tool(record.tool)
    bridged = tool is not None and call.service.bridges(tool)
    kept = bridged or keyed or (tool is not None and tool.dedupe_for is not None)
    within_s = None
    if tool is not None and bridged:
        within_s = wait_of(tool, call.caller.patience, call.service.settings).total_seconds()
        if turn is not None:  # its client has waited before
            within_s -= (record.now - record.created_at).total_seconds()
        within_s = call.caller.within_token(within_s)

    def on_cancel() -> None:
        if not kept:  # a task that its client may still ask for is not touched by the end of a request
            call.service.cancel_abandoned(record.id, call.caller)

    key, requests = key_of(call.session, call.request_id), call.front.requests
    if not kept:
        requests.begin(key, on_cancel)
    framing.goes_on = True
    with (
        call.front.wanting(call.session, token) as wanted,
        call.front.running(call.session, call.request_id, exchange, on_cancel, turn),
    ):
        follower = Follower(call, exchange, framing, record.id, wanted=wanted)
        async with call.service.store.changes.watch([record.id]) as watch:
            try:
                if turn is not None or within_s is None or within_s > 0:  # else it is a task at once, whatever it asks
                    record = await follower.follow(watch, within_s=within_s)
            except asyncio.CancelledError:
                if exchange.disconnected or not call.service.stopping or not bridged:
                    raise
                # The server stops: any client understands the name of the task, and few come back to a stream.
            except StoreUnavailable:
                if not bridged:
                    raise
                # The task goes on: its client gets its name, and does not begin another.
    requests.end(key)
    call.service.trail.read(call.caller.owner, record)
    if record.terminal and record.status is not Status.CANCELLED:
        return legacy.call_outcome(record, call.session.version, related_task=False)
    return legacy.call_result(shown_state(record), call.session.version)


def _new_task(
    call: Call,
    tool: Tool,
    arguments: Mapping[str, Any],
    ttl_ms: int,
    *,
    capabilities: Mapping[str, Any],
    token: str | int | None,
    told: bool = True,
) -> NewTask:
    return NewTask(
        id=f"tsk_{secrets.token_urlsafe(24)}",
        owner=call.caller.owner,
        caller=call.caller.identity,
        token=call.caller.token_for(tool),
        tool=tool.name,
        queue=tool.route,
        arguments=arguments,
        capabilities=capabilities,
        ttl_ms=ttl_ms,
        poll_interval_ms=max(1, milliseconds(tool.poll_interval or LONGEST_POLL)),
        priority=priority(call.params, tool.priority, LOWEST_PRIORITY, tool.max_priority),
        slots=tool.slots(call.caller.owner, arguments),
        session=call.session.id if told else None,
        progress_token=token,
        same=same_call(tool, arguments, {}, idempotency_key(call.params, call.headers)),
        sensitive=tool.sensitive,
        trace=traceparent(call.params, call.headers),
    )


def _text_result(call: Call, text: str) -> Any:
    result = outcome_of_message(text).result
    assert result is not None
    return legacy.call_result(result, call.session.version)
