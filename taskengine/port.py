"""What a running tool's context needs from whoever runs the tool.

A worker's attempt, a sync tool's process, the front end (for `forbidden` tools) and `taskengine.testing` each
implement one of these; `Context` and `SyncContext` are the same on top of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from taskengine.identity import AccessToken, Identity
from taskengine.records import Answered, Entry, Question, Wait

__all__ = ["IN_PLACE", "DurablePort", "Port", "SyncDurablePort", "SyncPort"]


IN_PLACE = timedelta(seconds=5)
"""What workers have for `in_place`."""


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
    def caller(self) -> Identity | None:
        """On whose behalf the call is made; None where nobody was asked."""

    @property
    def cancelled(self) -> bool: ...


class _Journaled(Protocol):
    @property
    def journal(self) -> Mapping[str, Entry]:
        """What earlier attempts recorded, by place."""

    @property
    def answers(self) -> Mapping[str, Answered]:
        """Every question that is answered, by key."""

    @property
    def in_place(self) -> timedelta:
        """A wait up to this long is waited for where it is; a longer one ends the attempt."""

    def clock(self) -> datetime:
        """The database's clock, near enough."""


class DurablePort(_Journaled, Protocol):
    """What a task has and a call without one has not: a journal, and a way to wait without running.

    Every method may raise a Signal: the attempt is over then.
    """

    async def record(self, entry: Entry) -> None:
        """It is in the journal when this returns."""

    async def call(self, entry: Entry, arguments: Mapping[str, Any]) -> Entry:
        """Make the task that calls the tool `entry.name`, and record the call. The entry with the task's state.

        Raises DeclarationError for a tool that cannot be called, InvalidArguments for arguments that do not fit, and
        TooDeep when this task is itself at the end of too long a line of calls. Nothing is recorded then.
        """

    async def park(self, wait: Wait, entries: Sequence[Entry], *, linger: bool) -> None:
        """End the attempt to wait, and record entries with that. With `linger` it may return instead, when what it
        waits for came at once; `journal` and `answers` are fresh then. Raises Suspended otherwise."""

    async def give_up(self, entry: Entry, keys: Sequence[str]) -> None:
        """Withdraw questions that nobody answered, and record so; what was answered meanwhile is in `answers`."""

    async def answer_child(self, child_id: str, responses: Mapping[str, Mapping[str, Any]]) -> None:
        """Pass answers on to a task that this one called."""

    async def withdraw(self, child_id: str) -> None:
        """Take back the questions asked for a child that has ended."""

    async def token(self, valid_for: timedelta) -> AccessToken:
        """The caller's own, or what it was renewed to, good for so long. Raises ToolError when there is none."""


class SyncDurablePort(_Journaled, Protocol):
    """The same as plain calls."""

    def record(self, entry: Entry) -> None: ...

    def call(self, entry: Entry, arguments: Mapping[str, Any]) -> Entry: ...

    def park(self, wait: Wait, entries: Sequence[Entry], *, linger: bool) -> None: ...

    def give_up(self, entry: Entry, keys: Sequence[str]) -> None: ...

    def answer_child(self, child_id: str, responses: Mapping[str, Mapping[str, Any]]) -> None: ...

    def withdraw(self, child_id: str) -> None: ...

    def token(self, valid_for: timedelta) -> AccessToken: ...


class Port(_Facts, Protocol):
    async def progress(self, progress: float, total: float | None, message: str | None) -> None: ...

    async def log(self, level: str, data: Any, logger: str | None) -> None: ...

    async def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        """The client's raw answers by key. Raises Suspended when one is not there yet."""

    async def tools_changed(self) -> None:
        """Tell listening clients that the list of tools is another now."""

    @property
    def durable(self) -> DurablePort | None:
        """None when the call makes no task; then `ask` is what answers questions."""


class SyncPort(_Facts, Protocol):
    def progress(self, progress: float, total: float | None, message: str | None) -> None: ...

    def log(self, level: str, data: Any, logger: str | None) -> None: ...

    def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]: ...

    def tools_changed(self) -> None: ...

    @property
    def durable(self) -> SyncDurablePort | None: ...
