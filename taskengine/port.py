"""What a running tool's context needs from whoever runs the tool.

A worker's attempt, a sync tool's process, the front end (for `forbidden` tools) and `taskengine.testing` each
implement one of these; `Context` and `SyncContext` are the same on top of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from taskengine.records import Question

__all__ = ["Port", "SyncPort"]


class _Facts(Protocol):
    @property
    def task_id(self) -> str | None:
        """None when the call makes no task (`task="forbidden"`)."""

    @property
    def attempt(self) -> int:
        """1 for the first run of the function; grows with every further one."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """The client's capabilities, as declared on the call."""

    @property
    def first(self) -> Mapping[str, Mapping[str, Any]]:
        """Raw answers to the tool's `ask_first` questions, by key."""

    @property
    def cancelled(self) -> bool: ...


class Port(_Facts, Protocol):
    async def progress(self, progress: float, total: float | None, message: str | None) -> None: ...

    async def log(self, level: str, data: Any, logger: str | None) -> None: ...

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        """The client's raw answers by key. Raises Suspended when one is not there yet."""

    async def tools_changed(self) -> None:
        """Tell listening clients that the list of tools is another now."""


class SyncPort(_Facts, Protocol):
    def progress(self, progress: float, total: float | None, message: str | None) -> None: ...

    def log(self, level: str, data: Any, logger: str | None) -> None: ...

    def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]: ...

    def tools_changed(self) -> None: ...
