"""What a `def` tool that makes no task may ask of its front end: the same as an async one, from its thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from taskengine.errors import TaskCancelled
from taskengine.identity import Identity
from taskengine.port import Port
from taskengine.records import Question
from taskengine.server.progress import Reporter

__all__ = ["DirectPort", "SyncPort"]

_T = TypeVar("_T")


class DirectPort(Port, Protocol):
    """The async side, of either kind of revision; used on the event loop but for its facts."""

    @property
    def reporter(self) -> Reporter: ...


class SyncPort:
    """For a tool in its thread, which waits while the event loop works."""

    durable = None

    def __init__(self, port: DirectPort, loop: asyncio.AbstractEventLoop) -> None:
        self._port, self._loop = port, loop

    @property
    def task_id(self) -> str | None:
        return self._port.task_id

    @property
    def attempt(self) -> int:
        return self._port.attempt

    @property
    def capabilities(self) -> Mapping[str, Any]:
        return self._port.capabilities

    @property
    def first(self) -> Mapping[str, Mapping[str, Any]]:
        return self._port.first

    @property
    def caller(self) -> Identity | None:
        return self._port.caller

    @property
    def cancelled(self) -> bool:
        return self._port.cancelled

    def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._go_on()
        if self._port.reporter.wants_progress:
            self._wait_for(self._port.progress(progress, total, message))

    def log(self, level: str, data: Any, logger: str | None) -> None:
        self._go_on()
        if self._port.reporter.wants(level):
            self._wait_for(self._port.log(level, data, logger))

    def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        self._go_on()
        return self._wait_for(self._port.ask(questions))

    def tools_changed(self) -> None:
        self._go_on()
        self._wait_for(self._port.tools_changed())

    def _go_on(self) -> None:
        """Raises TaskCancelled in a thread whose call is over."""
        if self._port.cancelled:
            raise TaskCancelled

    def _wait_for(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
