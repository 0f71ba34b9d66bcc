"""A soak: hours of load with the small faults of every day, and what grows meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import psutil

from tests.chaos.run import FAULTS, Run, Wrong, fault

__all__ = ["slope"]

LONG_RUN = 10
SOAK_S = 120.0
"""Times the length: twenty minutes in a run of ten times the usual length."""
EVERY_S = 5.0
SMALL = ("child killed", "broker emptied", "a session ended", "an answer of Postgres lost", "answers race")
"""Faults after which every front end and worker is still the process that it was."""
MOST_MIB_PER_HOUR = 32.0
MOST_MORE_PER_TASK = 1.25


def slope(points: Sequence[tuple[float, float]]) -> float:
    """By how much the second value grows with the first: the line that fits best. 0 of less than two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


@fault("soak", phase="calm", least_length=LONG_RUN)
async def soak(run: Run) -> list[float]:
    """twenty minutes of load with small faults in a run of ten times the length: in its second half neither the memory
    of a process grows by more than 32 MiB an hour, nor a task's share of the tables by more than a quarter"""
    began, seconds = time.monotonic(), SOAK_S * run.length
    memory: dict[str, list[tuple[float, float]]] = {}
    tables: list[tuple[float, float, float]] = []
    small = asyncio.create_task(_small_faults(run, began + seconds))
    try:
        while (hours := (time.monotonic() - began) / 3600) < seconds / 3600:
            for name, child in {**run.site.workers, **run.site.front_ends}.items():
                rss = psutil.Process(child.pid).memory_info().rss / 2**20
                memory.setdefault(f"{name} ({child.pid})", []).append((hours, rss))
            (row,) = await run.site.sql_soon(
                "SELECT count(*) AS tasks, (SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace) AS bytes FROM tasks"
            )
            tables.append((hours, float(row["tasks"]), float(row["bytes"])))
            await asyncio.sleep(EVERY_S)
    finally:
        small.cancel()
        await asyncio.gather(small, return_exceptions=True)
    return _judged(run, memory, tables)


async def _small_faults(run: Run, until: float) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(run.rng.uniform(5, 20))
        chosen = FAULTS[run.rng.choice(SMALL)]
        run.note(f"soak: {chosen.name}")
        await chosen.inject(run)


def _judged(
    run: Run, memory: dict[str, list[tuple[float, float]]], tables: list[tuple[float, float, float]]
) -> list[float]:
    wrong = []
    for name, points in memory.items():
        second_half = points[len(points) // 2 :]
        grows = slope(second_half)
        run.say(f"     {name}: {points[-1][1]:.0f} MiB at last, {grows:+.1f} MiB an hour in the second half")
        if grows > MOST_MIB_PER_HOUR and len(points) > len(tables) / 2:
            wrong.append(f"{name} grows by {grows:.0f} MiB an hour")
    middle, last = tables[len(tables) // 2], tables[-1]
    before, after = (bytes_ / max(1.0, tasks) for _, tasks, bytes_ in (middle, last))
    grows = slope([(hours, bytes_ / 2**20) for hours, _, bytes_ in tables[len(tables) // 2 :]])
    run.say(f"     tables: {last[2] / 2**20:.0f} MiB for {last[1]:.0f} tasks, {grows:+.1f} MiB an hour;"
            f" {after:.0f} bytes a task, {before:.0f} half way")  # fmt: skip
    if after > before * MOST_MORE_PER_TASK:
        wrong.append(f"a task takes {after:.0f} bytes instead of {before:.0f}")
    if wrong:
        raise Wrong("; ".join(wrong))
    return []
