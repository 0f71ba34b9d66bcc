"""Durations as people write them: "90s", "6h", "7d", "1h30m", or a timedelta."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator

__all__ = ["Duration", "DurationLike", "describe", "milliseconds", "parse_duration"]

DurationLike = str | timedelta

_MILLISECOND = timedelta(milliseconds=1)
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LONGEST_TEXT = 100
"""Characters. An endpoint's address may hold a duration: to look for the parts of one takes time by the square of its
length, and nobody's request may hold up the others."""
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])")


def parse_duration(value: DurationLike) -> timedelta:
    """A non-negative timedelta. Raises ValueError with a sentence that shows how to write one."""
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise ValueError(f'a text of {len(value)} characters is no duration: write "90s", "15m" or "1h30m"')
        text = value.strip().lower()
        parts = _PART.findall(text)
        if text != "0" and (not parts or _PART.sub("", text).strip()):
            raise ValueError(f'{value!r} is not a duration: write "90s", "15m", "6h", "7d" or "1h30m"')
        try:
            duration = timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
        except OverflowError:
            raise ValueError(f"{value!r} is longer than any time that can be told: give a shorter duration") from None
    else:
        raise ValueError(f'{value!r} is not a duration: give text such as "90s", or a timedelta')
    if duration < timedelta(0):
        raise ValueError(f"{value!r} is negative: a duration is zero or more")
    return duration


def milliseconds(duration: timedelta) -> int:
    return duration // _MILLISECOND


def describe(duration: timedelta) -> str:
    """Short text for people: "6h", "1m 30s", "250ms"."""
    if duration < timedelta(seconds=1):
        return f"{milliseconds(duration)}ms"
    seconds = round(duration.total_seconds())
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
"""A pydantic field of that form, for settings."""
