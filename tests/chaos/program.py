"""A run from its plan to its verdict."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskengine import Context
from tests.chaos import (
    faults_broker,
    faults_database,
    faults_points,
    faults_processes,
    faults_rabbit,
    faults_races,
    faults_schema,
    faults_soak,
)
from tests.chaos.audit import SELECT, Audit, Row, audit
from tests.chaos.clean import descriptors, idle_problems, stopped_problems
from tests.chaos.client import View
from tests.chaos.journals import SELECT_JOURNAL, Record
from tests.chaos.ledger import Ledger
from tests.chaos.load import Load
from tests.chaos.quantiles import quantile
from tests.chaos.report import lines, table
from tests.chaos.run import LEFT_OUT, Fault, Injection, Run
from tests.chaos.site import Site

__all__ = ["PHASES", "Plan", "Verdict", "perform"]

PHASES = ("processes", "points", "broker", "races", "database", "slow", "restart", "calm")
"""In this order. Whoever died is only believed dead when Postgres has run for a lease: so its restarts come last."""
MODULES = (
    faults_broker,
    faults_database,
    faults_points,
    faults_processes,
    faults_rabbit,
    faults_races,
    faults_schema,
    faults_soak,
)
PAUSE_S = 1.0
PATIENCE_S = 90.0
WAKE_S = 1.0
"""How late a sleeper may wake at most, by Postgres' clock."""
WAKE_SHARES = {"p50": 0.5, "p99": 0.99, "at most": 1.0}
AFTERWARDS_S = 3.0
"""A fault that took something away may still be felt so long after it is over."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`tasks`: the load goes on after the last injection until there were so many. `options`: settings."""

    seed: int
    faults: Sequence[Fault]
    length: float = 1.0
    tasks: int = 0
    clients: int = 24
    messages_too: bool = True
    """Wait also until the broker has nothing left, which takes a minute after the last kill."""
    options: dict[str, Any] = field(default_factory=dict)
    everything: bool = False
    """Every fault is meant: what cannot be injected is said."""

    def left_out(self) -> dict[str, str]:
        """Faults that this plan would have but for what is missing, and why."""
        if not self.everything:
            return {}
        short = {
            fault.name: f"needs --length {fault.least_length:g}"
            for fault in self.faults
            if self.length < fault.least_length
        }
        return LEFT_OUT | short

    def order(self) -> list[Fault]:
        """Every injection, shuffled within its phase."""
        rng, order = random.Random(self.seed), []
        for phase in PHASES:
            here = [
                fault
                for fault in self.faults
                if fault.phase == phase and self.length >= fault.least_length
                for _ in range(max(1, round(fault.share * self.length)))
            ]
            rng.shuffle(here)
            order += here
        return order


@dataclass(slots=True)
class Verdict:
    seed: int
    audit: Audit
    injections: list[Injection]
    problems: list[str]
    """What was left over."""
    errors: list[str]
    """Requests without an answer at a time when nothing was broken."""
    events: list[str]
    seconds: float
    unjudged: int
    """Outages that took longer than they were to."""
    lag_s: float
    """By how much the harness woke late, at p99."""
    left_out: dict[str, str]
    """Faults that were not injected, and why."""
    length: float
    wakes_s: tuple[float, ...]
    """How late sleepers woke while every service and worker was there, sorted."""

    @property
    def table(self) -> str:
        return table(lines(self.injections), len(self.audit.lost), len(self.audit.wrong), self.left_out)

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing wrong, nothing left over; whatever the times were."""
        return self.audit.clean and not self.problems and not any(each.wrong for each in self.injections)

    @property
    def holds(self) -> bool:
        return self.sound and self.wakes_in_time and all(line.holds for line in lines(self.injections))

    @property
    def wakes_in_time(self) -> bool:
        return all(late_s <= WAKE_S for late_s in self.wakes_s)

    def text(self) -> str:
        """What is to be read at the end; with the seed and all that was done when it does not hold."""
        parts = [] if self.sound else ["events:", *self.events]
        parts += [self.table, "", *self.problems_found(), *self.summary()]
        return "\n".join(parts)

    def section(self, machine: str) -> str:
        """For the operators' page: how it was measured, what came of it, and the table."""
        when = f"{time.strftime('%d %B %Y').lstrip('0')}, {machine}, default settings; `python -m tests.chaos --seed"
        head = f"{when} {self.seed} --length {self.length:g}`."
        bad = [f"- {each}" for each in self.problems_found()]
        summary = [f"{each[0].upper()}{each[1:]}." for each in self.summary()]
        return "\n\n".join(filter(None, [head, "\n".join(bad), "\n\n".join(summary), self.table]))

    def problems_found(self) -> list[str]:
        """One sentence each; none of a run that is sound, and was answered and given up on nowhere."""
        parts: list[str] = []
        parts += [f"lost: {each}" for each in self.audit.lost]
        parts += [f"wrong: {each}" for each in self.audit.wrong]
        parts += [f"wrong: {each.fault.name}: {each.wrong}" for each in self.injections if each.wrong]
        parts += [f"left over: {each}" for each in self.problems]
        parts += [f"given up after three lost attempts: {each}" for each in self.audit.given_up]
        return parts + [f"unanswered: {each}" for each in self.errors[:20]]

    def summary(self) -> list[str]:
        """The totals, in a few sentences."""
        parts = []
        tools = ", ".join(f"{count} {tool}" for tool, count in self.audit.by_tool.most_common())
        parts.append(f"{self.audit.tasks} tasks in {self.audit.attempts} attempts: {tools}")
        late = ", ".join(f"{name} {quantile(self.wakes_s, share):.2f} s" for name, share in WAKE_SHARES.items())
        parts.append(
            f"{len(self.wakes_s)} of {len(self.audit.wakes)} sleepers were due at quiet times; they woke late by {late}"
            f" ({'at most 1 s was asked' if self.wakes_in_time else 'MORE THAN 1 s'})"
        )
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        parts.append(
            f"{os.cpu_count()} cores, load averages {load}; the harness itself woke up to {self.lag_s:.2f} s late (p99)"
        )
        if self.unjudged:
            parts.append(
                f"{self.unjudged} outages took too long to tell whether running tools survive one as it was meant"
            )
        parts.append(
            f"{len(self.injections)} injections, {len(self.audit.lost)} lost, {len(self.audit.wrong)} wrong,"
            f" {len(self.problems)} left over, {len(self.errors)} requests unanswered at quiet times;"
            f" seed {self.seed}, {self.seconds:.0f} s: {'it holds' if self.holds else 'IT DOES NOT HOLD'}"
        )
        return parts


async def perform(
    plan: Plan, folder: Path, *, say: Callable[[str], None], afterwards: Callable[[Run], Any] | None = None
) -> Verdict:
    """Run the plan over `folder`, which must be empty. `afterwards` sees the run before its processes are stopped."""
    began = time.monotonic()
    folder.chmod(0o755)
    order = plan.order()
    say(f"seed {plan.seed}: {len(order)} injections into {plan.clients} clients' load")
    async with Site(folder, **plan.options) as site:
        ledger = Ledger(folder / "ledger")
        load = Load(plan.seed, site.live_urls, journaled=hasattr(Context, "step"))
        run = Run(folder, plan.seed, site, load, ledger, say, plan.length)
        load.start(plan.clients, PAUSE_S)
        watching = asyncio.create_task(run.watch_machine())
        await asyncio.sleep(3)
        at_first = descriptors(run)
        for fault in order:
            await run.inject(fault)
        while len(load.views) < plan.tasks:
            await asyncio.sleep(0.5)
        watching.cancel()
        say("the load ends")
        await load.stop()
        await _adopt(run)
        await _read_again(run)
        sync_slots = site.settings(far=False).sync_slots
        problems = await idle_problems(
            run, at_first, sync_slots=sync_slots, patience_s=PATIENCE_S, messages_too=plan.messages_too
        )
        say("the processes stop")
        problems += await stopped_problems(run)
        ledger.refresh()
        rows = [Row.of(row) for row in await site.sql(SELECT)]
        records = [Record.of(row) for row in await site.sql(SELECT_JOURNAL)]
        judged = audit(rows, load.views, ledger, records)
        if afterwards is not None:
            await afterwards(run)
    return Verdict(
        seed=plan.seed,
        audit=judged,
        injections=run.injections,
        problems=problems,
        errors=_unanswered(run),
        events=run.events,
        seconds=time.monotonic() - began,
        unjudged=run.unjudged,
        lag_s=quantile(sorted(run.lags_s), 0.99),
        left_out=plan.left_out(),
        length=plan.length,
        wakes_s=_quiet_wakes(run, judged),
    )


def _quiet_wakes(run: Run, judged: Audit) -> tuple[float, ...]:
    """Leaving out those that were due while a fault had taken a service or a worker away."""
    away = [(each.at_s - 1, each.at_s + each.took_s + AFTERWARDS_S) for each in run.injections if not each.fault.quiet]
    quiet = (wake for wake in judged.wakes if not any(since <= wake.due_s <= until for since, until in away))
    return tuple(sorted(wake.late_s for wake in quiet))


async def _adopt(run: Run) -> None:
    """Calls without an answer may have made tasks all the same: see them through, as nobody else will."""
    known = {view.task_id for view in run.load.views}
    unsure = {label for view in run.load.views for label in view.unsure}
    rows = await run.site.sql("SELECT id, tool, arguments FROM tasks WHERE phase <> 'done'")
    for row in rows:
        if row["id"] in known:
            continue
        arguments = Row.of({**_NO_ROW, **row}).arguments
        view = View(arguments["label"], row["tool"], arguments, task_id=row["id"], statuses=["working"])
        if view.label in unsure:
            run.load.views.append(view)
            run.load.spawn(_see_through(run, view))
    await run.load.stop()


_NO_ROW = dict.fromkeys(("status", "phase", "attempt", "crashes", "worker_id", "result", "is_error", "error"))


async def _see_through(run: Run, view: View) -> None:
    until = time.monotonic() + PATIENCE_S
    while not view.over and time.monotonic() < until:
        if view.tool.startswith("endless") and not view.cancel_acknowledged:
            await run.load.cancel(view, run.rng)
        await run.load.look(view, run.rng)
        await asyncio.sleep(0.2)


async def _read_again(run: Run) -> None:
    """Every task once more at each front end: what was seen must be what is seen (I2)."""
    room = asyncio.Semaphore(32)

    async def read(view: View, url: str) -> None:
        async with room:
            await run.load.look(view, run.rng, url)

    known = [view for view in run.load.views if view.task_id is not None]
    await asyncio.gather(*(read(view, url) for view in known for url in run.site.live_urls()))


def _unanswered(run: Run) -> list[str]:
    return [
        f"{at:.3f} {what}"
        for at, what in run.load.wire.unanswered
        if not any(since - 0.5 <= at <= until + 15 for since, until in run.outages)
    ]
