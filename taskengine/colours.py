"""The two ways in which a tool runs: on an event loop, or in a thread or process of its own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from taskengine.calls import ToolCall
from taskengine.errors import DeclarationError, Suspended
from taskengine.lanes import Lane, enter_lane
from taskengine.steps import timed_out
from taskengine.threads import Inside, in_thread

__all__ = ["AsyncColour", "Colour", "Raised", "SyncColour", "drive"]

T = TypeVar("T")
THREADS = 32
"""Plain functions that the steps of one async tool run at once."""


class Colour(Protocol):
    """How functions are run and time passes."""

    async def sleep(self, seconds: float) -> None: ...

    async def run(self, function: Callable[[], Any], is_async: bool, limit: timedelta | None) -> Any:
        """What the function gives. Raises TimeoutError past the limit, which counts from where it begins."""

    async def together(self, works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """What each gives, in order; none of them takes a place. Raises what one of them raised."""

    async def side_by_side(self, lanes: Sequence[Lane], branches: Sequence[Any]) -> list[Any | Raised]: ...


def drive(work: Awaitable[Any]) -> Any:
    """The result of a coroutine that never suspends."""
    iterator = work.__await__()
    try:
        next(iterator)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a plain call has suspended")


class Raised:
    """How a branch ended that raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class AsyncColour:
    def __init__(self) -> None:
        self._threads = asyncio.Semaphore(THREADS)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def run(self, function: Callable[[], Any], is_async: bool, limit: timedelta | None) -> Any:
        """An async function on this loop, another in a thread, so that it may block."""
        scope = asyncio.timeout(None)

        def begins() -> None:
            if limit is not None:
                scope.reschedule(asyncio.get_running_loop().time() + limit.total_seconds())

        try:
            async with scope:
                if is_async:
                    begins()
                    given = function()
                else:
                    given = await in_thread(function, self._threads, begins)
                return await given if inspect.isawaitable(given) else given
        except TimeoutError:
            if scope.expired() and limit is not None:
                raise timed_out(limit) from None
            raise

    async def together(self, works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        given = await asyncio.gather(*(work() for work in works), return_exceptions=True)
        for each in given:
            if isinstance(each, BaseException):
                raise each
        return given  # type: ignore[return-value]

    async def side_by_side(self, lanes: Sequence[Lane], branches: Sequence[Any]) -> list[Any | Raised]:
        strangers = [branch for branch in branches if not inspect.isawaitable(branch)]
        if strangers:
            raise DeclarationError(f"ctx.gather: {strangers[0]!r} cannot be awaited: give calls, such as ctx.step(…)")
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._branch(lane, branch)) for lane, branch in zip(lanes, branches, strict=True)]
        try:
            return await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _branch(self, lane: Lane, branch: Awaitable[Any]) -> Any | Raised:
        enter_lane(lane)
        lane.alone = isinstance(branch, ToolCall)
        try:
            value = await branch
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Raised(error)
        except BaseException as error:
            return Raised(error)
        return value if lane.ended is None else Raised(lane.ended)


class SyncColour:
    """For a function in a thread or process of its own: branches take turns, and wait together."""

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - nothing else runs in this thread

    async def run(self, function: Callable[[], Any], is_async: bool, limit: timedelta | None) -> Any:
        if limit is None:
            return _run_to_end(function())
        until = time.monotonic() + limit.total_seconds()
        given = function() if is_async else _call_until(function, until, limit)
        return _run_to_end(given, until, limit)

    async def together(self, works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        return [await work() for work in works]

    async def side_by_side(self, lanes: Sequence[Lane], branches: Sequence[Any]) -> list[Any | Raised]:
        for branch in branches:
            if not callable(branch):
                raise DeclarationError(
                    f"ctx.gather: {branch!r} is not a function: give branches to call, such as lambda: ctx.step(…)"
                )
        return [
            contextvars.copy_context().run(_in_turn, lane, branch) for lane, branch in zip(lanes, branches, strict=True)
        ]


def _in_turn(lane: Lane, branch: Callable[[], Any]) -> Any | Raised:
    enter_lane(lane)
    try:
        value = branch()
    except (Exception, Suspended) as error:
        return Raised(error)
    return value if lane.ended is None else Raised(lane.ended)


def _call_until(function: Callable[[], Any], until: float, limit: timedelta) -> Any:
    """What a function returns by then, in a thread: what ends the wait for it, a stop too, interrupts it there."""
    outcome: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
    inside = Inside()

    def work() -> None:
        try:
            outcome.put((inside.run(function), None))
        except BaseException as error:
            outcome.put((None, error))

    try:
        threading.Thread(target=contextvars.copy_context().run, args=(work,), name="step", daemon=True).start()
        value, error = outcome.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
        raise timed_out(limit) from None
    finally:
        inside.interrupt()
    if error is not None:
        raise error
    return value


def _run_to_end(given: Any, until: float | None = None, limit: timedelta | None = None) -> Any:
    """The value, or what an awaitable comes to: in this thread, where a stop ends it."""
    if not inspect.isawaitable(given):
        return given

    async def wait() -> Any:
        left_s = None if until is None else max(0.0, until - time.monotonic())
        scope = asyncio.timeout(left_s)
        try:
            async with scope:
                return await given
        except TimeoutError:
            if scope.expired() and limit is not None:
                raise timed_out(limit) from None
            raise

    return asyncio.run(wait())
