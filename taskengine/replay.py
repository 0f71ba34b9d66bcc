"""Whether a later attempt asks what an earlier one did. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from taskengine.errors import ReplayMismatch
from taskengine.records import Question

__all__ = ["check_replay"]


def check_replay(before: Question, now: Question) -> None:
    """Raises ReplayMismatch unless both ask exactly the same: consent to one sentence is not consent to another."""
    if before.method != now.method or _as_json(before.params) != _as_json(now.params):
        raise ReplayMismatch(now.key, _wording(before), _wording(now))


def _as_json(params: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(params, default=dict))


def _wording(question: Question) -> str:
    message = question.params.get("message")
    return f"{message!r}" if isinstance(message, str) else question.method
