"""Secrets for tests to use, all with one mark in them, so that a look at every log file finds any that got out.

`plant` gives a secret of that name. At the end of a run `tests/conftest.py` reads what every process of the tests has
written, and what was logged in the test process itself, and looks for the mark.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MARK", "found_in", "plant", "plant_key"]

MARK = "zq7planted"
"""Seven and more characters that stand in no word; also valid in base64, in a URL and in a token."""
AROUND = 60


def plant(name: str) -> str:
    """A secret that says its name when it is found."""
    return f"{MARK}-{name}"


def plant_key(name: str) -> str:
    """The base64 of 32 bytes, which begins with the mark."""
    text = f"{MARK}{''.join(each for each in name if each.isalnum())}".ljust(43, "A")[:43]
    return base64.b64encode(base64.b64decode(f"{text}=")).decode()


def found_in(folder: Path) -> Iterator[str]:
    """Where the mark stands in log files below the folder: file, and the line around it."""
    for path in sorted(folder.rglob("*.log")):
        if path.is_file():
            text = path.read_text("utf-8", "replace")
            start = text.find(MARK)
            if start >= 0:
                yield f"{path.name}: …{text[max(0, start - AROUND) : start + AROUND]!r}…"
