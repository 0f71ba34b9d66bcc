"""What tools did, written by them outside the engine: one line per event, in one file per run.

A line is appended by one `write` of less than a page, which the kernel does not mix with others.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson

__all__ = ["Entry", "Ledger", "write"]


@dataclass(frozen=True, slots=True)
class Entry:
    """`event` is start, end, step, child, fired; `note` is what else there is to say; `at_s` is Unix time."""

    event: str
    task_id: str
    attempt: int
    pid: int
    at_s: float
    note: str = ""


def write(path: Path, event: str, task_id: str, attempt: int, note: str = "") -> None:
    # The kernel's clock: `time.time` is another in the processes whose clock is wrong on purpose.
    line = orjson.dumps([event, task_id, attempt, os.getpid(), time.clock_gettime(time.CLOCK_REALTIME), note])
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line + b"\n")
    finally:
        os.close(descriptor)


class Ledger:
    """The reader. `refresh` takes in what has been written since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.of: dict[str, list[Entry]] = defaultdict(list)
        self._offset = 0
        path.touch()

    def refresh(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.add(Entry(*orjson.loads(line)) for line in whole.splitlines())

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.entries.append(entry)
            self.of[entry.task_id].append(entry)

    def starts(self, task_id: str) -> list[Entry]:
        """One entry per run of the task's function, in order of attempts."""
        return sorted((entry for entry in self.of[task_id] if entry.event == "start"), key=lambda entry: entry.attempt)
