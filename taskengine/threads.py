"""Plain functions beside an event loop, in threads: a call that is given up keeps its thread no longer than it must.

Python code is interrupted where it runs, by an exception that the tool's `except Exception` does not catch. A blocking
call into C (a long sleep, a query) is not: its thread is free again when that returns. That is why what may block for
long is no `forbidden` tool.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from taskengine.errors import TaskCancelled

__all__ = ["Inside", "in_thread"]

T = TypeVar("T")


async def in_thread(
    function: Callable[[], T], room: asyncio.Semaphore | None = None, begins: Callable[[], None] | None = None
) -> T:
    """What `function` returns or raises; it begins when there is `room`, and then `begins` is called.

    When the caller gives up, TaskCancelled is raised in the thread, which ends by itself, and never holds up the end of
    the process.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    if room is not None:
        await room.acquire()
    if begins is not None:
        begins()
    inside = Inside()

    def settle(settled: Callable[[], None]) -> None:
        if room is not None:
            room.release()
        if not outcome.done():
            settled()

    def run() -> None:
        try:
            settled = partial(outcome.set_result, inside.run(function))
        except StopIteration as error:  # no future takes it
            wrapped = RuntimeError("the function raised StopIteration")
            wrapped.__cause__ = error
            settled = partial(outcome.set_exception, wrapped)
        except BaseException as error:  # signals of the engine pass through threads as well
            settled = partial(outcome.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, settled)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="tool", daemon=True).start()
    try:
        return await outcome
    except asyncio.CancelledError:
        inside.interrupt()
        raise


class Inside:
    """Whether a thread is within the function, and so may be interrupted: once, and nowhere else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._interrupted = False

    def run(self, function: Callable[[], T]) -> T:
        with self._lock:
            if self._interrupted:
                raise TaskCancelled
            self._thread = threading.get_ident()
        try:
            return function()
        finally:
            with self._lock:
                self._raise(None)  # takes back an exception that has not come up yet
                self._thread = None

    def interrupt(self) -> None:
        with self._lock:
            if not self._interrupted:
                self._interrupted = True
                self._raise(TaskCancelled)

    def _raise(self, error: type[BaseException] | None) -> None:
        if self._thread is not None:
            raised = ctypes.py_object(error) if error is not None else None
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), raised)
