"""What an id of a task looks like, wherever it comes from. Pure."""

from __future__ import annotations

import re

__all__ = ["is_task_id"]

_TASK_ID = re.compile(r"[\x21-\x7e]{1,128}")


def is_task_id(text: str) -> bool:
    """Whether a task could have this id: what the database cannot even be asked for is left out (X-SEC-03)."""
    return _TASK_ID.fullmatch(text) is not None
