"""What crosses from the store to the layers above: frozen, neutral of any wire.

JSON payloads (`result`, `error`) are kept as the text that was stored, so that a poll serves them without
parsing. Times are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from taskengine.identity import AccessToken, Identity
from taskengine.lifecycle import TERMINAL, Phase, Status

__all__ = [
    "Answered",
    "ChildState",
    "Claim",
    "Doorbell",
    "Entry",
    "LogLine",
    "NewTask",
    "Question",
    "Same",
    "Slot",
    "TaskRecord",
    "Wait",
]


@dataclass(frozen=True, slots=True)
class Question:
    """One request for input. `key` is unique for the life of its task (M-TASK-56).

    `method` is `elicitation/create`, `sampling/createMessage` or `roots/list`; `params` are its params (M-TASK-57).
    """

    key: str
    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with the client's answer: an `ElicitResult`, `CreateMessageResult` or `ListRootsResult`."""

    question: Question
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChildState:
    """A task that another one called, as its caller sees it."""

    id: str
    tool: str
    status: Status
    is_error: bool = False
    result: str | None = None
    """JSON text of the `CallToolResult` members, when completed."""
    error: str | None = None
    """JSON text of the JSON-RPC error object, when failed."""
    message: str | None = None
    questions: tuple[Question, ...] = ()
    """What it asks just now."""
    asked: bool = False
    """It has ended, and its caller still asks for it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a task's journal: what the function did at one place, and what came of it."""

    path: str
    """`3` is the third thing the function did; `3.0.2` the second in the first branch of it."""
    kind: str
    """`step`, `sleep`, `call`, `calls`, `arrived`, `ask`, `now`, `uuid` or `random`."""
    name: str
    done: bool = True
    """False for a step that waits for its next try, and for what has no outcome yet."""
    value: str | None = None
    """JSON text."""
    error: str | None = None
    """JSON text of a `StepFailed`, when it failed for good, or of why the engine refused to do it."""
    tries: int = 0
    due: datetime | None = None
    """End of a sleep, next try of a step, last moment for an answer; of `calls` and `arrived` when they were."""
    child_id: str | None = None
    version: str | None = None
    """Of the tool whose code wrote it."""
    child: ChildState | None = None
    """The task that a call made, as it stood when the journal was read."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What an attempt waits for when it ends; the first of these to come starts the next one."""

    questions: tuple[Question, ...] = ()
    """To be asked; the last answer counts."""
    due: datetime | None = None
    children: int | None = None
    """How many more of its children must end."""
    message: str = "Waiting"
    """For the client, as the task's status message."""


@dataclass(frozen=True, slots=True)
class Same:
    """Under what a call is found again: an idempotency key of its client's, or its own arguments.

    A task keeps it as long as it is retained. With `window_ms` it counts only while the task lives, and after a success
    until so long after its creation.
    """

    name: str
    """A digest, of the key or of the arguments."""
    window_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """At most `size` tasks that have `key` run at once."""

    key: str
    """Without spaces; of what a client sent it holds a digest only."""
    size: int
    of_argument: bool = False
    """The key digests the value of an argument."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A call to be stored. `arguments` have been checked against the tool's schema."""

    id: str
    owner: str
    tool: str
    queue: str
    arguments: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    """The client's capabilities as declared on this call: they decide what may be asked (A-32)."""
    ttl_ms: int
    poll_interval_ms: int
    """The longest poll interval to suggest."""
    first: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Answers to the tool's `ask_first` questions, by key."""
    nonce: str | None = None
    """Unique once given: a second task with it is not made, the first is returned (M-MRTR-10)."""
    session: str | None = None
    """The 2025-11-25 session that is told of its changes (L-TASK-46)."""
    progress_token: str | int | None = None
    """Of the call that made it; on 2025-11-25 it holds to the task's end (L-PROG-08)."""
    parent: str | None = None
    """The task that calls this one."""
    dedupe: str | None = None
    """Unique among the owner's live tasks: a second task with it is not made, the live one is returned."""
    caller: Identity | None = None
    """On whose behalf it runs, as far as a tool may know; None where nobody was asked."""
    token: AccessToken | None = None
    """The caller's own, for a tool that wants it."""
    same: Same | None = None
    """What makes another call of the owner the same one: it gets this task instead of a second."""
    sensitive: tuple[str, ...] = ()
    """Parameters that operators must not see; `*` for all that the call has to do with."""
    trace: str | None = None
    """The `traceparent` of the call that made it."""
    priority: int = 0
    """What is higher goes first."""
    slots: tuple[Slot, ...] = ()
    """What it counts against while it runs."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as its owner may see it."""

    id: str
    tool: str
    status: Status
    phase: Phase
    attempt: int
    status_message: str | None
    progress: float | None
    progress_total: float | None
    progress_message: str | None
    result: str | None
    """JSON text of the `CallToolResult` members (`content`, …), when completed."""
    is_error: bool
    error: str | None
    """JSON text of the JSON-RPC error object, when failed."""
    created_at: datetime
    updated_at: datetime
    now: datetime
    """The database's clock when the row was read: ages are differences on one clock."""
    ttl_ms: int
    poll_interval_ms: int
    open_questions: tuple[Question, ...] = ()
    session: str | None = None
    progress_token: str | int | None = None

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class Claim:
    """One worker's right to run the task now; `attempt` is the fencing token of all its writes."""

    task_id: str
    attempt: int
    worker_id: str
    tool: str
    owner: str
    queue: str
    arguments: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    first: Mapping[str, Mapping[str, Any]]
    answers: Mapping[str, Answered]
    """Every answered question of the task so far, by key."""
    ran_ms: int
    """Running time of earlier attempts, which counts towards the tool's `timeout`."""
    journal: Mapping[str, Entry] = field(default_factory=dict)
    """What earlier attempts recorded, by path."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The database's clock at the claim."""
    parent: str | None = None
    failures: int = 0
    """Earlier attempts that failed and were tried again."""
    caller: Identity | None = None
    token: AccessToken | None = None
    limits: tuple[str, ...] = ()
    """The keys that it counts against while it runs."""
    trace: str | None = None
    """The `traceparent` of the call that made the task."""


@dataclass(frozen=True, slots=True)
class Doorbell:
    """A job message: the attempt of a task that is due. It carries identifiers, not state."""

    task_id: str
    attempt: int
    queue: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log line of a task. `id` grows; `data` is JSON text."""

    id: int
    level: str
    logger: str | None
    data: str
    at: datetime
