"""JSON text in and out of payload columns. Results and errors never pass here: they are text already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["dump", "load"]

_ENCODER = json.JSONEncoder(separators=(",", ":"), default=dict)


def dump(value: Mapping[str, Any] | Sequence[Any] | str | int) -> str:
    """Compact JSON. Characters outside ASCII are escaped, so that no value is refused by a text column."""
    return _ENCODER.encode(value)


def load(text: str) -> Any:
    return json.loads(text)
