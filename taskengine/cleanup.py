"""`on_cancel`: what a tool does after the cancel of one of its tasks, to undo what the function had begun.

    def give_back(cancelled: Cancelled) -> None:
        booking.release(key=cancelled.task_id)

    @engine.tool(on_cancel=give_back)
    def book(city: str) -> str: ...

It runs where the function runs: an `async def` on the event loop, a `def` in a tool process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskengine.errors import DeclarationError
from taskengine.sensitive import shown_traceback

__all__ = ["Cancelled", "check_cleanup", "clean_up_async", "clean_up_sync"]

logger = logging.getLogger("taskengine.tool")


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The task that was cancelled, for `on_cancel`."""

    task_id: str
    tool: str
    attempt: int
    """The last attempt that had begun; 1 or more."""
    arguments: Mapping[str, Any]
    """As the function got them, by parameter, in its own types."""
    sensitive: tuple[str, ...] = field(default=(), repr=False)
    """What of it must not be shown to operators (see `sensitive`)."""


def check_cleanup(what: str, function: Any, *, is_async: bool, durable: bool) -> None:
    """Raises DeclarationError, naming the tool `what`, for a function that cannot be its `on_cancel`."""
    if function is None:
        return
    if not callable(function) or inspect.isclass(function):
        raise DeclarationError(f"{what}: on_cancel is {function!r}: give a function of one parameter, the Cancelled")
    if not durable:
        raise DeclarationError(
            f'{what}: on_cancel is for tasks, and task="forbidden" makes none: leave one of the two out'
        )
    if inspect.iscoroutinefunction(function) != is_async:
        colour = "an async def, like the tool" if is_async else "a plain def, like the tool"
        raise DeclarationError(f"{what}: on_cancel runs where the tool runs: make it {colour}")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise DeclarationError(f"{what}: on_cancel is called with one value, the Cancelled: take it") from None


async def clean_up_async(function: Callable[..., Any], cancelled: Cancelled) -> str | None:
    """Run the `on_cancel` of an async tool. What went wrong, in a few words; None when nothing did."""
    try:
        await function(cancelled)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _failed(cancelled, error)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return _failed(cancelled, error)
    return None


def clean_up_sync(function: Callable[..., Any], cancelled: Cancelled) -> str | None:
    """The same for a def tool, in this thread."""
    try:
        function(cancelled)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return _failed(cancelled, error)
    return None


def _failed(cancelled: Cancelled, error: BaseException) -> str:
    said = "the on_cancel of tool %s failed for task %s"
    if cancelled.sensitive:
        trace = shown_traceback(error, cancelled.arguments, cancelled.sensitive)
        logger.error("%s\n%s", said % (cancelled.tool, cancelled.task_id), trace)
    else:
        logger.error(said, cancelled.tool, cancelled.task_id, exc_info=error)
    return "its cleanup failed"
