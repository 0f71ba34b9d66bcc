"""Describe a large CSV file: a `def` tool, run in a process of its own, that asks which columns matter.

taskengine dev examples/describe_table.py
taskengine call describe_table path=/data/sales.csv

It takes any path that its account may: for others than yourself, confine it, as `_allowed` in workers/demo.py does.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from taskengine import SyncContext, TaskEngine, ToolError

engine = TaskEngine("tables")

EVERY_ROWS = 20_000


class Column(BaseModel):
    name: str
    filled: int
    numbers: int
    least: float | None = None
    greatest: float | None = None
    mean: float | None = None
    deviation: float | None = None


class Description(BaseModel):
    rows: int
    columns: list[Column]


class _Running:
    """Mean and deviation of numbers that come one by one (Welford)."""

    def __init__(self) -> None:
        self.filled = self.count = 0
        self.mean = self.squares = 0.0
        self.least, self.greatest = math.inf, -math.inf

    def add(self, text: str) -> None:
        if not text:
            return
        self.filled += 1
        try:
            number = float(text)
        except ValueError:
            return
        if not math.isfinite(number):
            return
        self.count += 1
        step = number - self.mean
        self.mean += step / self.count
        self.squares += step * (number - self.mean)
        self.least, self.greatest = min(self.least, number), max(self.greatest, number)

    def column(self, name: str) -> Column:
        if not self.count:
            return Column(name=name, filled=self.filled, numbers=0)
        deviation = math.sqrt(self.squares / self.count)
        numbers: dict[str, Any] = {"least": self.least, "greatest": self.greatest, "mean": self.mean}
        return Column(name=name, filled=self.filled, numbers=self.count, deviation=deviation, **numbers)


@engine.tool(ttl="7d", timeout="6h")
def describe_table(
    path: Annotated[str, Field(description="A CSV file with a header line.")], ctx: SyncContext
) -> Description:
    """Count, range, mean and deviation of the columns of a CSV file of any size."""
    file = Path(path)
    if not file.is_file():
        raise ToolError(f"There is no file {path}.")
    size = file.stat().st_size
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as source:
        names = next(csv.reader([source.readline()]), [])
    if not names:
        raise ToolError(f"{path} has no header line.")
    # Asked before the long part: everything above runs again with the answer, and costs nothing.
    answer = ctx.elicit("Which columns shall be described?", _choice(names))
    chosen = (answer.data or {}).get("columns") if answer.accepted else names
    wanted = {name: _Running() for name in chosen or names}
    rows = done = 0
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as source:
        for row in csv.DictReader(source):
            rows += 1
            done += sum(len(value) + 1 for value in row.values() if isinstance(value, str))
            for name, column in wanted.items():
                column.add((row.get(name) or "").strip())
            if rows % EVERY_ROWS == 0:
                ctx.progress(min(done, size), size, f"{rows} rows")
    return Description(rows=rows, columns=[column.column(name) for name, column in wanted.items()])


def _choice(names: list[str]) -> dict[str, Any]:
    """A form that is only known at run time is given as its schema."""
    field = {"type": "array", "title": "Columns", "items": {"type": "string", "enum": names}, "default": names}
    return {"type": "object", "properties": {"columns": field}}
