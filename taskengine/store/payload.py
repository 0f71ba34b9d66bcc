"""JSON text in and out of payload columns, and questions with it. Results and errors are text already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from taskengine.records import Question
from taskengine.store.sealing import Sealing

__all__ = ["dump", "load", "questions_of"]

_encode = json.JSONEncoder(separators=(",", ":"), default=dict).encode


def dump(value: Mapping[str, Any] | Sequence[Any] | str | int) -> str:
    """Compact JSON. Characters outside ASCII are escaped, so that no value is refused by a text column."""
    return _encode(value)


def load(text: str) -> Any:
    return json.loads(text)


def questions_of(sealing: Sealing, task_id: str, rows: Sequence[Sequence[str]] | None) -> tuple[Question, ...]:
    """The questions of a task from their stored key, method and params. Raises Unreadable."""
    return tuple(
        Question(key, method, load(sealing.open(task_id, f"question {key}", params)))
        for key, method, params in rows or ()
    )
