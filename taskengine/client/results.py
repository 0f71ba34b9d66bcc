"""What a client call comes to: an outcome, a task as the server reports it, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from taskengine.errors import EngineError
from taskengine.lifecycle import TERMINAL, Status
from taskengine.records import Question

__all__ = [
    "Outcome",
    "Progress",
    "QuestionFirst",
    "Remote",
    "RemoteError",
    "ServerUnreachable",
    "questions_of",
]

_DEFAULT_POLL = timedelta(seconds=1)
"""For servers that suggest no interval."""


class RemoteError(EngineError):
    """The server answered with a JSON-RPC error, at once or as the end of the task `task_id`."""

    def __init__(self, code: int, message: str, data: Any = None, task_id: str | None = None) -> None:
        super().__init__(code, message, data, task_id)
        self.code, self.message, self.data, self.task_id = code, message, data, task_id

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class ServerUnreachable(EngineError):
    """No answer, or one that is not MCP; whether the request took effect is unknown."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"{self.url} gave no answer: {self.reason}"


class QuestionFirst(EngineError):
    """The tool asks before it begins, and there was nobody to answer: give `submit` an `on_question`."""

    def __init__(self, tool: str, questions: tuple[Question, ...]) -> None:
        super().__init__(tool, questions)
        self.tool, self.questions = tool, questions

    def __str__(self) -> str:
        asked = "; ".join(str(question.params.get("message", question.method)) for question in self.questions)
        return f"{self.tool} asks before it begins: {asked}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is. A task of 2026-07-28 has a message only (M-PROG-07)."""

    message: str | None
    progress: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Remote:
    """A task as the server last reported it."""

    id: str
    status: Status
    message: str | None
    poll_interval: timedelta
    questions: tuple[Question, ...]
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    wire: Mapping[str, Any]
    """The task object itself."""

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @classmethod
    def parse(cls, wire: Mapping[str, Any]) -> Remote:
        interval = wire.get("pollIntervalMs")
        return cls(
            id=wire["taskId"],
            status=Status(wire["status"]),
            message=wire.get("statusMessage"),
            poll_interval=_DEFAULT_POLL if interval is None else timedelta(milliseconds=interval),
            questions=questions_of(wire),
            result=wire.get("result"),
            error=wire.get("error"),
            wire=wire,
        )

    @classmethod
    def ended(cls, outcome: Outcome) -> Remote:
        """What a call looks like that ended without becoming a task; it has no id."""
        return cls("", outcome.status, None, _DEFAULT_POLL, (), outcome.result, None, {})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, or where it stands when it waits for answers nobody was there to give."""

    status: Status
    result: Mapping[str, Any]
    """The members of `CallToolResult`; empty unless completed."""
    task_id: str | None = None
    questions: tuple[Question, ...] = field(default=())

    @property
    def is_error(self) -> bool:
        return bool(self.result.get("isError"))

    @property
    def text(self) -> str:
        """The text blocks, one after the other."""
        return "\n".join(block["text"] for block in self.result.get("content", ()) if block.get("type") == "text")

    @property
    def structured(self) -> Any:
        return self.result.get("structuredContent")


def questions_of(wire: Mapping[str, Any]) -> tuple[Question, ...]:
    """The open questions in a task or an `InputRequiredResult`."""
    requests: Mapping[str, Any] = wire.get("inputRequests") or {}
    return tuple(Question(key, request["method"], request.get("params") or {}) for key, request in requests.items())
