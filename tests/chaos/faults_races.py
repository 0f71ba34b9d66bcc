"""Races between clients, the engine's own clocks and the broker's."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.chaos.run import Run, Wrong, fault

__all__ = ["LONG_RUN", "LONG_S", "long_run"]

PHASE = "races"
LONG_RUN = 10
"""From this length on faults have the full size that only patience can have."""
LONG_S = 120.0
"""Far longer than what a broker is told to wait for an acknowledgement here."""
CLOCK = str(Path(__file__).parent / "clock")


@fault("cancel races the end", quiet=True, phase=PHASE, share=12)
async def cancel_races_end(run: Run) -> list[float]:
    """50 calls are cancelled at about the moment they end: whichever commits first stays; 10,000 in a run of ten times
    the length"""
    views = []
    for _ in range(84 if run.length >= LONG_RUN else 50):
        view = run.load.view("doze", mark="-race", seconds=round(run.rng.uniform(0.05, 0.3), 2))
        run.load.spawn(run.load.play(view, run.rng))
        views.append(view)
    await run.until(lambda: all(view.over for view in views), "the calls end")
    return []


@fault("cancel races the claim", quiet=True, phase=PHASE, share=6)
async def cancel_races_claim(run: Run) -> list[float]:
    """10 calls are cancelled as soon as they are accepted"""
    views = []
    for _ in range(10):
        view = run.load.view("doze", mark="-race", seconds=0.0)
        run.load.spawn(run.load.play(view, run.rng))
        views.append(view)
    await run.until(lambda: all(view.over for view in views), "the calls end")
    return []


@fault("answers race", quiet=True, phase=PHASE, share=10)
async def answers_race(run: Run) -> list[float]:
    """ten clients answer the same questions at once, on both front ends, with different words: one of each wins"""
    (view,) = [run.load.view("ask_sync")]
    await run.load.create(view, run.rng, time.monotonic() + 60)
    if view.task_id is None:
        raise Wrong("the call was not accepted")
    started = time.monotonic()
    while "input_required" not in view.statuses and time.monotonic() - started < 60:
        seen = await run.load.wire.ask(run.load.front_end(run.rng), "tasks/get", view.task_id, {"taskId": view.task_id})
        if seen["status"] == "input_required":
            break
        await asyncio.sleep(0.05)
    keys = list(seen["inputRequests"])
    await asyncio.gather(*(run.load._send_words(view, keys, run.rng) for _ in range(10)))
    while not view.over and time.monotonic() - started < 90:
        await run.load.look(view, run.rng)
        await asyncio.sleep(0.05)
    if len(run.starts(view)) > 2:
        raise Wrong(f"{view.label} was run {len(run.starts(view))} times")
    return []


@fault("a clock two hours ahead", quiet=True, phase=PHASE, share=1)
async def clock_ahead(run: Run) -> list[float]:
    """a third worker whose clock is two hours ahead takes its part for some seconds"""
    await run.site.start_worker("worker-ahead", PYTHONPATH=CLOCK, CHAOS_CLOCK_S="7200")
    try:
        views = await run.hold("probe", 6, seconds=4)
        await run.until(lambda: all(view.over for view in views), "the probes end")
        again = [view.label for view in views if len(run.starts(view)) > 1]
        if again:
            raise Wrong(f"{', '.join(again)} ran twice")
    finally:
        child = run.site.workers.pop("worker-ahead")
        await asyncio.to_thread(child.stop, 40)
    return []


async def long_run(run: Run, seconds: float, **variables: str) -> None:
    """Workers started with these variables; every sync slot is taken by a long run, and more calls wait behind."""
    before = list(run.site.workers)
    for name in before:
        await asyncio.to_thread(run.site.workers[name].stop, 60)
        await run.site.start_worker(name, **variables)
    try:
        pids = {child.pid for child in run.site.workers.values()}
        limit_s = seconds * 2 + 120
        slots = run.site.settings(far=False).sync_slots * len(before)
        views = await run.hold("probe_sync", slots, seconds=seconds) + await run.hold("probe", 8, seconds=seconds)
        # These wait behind the long ones all the time, in queues and, where the broker sends ahead, in workers' hands.
        behind = [run.load.view("probe_sync", holds=1, seconds=1.0) for _ in range(2 * slots)]
        for view in behind:
            run.load.spawn(run.load.play(view, run.rng, patience_s=limit_s))
        views += behind
        await run.until(lambda: all(view.over for view in views), "the long runs end", limit_s)
        again = [view.label for view in views if len(run.starts(view)) > 1]
        if again:
            raise Wrong(f"{', '.join(again)} ran twice")
        if pids != {child.pid for child in run.site.workers.values() if child.running}:
            raise Wrong("a worker ended")
    finally:
        for name in before:
            await asyncio.to_thread(run.site.workers[name].stop, 60)
            await run.site.start_worker(name)


@fault("visibility timeout", phase="calm", share=1)
async def visibility(run: Run) -> list[float]:
    """kombu is told to give out again what is unacknowledged for 5 s; tools run for 120 s, more calls than slots"""
    await long_run(run, LONG_S, CHAOS_VISIBILITY_S="5")
    return []
