"""Every error and signal of the engine. Wire codes for them stand in one table, beside the server's handlers.

Errors say what happened and what to do next; their facts are attributes, and `args` equal the parameters, so
that they survive pickling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "AttemptLost",
    "AttemptReleased",
    "BadAnswer",
    "Busy",
    "CallFailed",
    "ClaimLost",
    "DeclarationError",
    "EngineError",
    "InvalidArguments",
    "IssuerUnavailable",
    "KeyReused",
    "LimitReached",
    "MissingCapability",
    "ProtocolError",
    "Refused",
    "ReplayMismatch",
    "ResultError",
    "SettingsError",
    "Signal",
    "StepFailed",
    "StoreUnavailable",
    "Suspended",
    "TaskCancelled",
    "TaskNotFound",
    "TokenRefused",
    "TooDeep",
    "ToolError",
    "Unanswered",
    "Unreadable",
]


class EngineError(Exception):
    """Base of all errors the engine raises by itself."""


class DeclarationError(EngineError):
    """A tool or engine was declared in a way that cannot work; raised at import, before anything is served."""


class SettingsError(EngineError):
    """A setting is missing or wrong; the message names it."""


class ToolError(EngineError):
    """Raised by a tool: the call ends with an `isError` result whose text is this message (X-TOOL-22)."""


class Refused(ToolError):
    """The client answered a question with an error, for example because its user said no (L-SAMP-12).

    Raised where the tool asked; if it is not caught, the call ends with an `isError` result that says so.
    """

    def __init__(self, key: str, code: int, message: str) -> None:
        super().__init__(key, code, message)
        self.key, self.code, self.message = key, code, message

    def __str__(self) -> str:
        return f"The client refused: {self.message} ({self.code})"


class Unanswered(ToolError):
    """Nobody answered a question by the time given for it (`answer_by`), and it has no default.

    Raised where the tool asked; if it is not caught, the call ends with an `isError` result that says so.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"Nobody answered in time (question {self.key!r})"


class CallFailed(ToolError):
    """A tool that this one called did not give a result: it failed, or was cancelled, or the result is an error.

    Raised by `ctx.call_tool`; if it is not caught, the call ends with an `isError` result that says so.
    """

    def __init__(self, tool: str, task_id: str, status: str, message: str) -> None:
        super().__init__(tool, task_id, status, message)
        self.tool, self.task_id, self.status, self.message = tool, task_id, status, message

    def __str__(self) -> str:
        return f"{self.tool} {self.status}: {self.message}"


class TooDeep(ToolError):
    """Calls of tools by tools by tools have no end, as it seems: one more is not made.

    Raised by `ctx.call_tool`; if it is not caught, the call ends with an `isError` result that says so.
    """


class StepFailed(EngineError):
    """A step raised, and its tries are used up. `error` is the name of the exception's class, `message` its text.

    A later attempt that comes to the step raises the same again, without running it.
    """

    def __init__(self, step: str, error: str, message: str, tries: int) -> None:
        super().__init__(step, error, message, tries)
        self.step, self.error, self.message, self.tries = step, error, message, tries

    def __str__(self) -> str:
        times = "" if self.tries == 1 else f" {self.tries} times"
        return f"the step {self.step!r} failed{times}: {self.error}: {self.message}".removesuffix(": ")


class ProtocolError(EngineError):
    """Raised by a tool: the call ends with this JSON-RPC error; a task becomes `failed` (M-TASK-37).

    `code` should be outside -32768 to -32000 unless the specification defines it (M-BASE-15).
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code, self.message, self.data = code, message, data

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class MissingCapability(ProtocolError):
    """The tool asked for something the client did not declare on the call (M-CAP-02, M-TASK-58).

    `data.requiredCapabilities` is a `ClientCapabilities` object that holds what is missing (M-CAP-03).
    """

    CODE = -32021

    def __init__(self, required: dict[str, Any]) -> None:
        names = ", ".join(sorted(_paths(required)))
        super().__init__(
            self.CODE,
            f"This call needs a client capability that was not declared: {names}",
            {"requiredCapabilities": required},
        )
        self.args = (required,)
        self.required = required


class ReplayMismatch(ProtocolError):
    """A later attempt did something else than an earlier one at the same place: the journal cannot be used for it.

    No `except` of a tool gets past it: whatever the tool does then, the task fails with it.
    """

    CODE = -31002

    def __init__(self, place: str, before: str, now: str, advice: str) -> None:
        super().__init__(self.CODE, f"The tool {now} where an earlier attempt {before} ({place}): {advice}")
        self.args = (place, before, now, advice)
        self.place, self.before, self.now = place, before, now


class InvalidArguments(EngineError):
    """The arguments do not fit the tool's input schema; the message tells a model what to correct (X-TOOL-21)."""


class ResultError(EngineError):
    """What the tool returned cannot be a result: not serialisable, outside its schema, or too large."""


class BadAnswer(EngineError):
    """An answer does not fit its question; the question stays open (M-TASK-59)."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"the answer to {self.key!r} does not fit: {self.reason}"


class TaskNotFound(EngineError):
    """No such task for this caller: never made, expired, or another's. One error, one message (X-SEC-03)."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return "Unknown or expired task"


class KeyReused(EngineError):
    """The caller has used this idempotency key for another call. Nothing was made."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return (
            "This idempotency key was used for another tool or other arguments: give each call a key of its own, and "
            f"the same key only to its repetition (task {self.task_id})"
        )


class ClaimLost(EngineError):
    """A newer attempt owns the task, or it is terminal: drop the work, write nothing."""

    def __init__(self, task_id: str, attempt: int) -> None:
        super().__init__(task_id, attempt)
        self.task_id, self.attempt = task_id, attempt

    def __str__(self) -> str:
        return f"task {self.task_id}: attempt {self.attempt} is no longer current"


class LimitReached(EngineError):
    """What was asked is more than the caller may have; nothing was changed. `limit` names the limit for programs."""

    CODE = -31010

    def __init__(self, limit: str, reason: str, retry_after_s: float) -> None:
        super().__init__(limit, reason, retry_after_s)
        self.limit, self.reason, self.retry_after_s = limit, reason, retry_after_s

    @property
    def retry_after(self) -> int:
        """Whole seconds, at least one, after which to try again."""
        return max(1, math.ceil(self.retry_after_s))

    def __str__(self) -> str:
        return f"{self.reason}. Try again in {self.retry_after} s"


class Busy(LimitReached):
    """The server has as much as it takes, whoever asks; what it has accepted is not touched by it."""

    CODE = -31011


class StoreUnavailable(EngineError):
    """Postgres cannot be reached or refused the work for now; nothing was changed, try again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the database is not available ({self.reason})"


class TokenRefused(EngineError):
    """A token is not accepted; `reason` is a sentence for its client, and holds nothing of the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class IssuerUnavailable(EngineError):
    """An authorization server cannot be asked now: whether a token is good is not known."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"the authorization server cannot be asked at {self.place}: {self.reason}"


class Unreadable(EngineError):
    """A stored text is sealed under a key that is not here, or was tampered with. Nothing was changed.

    `row` is the id of the task, or of what else holds the text; `field` says which of its texts.
    """

    def __init__(self, row: str, field: str, why: str) -> None:
        super().__init__(row, field, why)
        self.row, self.field, self.why = row, field, why

    def __str__(self) -> str:
        return (
            f"{self.field} of {self.row} cannot be read: {self.why}. Keys that are still in use belong in "
            "TASKENGINE_ENCRYPTION_KEYS of every process, after the newest"
        )


class Signal(BaseException):
    """Ends an attempt through a tool's own `except Exception`; only the execution package catches it."""


class Suspended(Signal):
    """The attempt is over: what it waits for is stored, and its coming starts the next one."""


class AttemptReleased(Signal):
    """The worker drains: the task goes on elsewhere."""


class AttemptLost(Signal):
    """The engine itself failed in a call of the context: the attempt counts as lost, and the task goes on."""


class TaskCancelled(Signal):
    """The task was cancelled; raised in a sync tool (an async tool gets `asyncio.CancelledError`)."""


def _paths(required: Mapping[str, Any]) -> Iterator[str]:
    """`sampling.tools`: the innermost names, each with where it stands."""
    for name, parts in required.items():
        yield from [f"{name}.{part}" for part in _paths(parts)] if isinstance(parts, Mapping) and parts else [name]
