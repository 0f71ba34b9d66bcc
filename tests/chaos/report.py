"""The table of a run, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.quantiles import quantile
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
        """A bar that nothing was measured against is not kept."""
        if self.wrong or self.fault.bar_s is None:
            return not self.wrong
        return self.measured and quantile(self.recoveries_s, self.fault.within) <= self.fault.bar_s

    @property
    def measured(self) -> bool:
        return bool(self.recoveries_s)

    @property
    def verdict(self) -> str:
        if self.holds:
            return "yes"
        return "NO" if self.wrong or self.measured else "not measured"

    @property
    def bar(self) -> str:
        """The criterion in words."""
        if self.fault.bar_s is None:
            return ""
        share = "" if self.fault.within == 1 else f"p{self.fault.within * 100:g} "
        return f"{share}≤ {self.fault.bar_s:g} s"


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


def table(all_lines: Sequence[Line], lost: int, wrong: int, left_out: Mapping[str, str] | None = None) -> str:
    """Markdown. Lost and wrong are of the whole run: a task meets several faults. `left_out` says of faults that could
    not be injected why."""
    rows = [
        "| Fault | Injections | Tasks | Recovery p50 | p95 | p99 | most | Criterion | Holds |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for line in all_lines:
        times = [f"{quantile(line.recoveries_s, share):.2f} s" for share in (0.5, 0.95, 0.99, 1.0)]
        cells = [line.fault.name, line.injections, line.tasks, *(times if line.measured else [""] * 4), line.bar]
        rows.append(f"| {' | '.join(map(str, cells))} | {line.verdict} |")
    rows += [f"| {name} | 0 | | | | | | | left out: {why} |" for name, why in (left_out or {}).items()]
    injections, tasks = sum(line.injections for line in all_lines), sum(line.tasks for line in all_lines)
    rows.append(f"| all | {injections} | {tasks} | | | | | {lost} lost, {wrong} wrong | |")
    return "\n".join(rows)
