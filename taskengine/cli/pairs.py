"""Values on the command line: `key=text`, and `key:=json` for everything that is not text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from taskengine.errors import SettingsError

__all__ = ["read_pairs"]


def read_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """The values by name. Raises SettingsError for what is not a pair, and for a name given twice."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        as_json = name.endswith(":")
        name = name.removesuffix(":")
        if not found or not name:
            raise SettingsError(f"{pair!r} is not a value: write name=text, or name:=json for numbers, lists and so on")
        if name in values:
            raise SettingsError(f"{name} is given twice")
        values[name] = _json(name, text) if as_json else text
    return values


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{name}:={text} is not JSON ({error}): write {name}={text} for text") from None
