"""JSON text in and out of payload columns. Results and errors never pass here: they are text already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["dump", "load"]


def dump(value: Mapping[str, Any] | Sequence[Any] | str | int) -> str:
    """Compact JSON. Characters outside ASCII are escaped, so that no value is refused by a text column."""
    return json.dumps(value, separators=(",", ":"), default=dict)


def load(text: str) -> Any:
    return json.loads(text)
