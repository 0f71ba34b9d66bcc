"""Faults at named points: between a commit and what follows it, in whichever process passes there first."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil
import redis

from tests.chaos import triggers
from tests.chaos.client import View
from tests.chaos.run import Run, Wrong, fault

PHASE = "points"

LATE = "is no longer current: dropped"
"""What a worker logs of a result that it wanted to store and that was refused."""
POINTS: dict[str, tuple[str, ...]] = {
    "call.checked": ("kill", "sleep 2"),
    "call.committed": ("kill", "raise", "sleep 2"),
    "answer.checked": ("kill",),
    "answer.committed": ("kill", "raise"),
    "cancel.committed": ("kill", "raise"),
    "claim.asked": ("kill", "sleep 2"),
    "claim.committed": ("kill", "raise", "sleep 2"),
    "attempt.begins": ("kill",),
    "end.known": ("kill", "sleep 2"),
    "write.committed": ("kill", "raise"),
    "end.committed": ("kill",),
}


def _declare(name: str, action: str) -> None:
    verb = {"kill": "killed", "raise": "answer lost", "sleep 2": "blocked for 2 s"}[action]
    on_front_end = name.split(".", maxsplit=1)[0] in {"call", "answer", "cancel"}
    worker_dies = action == "kill" and not on_front_end

    async def inject(run: Run) -> list[float]:
        await run.site.settled()
        held: dict[int, list[View]] = {}
        if worker_dies:
            await run.site.warm()  # what is measured is the one that is left, not the start of its processes
            held = await run.hold_everywhere("probe", seconds=20)
        armed_s = triggers.arm(run.folder, name, action)
        views = [*await run.calls("doze", 2, seconds=0.3), *await run.calls("ask", 2), *await run.calls("endless", 1)]
        entry = await run.fired(name, armed_s)
        if entry is None:
            raise Wrong(f"nobody passed {name}")
        recovered: list[float] = []
        if on_front_end:
            run.outages.append((entry.at_s, entry.at_s + 5))
        if action == "kill":
            await run.gone(entry.pid)
            recovered = await run.started_again(held.get(entry.pid, ()), entry.at_s)
            await run.site.revive()
        await run.until(lambda: all(view.over for view in views), "the calls end")
        return recovered

    inject.__doc__ = f"a {'front end' if on_front_end else 'worker'} at the point `{name}`: {verb}"
    bar: dict[str, Any] = {"bar_s": 3.0, "within": 0.95} if worker_dies else {"quiet": on_front_end}
    fault(f"{name}: {verb}", phase=PHASE, share=2, **bar)(inject)


for _name, _actions in POINTS.items():
    for _action in _actions:
        _declare(_name, _action)


async def _a_worker_dies(run: Run, point: str) -> list[float]:
    """Kill one worker, and the next one at `point`, which is on the way of repairing it."""
    await run.site.settled()
    views = await run.hold("probe", 4)
    name, held = run.victim(views)
    armed_s = triggers.arm(run.folder, point, "kill")
    at = await run.kill(name)
    entry = await run.fired(point, armed_s)
    if entry is None:
        raise Wrong(f"nobody passed {point}")
    await run.gone(entry.pid)
    await run.site.revive()
    return await run.started_again(held, at)


@fault("killed while it buries", bar_s=20.0, phase=PHASE, share=1)
async def killed_while_burying(run: Run) -> list[float]:
    """a worker is killed, and the other one in the middle of taking back its tasks"""
    return await _a_worker_dies(run, "bury.half")


@fault("killed before it rings", bar_s=20.0, phase=PHASE, share=1)
async def killed_before_ringing(run: Run) -> list[float]:
    """a worker is killed, and the other one when it has taken back its tasks and rung for none"""
    return await _a_worker_dies(run, "bury.committed")


@fault("killed while it relays", phase=PHASE, share=1)
async def killed_while_relaying(run: Run) -> list[float]:
    """the broker is emptied under waiting calls, and a worker killed that has noted them as rung and rung for none"""
    await run.site.settled()
    armed_s = triggers.arm(run.folder, "relay.committed", "kill")
    workers = [psutil.Process(child.pid) for child in run.site.workers.values()]
    for worker in workers:  # for a moment nobody consumes: one with all its slots taken would need no doorbell
        worker.suspend()
    try:
        await asyncio.sleep(0.5)  # what it had asked Valkey for is over: nothing more is handed to it
        views = await run.calls("block", 14, seconds=2.0)
        await run.until(lambda: all(view.statuses for view in views), "the calls are accepted")
        with redis.Redis.from_url(run.site.broker_url) as broker:
            await asyncio.to_thread(broker.flushall)
    finally:
        for worker in workers:
            worker.resume()
    entry = await run.fired("relay.committed", armed_s)
    if entry is None:
        raise Wrong("nobody passed relay.committed")
    await run.gone(entry.pid)
    await run.site.revive()
    await run.until(lambda: all(view.over for view in views), "the calls end")
    return []


@fault("frozen with a result in its hands", bar_s=20.0, phase="slow", share=1)
async def frozen_with_result(run: Run) -> list[float]:
    """SIGSTOP of a worker that is about to store a result, until another has run the call again; then SIGCONT"""
    armed_s = triggers.arm(run.folder, "end.known", "stop")
    views = await run.calls("doze", 6, seconds=0.4)
    entry = await run.fired("end.known", armed_s)
    if entry is None:
        raise Wrong("nobody passed end.known")
    worker = next(child for child in run.site.workers.values() if child.pid == entry.pid)
    frozen = psutil.Process(entry.pid)
    try:
        await run.until(lambda: all(view.over for view in views), "the calls end elsewhere")
    finally:
        frozen.resume()
    ended = [view.ended_at_s - entry.at_s for view in views if view.ended_at_s > entry.at_s]
    await run.until(lambda: LATE in worker.output(), "the late result is tried and refused", 30)
    return ended
