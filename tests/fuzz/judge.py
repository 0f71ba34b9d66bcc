"""What must hold of every answer, however wrong the request was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.inputs import Input

__all__ = ["Answer", "code_of", "created", "problem"]

STATUSES = {200, 202, 204, 400, 401, 403, 404, 405, 406, 408, 409, 413, 415, 429, 431}
INTERNAL_ERROR = -32603
INTERNAL_TEXT = (
    "Traceback",
    'File "',
    "site-packages",
    "taskengine.",
    "sqlalchemy",
    "asyncpg",
    "cryptography",
    "celery",
    "starlette",
    "NoneType",
    "object at 0x",
    "SELECT ",
    "INSERT ",
)
"""What no client is to see of us, unless it has sent it itself."""


@dataclass
class Answer:
    """What came of an input; `left` when its client went away before the end."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    left: bool = False
    error: str | None = None
    """What our side raised."""

    @property
    def is_stream(self) -> bool:
        return (b"content-type", b"text/event-stream") in self.headers

    def messages(self) -> Iterator[Any]:
        """Raises ValueError for what is no JSON."""
        if self.is_stream:
            for block in self.body.split(b"\n\n"):
                for line in block.split(b"\n"):
                    if line.startswith(b"data:") and line[5:].strip():
                        yield json.loads(line[5:])
        elif self.body:
            yield json.loads(self.body)


def responses(answer: Answer) -> Iterator[dict[str, Any]]:
    """Those to the client's own requests; several of a batch."""
    for message in answer.messages():
        for each in message if isinstance(message, list) else [message]:
            if isinstance(each, dict) and ("result" in each or "error" in each):
                yield each


def problem(given: Input, answer: Answer) -> str | None:
    """What is wrong with the answer, in one sentence."""
    if answer.error is not None:
        return f"raised {answer.error}"
    if answer.left and not answer.status:
        return None
    if answer.status not in STATUSES:
        return f"has status {answer.status}"
    if any(b"\r" in part or b"\n" in part or b"\0" in part for pair in answer.headers for part in pair):
        return "has a header with an end of line in it"
    try:
        said = list(responses(answer))
    except ValueError as error:
        return f"is no JSON: {error}"
    if not answer.is_stream and b"\n" in answer.body:
        return "is more than one line"
    for each in said:
        if each.get("error", {}).get("code") == INTERNAL_ERROR:
            return f"is an internal error: {each['error'].get('message')}"
    sent = given.body.decode(errors="replace") + str(given.headers)
    told = answer.body.decode(errors="replace")
    for text in INTERNAL_TEXT:
        if text in told and text not in sent:
            return f"tells of {text}"
    return None


def code_of(answer: Answer) -> str:
    """A word for the summary."""
    if answer.left and not answer.status:
        return "left without an answer"
    try:
        codes = {str(each.get("error", {}).get("code", "result")) for each in responses(answer)}
    except ValueError:
        codes = {"?"}
    return f"{answer.status} {' '.join(sorted(codes))}".strip()


def created(answers: Iterable[Answer]) -> tuple[set[str], int]:
    """The tasks that answers name as new, and how many more calls may have made one without naming it."""
    named: set[str] = set()
    unnamed = 0
    for answer in answers:
        said = list(responses(answer))
        for each in said:
            result = each.get("result")
            if not isinstance(result, dict):
                continue
            task = result.get("task")
            if result.get("resultType") == "task" and isinstance(result.get("taskId"), str):
                named.add(result["taskId"])
            elif isinstance(task, dict) and "taskId" in task:
                named.add(task["taskId"])
            elif "content" in result:  # perhaps of a call that ended before its task, which it names in words
                unnamed += 1
        if answer.left:
            unnamed += 5  # what of a batch was not answered yet
    return named, unnamed
