"""Calling a tool's function once, and what comes of it.

Whatever the function does ends in an `Outcome`: a result, an `isError` result or a JSON-RPC error. Only what is not
the function's own ending passes through: signals of the engine, cancellation, a lost claim, a lost database.
Time limits are not kept here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskengine.content import clean_text, encode_json, text_result, to_result
from taskengine.context import Context, SyncContext
from taskengine.errors import (
    BadAnswer,
    ClaimLost,
    InvalidArguments,
    ProtocolError,
    ReplayMismatch,
    ResultError,
    Signal,
    StoreUnavailable,
    ToolError,
)
from taskengine.port import Port, SyncPort
from taskengine.schema import SAFE_INTEGER
from taskengine.sensitive import shown_text, shown_traceback
from taskengine.tool import Tool

__all__ = ["Outcome", "call_async", "call_sync", "outcome_of_message"]

logger = logging.getLogger("taskengine.tool")

DELIBERATE = (ToolError, ProtocolError, InvalidArguments, ResultError)
INTERNAL_ERROR = -32603
MAX_MESSAGE = 200
MAX_TEXT = 4_000
MAX_TRACEBACK = 32_000
HIDDEN = "The tool failed with an internal error."


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: exactly one of `result` and `error` is there."""

    result: str | None
    """JSON text of the `CallToolResult` members."""
    is_error: bool = False
    """The result says `isError`."""
    error: str | None = None
    """JSON text of a JSON-RPC error object."""
    message: str | None = None
    """One short line for a failed call or an error result, fit for users (X-SEC-13)."""
    traceback: str | None = None
    """For the log and the store, never for clients."""
    passing: bool = False
    """The function raised what another attempt may get past: the tool's `retries` are for that."""
    loose: Sequence[str] = ()
    """Places of the journal that such an attempt tries again."""


async def call_async(
    tool: Tool, arguments: Mapping[str, Any], port: Port, *, show_exceptions: bool, max_result_bytes: int
) -> Outcome:
    """Call an async tool. Raises Signal, `asyncio.CancelledError` of this task, ClaimLost and StoreUnavailable."""
    assert tool.is_async, f"{tool.name} is a def tool: use call_sync"
    context: Context | None = None
    try:
        context = Context(port, tool.ask_first, **_options(tool, max_result_bytes))
        value = await tool.function(**tool.bind(arguments, context))
        _check_end(context)
        return _success(tool, value, max_result_bytes)
    except GeneratorExit:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _failure(tool, arguments, error, context, show=show_exceptions, limit=max_result_bytes)
    except BaseException as error:  # SystemExit and KeyboardInterrupt of a tool are its own
        return _failure(tool, arguments, error, context, show=show_exceptions, limit=max_result_bytes)


def call_sync(
    tool: Tool, arguments: Mapping[str, Any], port: SyncPort, *, show_exceptions: bool, max_result_bytes: int
) -> Outcome:
    """Call a def tool, in this thread. Raises Signal, ClaimLost and StoreUnavailable."""
    assert not tool.is_async, f"{tool.name} is an async def tool: use call_async"
    context: SyncContext | None = None
    try:
        context = SyncContext(port, tool.ask_first, **_options(tool, max_result_bytes))
        value = tool.function(**tool.bind(arguments, context))
        _check_end(context)
        return _success(tool, value, max_result_bytes)
    except BaseException as error:  # SystemExit and KeyboardInterrupt of a tool are its own
        return _failure(tool, arguments, error, context, show=show_exceptions, limit=max_result_bytes)


def _options(tool: Tool, max_bytes: int) -> dict[str, Any]:
    return {"tool": tool.name, "version": tool.version, "answer_by": tool.answer_by, "max_bytes": max_bytes}


def _check_end(context: Context | SyncContext) -> None:
    """The function has returned. Raises the signal it swallowed, or ReplayMismatch when its journal goes on."""
    if context.signal is not None:
        raise context.signal
    if context.history is not None:
        context.history.check_end()


def outcome_of_message(text: str, *, is_error: bool = True) -> Outcome:
    """An outcome of one text, for results that the engine itself gives, such as a timeout's."""
    return Outcome(
        encode_json(text_result(text, is_error=is_error)), is_error, message=_short(text) if is_error else None
    )


def _success(tool: Tool, value: Any, max_result_bytes: int) -> Outcome:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise ResultError("The function returned an awaitable: declare the tool as async def and await it there")
    result = to_result(tool, value)
    text = encode_json(result)
    size = len(text.encode())
    if size > max_result_bytes:
        raise ResultError(
            f"The tool's result has {size:,} bytes as JSON, and the limit is {max_result_bytes:,} "
            "(max_result_bytes): return less, or a link to the whole"
        )
    is_error = result.get("isError", False)
    return Outcome(text, is_error, message=_first_text(result) if is_error else None)


def _failure(
    tool: Tool,
    arguments: Mapping[str, Any],
    error: BaseException,
    context: Context | SyncContext | None,
    *,
    show: bool,
    limit: int,
) -> Outcome:
    """What an exception comes to. Raises it again when it is not the tool's own ending."""
    ended = None if context is None else context.signal
    if isinstance(ended, Signal):
        raise ended from None
    cause = _leaf(error) if ended is None else ended
    if isinstance(cause, (Signal, ClaimLost, StoreUnavailable)):
        if cause is error:
            raise error
        raise cause from None
    cause = _too_early(cause, context) or cause
    if isinstance(cause, ProtocolError):
        return _protocol_error(tool, cause, limit)
    if isinstance(cause, InvalidArguments):
        return outcome_of_message(str(cause))
    if isinstance(cause, ToolError):
        text = _message_of(cause)
        if len(text.encode("utf-8", "replace")) > limit // 2:
            text = f"{text[:MAX_TEXT]}…"
        return outcome_of_message(text or "The tool failed.")
    if isinstance(cause, ResultError):
        logger.warning("tool %s: %s", tool.name, _shown(tool, arguments, _message_of(cause)))
        return outcome_of_message(_message_of(cause))
    trace = _traceback(tool, arguments, cause)
    logger.error("tool %s raised %s\n%s", tool.name, type(cause).__name__, trace)
    if isinstance(cause, BadAnswer):
        text = _message_of(cause)
    elif show:
        text = f"{type(cause).__name__}: {_message_of(cause)[:MAX_TEXT]}".removesuffix(": ")
    else:
        text = HIDDEN
    made = outcome_of_message(text)
    passing = isinstance(cause, Exception) and not isinstance(cause, BadAnswer)
    loose = context.history.loose_failures() if context is not None and context.history is not None else []
    return Outcome(made.result, is_error=True, message=made.message, traceback=trace, passing=passing, loose=loose)


def _too_early(cause: BaseException, context: Context | SyncContext | None) -> ReplayMismatch | None:
    """The error for a tool that says no where an earlier attempt went on. A fault may come and go: that is no such."""
    history = None if context is None else context.history
    if history is None or isinstance(cause, ReplayMismatch) or not isinstance(cause, DELIBERATE):
        return None
    try:
        history.check_end(f"raised {type(cause).__name__} ({_short(_message_of(cause))})")
    except ReplayMismatch as mismatch:
        return mismatch
    return None


def _leaf(error: BaseException) -> BaseException:
    """The exception that counts in a group, as a TaskGroup raises it: a signal before all, else an only one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves: list[BaseException] = []
    groups: list[BaseExceptionGroup[BaseException]] = [error]
    while groups:
        for inner in groups.pop().exceptions:
            if isinstance(inner, BaseExceptionGroup):
                groups.append(inner)
            else:
                leaves.append(inner)
    for kind in (Signal, ClaimLost, StoreUnavailable):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0] if len(leaves) == 1 else error


def _protocol_error(tool: Tool, error: ProtocolError, limit: int) -> Outcome:
    code = error.code if type(error.code) is int and abs(error.code) <= SAFE_INTEGER else INTERNAL_ERROR
    message = clean_text(str(error.message))[:MAX_TEXT] or "The tool failed."
    body: dict[str, Any] = {"code": code, "message": message}
    if error.data is not None:
        body["data"] = error.data
    try:
        text = encode_json(body)
        if len(text.encode()) > limit:
            raise ResultError(f"it is longer than {limit:,} bytes")  # noqa: TRY301 - handled as the others
    except ResultError as trouble:
        logger.warning("tool %s: the data of its error %s is left out: %s", tool.name, code, trouble)
        text = encode_json({"code": code, "message": message})
    return Outcome(None, error=text, message=_short(message))


def _message_of(error: BaseException) -> str:
    try:
        return clean_text(str(error))
    except Exception:  # a broken __str__ must not hide the failure
        return "(its message cannot be read)"


def _traceback(tool: Tool, arguments: Mapping[str, Any], error: BaseException) -> str:
    try:
        text = shown_traceback(error, arguments, tool.sensitive)
    except Exception:
        text = type(error).__name__
    return clean_text(text)[-MAX_TRACEBACK:]


def _shown(tool: Tool, arguments: Mapping[str, Any], text: str) -> str:
    """The text as operators may read it."""
    return shown_text(text, arguments, tool.sensitive)


def _first_text(result: Mapping[str, Any]) -> str | None:
    for block in result["content"]:
        if block.get("type") == "text":
            return _short(block["text"])
    return None


def _short(text: str) -> str:
    line = next((line.strip() for line in clean_text(text).splitlines() if line.strip()), "")
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 1]}…"
