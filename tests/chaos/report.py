"""The table of a run, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.run import Fault, Injection

__all__ = ["Line", "lines", "table"]


@dataclass(frozen=True, slots=True)
class Line:
    fault: Fault
    injections: int
    tasks: int
    wrong: tuple[str, ...]
    recoveries_s: tuple[float, ...]

    @property
    def holds(self) -> bool:
        return not self.wrong and (self.fault.bar_s is None or quantile(self.recoveries_s, 0.95) <= self.fault.bar_s)


def lines(injections: Iterable[Injection]) -> list[Line]:
    """One per fault, in the order of their first injection."""
    by_fault: dict[str, list[Injection]] = {}
    for injection in injections:
        by_fault.setdefault(injection.fault.name, []).append(injection)
    return [
        Line(
            done[0].fault,
            len(done),
            sum(injection.tasks for injection in done),
            tuple(injection.wrong for injection in done if injection.wrong),
            tuple(sorted(time for injection in done for time in injection.recoveries_s)),
        )
        for done in by_fault.values()
    ]


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest rank; 0 of nothing. `values` are sorted."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def table(all_lines: Sequence[Line], lost: int, wrong: int) -> str:
    """Markdown. Lost and wrong are of the whole run: a task meets several faults."""
    rows = [
        "| Fault | Injections | Tasks | Recovery p50 | p95 | p99 | Criterion | Holds |",
        "| --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for line in all_lines:
        times = [f"{quantile(line.recoveries_s, share):.2f} s" for share in (0.5, 0.95, 0.99)]
        bar = "" if line.fault.bar_s is None else f"p95 ≤ {line.fault.bar_s:g} s"
        cells = [line.fault.name, line.injections, line.tasks, *(times if line.recoveries_s else ["", "", ""]), bar]
        rows.append(f"| {' | '.join(map(str, cells))} | {'yes' if line.holds else 'NO'} |")
    injections, tasks = sum(line.injections for line in all_lines), sum(line.tasks for line in all_lines)
    rows.append(f"| all | {injections} | {tasks} | | | | {lost} lost, {wrong} wrong | |")
    return "\n".join(rows)
