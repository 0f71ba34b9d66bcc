"""What a client call comes to: an outcome, a task as the server reports it, or an error."""

from __future__ import annotations

import re
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
    "error_of",
    "question_of",
    "questions_of",
    "without_secrets",
]

_DEFAULT_POLL = timedelta(seconds=1)
"""For servers that suggest no interval."""
_LONGEST_POLL_MS = 3_600_000
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")


class RemoteError(EngineError):
    """The server answered with a JSON-RPC error, at once or as the end of the task `task_id`."""

    def __init__(self, code: int, message: str, data: Any = None, task_id: str | None = None) -> None:
        super().__init__(code, message, data, task_id)
        self.code, self.message, self.data, self.task_id = code, message, data, task_id

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class ServerUnreachable(EngineError):
    """No answer, or one that is not MCP; whether the request took effect is unknown. `status` is that of HTTP, if
    there was one. User, password and query of the URL are left out: they may be secrets."""

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        url = without_secrets(url)
        super().__init__(url, reason, status)
        self.url, self.reason, self.status = url, reason, status

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
    """A task as the server last reported it. A tool's own error is a completed task whose result says `isError`, on
    every revision."""

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
    def parse(cls, wire: Mapping[str, Any], interval_member: str = "pollIntervalMs") -> Remote:
        """From the task object of any revision. Raises ValueError for what is none."""
        task_id, status, message = wire.get("taskId"), wire.get("status"), wire.get("statusMessage")
        if not isinstance(task_id, str) or not task_id or not isinstance(status, str):
            raise ValueError("a task without taskId or status")
        given = wire.get(interval_member)
        interval = _DEFAULT_POLL
        if isinstance(given, (int, float)) and given >= 0:
            interval = timedelta(milliseconds=min(given, _LONGEST_POLL_MS))
        return cls(
            id=task_id,
            status=Status(status),
            message=message if isinstance(message, str) else None,
            poll_interval=interval,
            questions=questions_of(wire),
            result=_object(wire.get("result")),
            error=_object(wire.get("error")),
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
        return "\n".join(str(block.get("text", "")) for block in self.blocks if block.get("type") == "text")

    @property
    def blocks(self) -> list[Mapping[str, Any]]:
        """The content blocks; what is none is left out."""
        content = self.result.get("content")
        return [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []

    @property
    def structured(self) -> Any:
        return self.result.get("structuredContent")


def questions_of(wire: Mapping[str, Any]) -> tuple[Question, ...]:
    """The open questions in a task or an `InputRequiredResult`. Raises ValueError for what is none."""
    requests = wire.get("inputRequests") or {}
    if not isinstance(requests, Mapping):
        raise ValueError("inputRequests is no object")
    return tuple(question_of(key, request) for key, request in requests.items())


def question_of(key: str, request: object) -> Question:
    """A request of the server as a question. Raises ValueError for what is none."""
    if not isinstance(request, Mapping) or not isinstance(request.get("method"), str):
        raise ValueError("a question without a method")
    params = request.get("params") or {}
    if not isinstance(params, Mapping):
        raise ValueError("a question whose params are no object")
    return Question(key, request["method"], params)


def error_of(wire: object, task_id: str | None = None) -> RemoteError:
    """The JSON-RPC error object as an exception, whatever is missing in it."""
    found = wire if isinstance(wire, Mapping) else {}
    code = found.get("code")
    message = found.get("message")
    return RemoteError(
        code if isinstance(code, int) else -32603,
        message if isinstance(message, str) and message else "an error without a message",
        found.get("data"),
        task_id,
    )


def without_secrets(url: str) -> str:
    """The URL as it may be shown: without user, password and query; and nothing of one whose password may have
    characters that end it."""
    scheme, found, rest = url.partition("://")
    if not found:
        return url.partition("?")[0]
    host, slash, path = rest.partition("?")[0].partition("/")
    shown = host.rpartition("@")[2]
    if "@" in rest and not _HOST.fullmatch(shown):
        return f"{scheme}://…"
    return f"{scheme}://{shown}{slash}{path}"


def _object(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None
