"""Faults of processes: workers, their tool processes, front ends."""

from __future__ import annotations

import asyncio
import signal
import time
from itertools import pairwise

import psutil
import redis

from tests.chaos import triggers
from tests.chaos.client import View
from tests.chaos.run import Run, Wrong, fault

PHASE = "processes"
LEASE_S = 15.0


@fault("child killed", bar_s=1.0, phase=PHASE, share=24)
async def child_killed(run: Run) -> list[float]:
    """kill -9 of a process that runs a sync tool, in a worker that has its processes"""
    await run.site.warm()
    (view,) = await run.hold("probe_sync", 1)
    start = run.starts(view)[-1]
    at = time.time()
    psutil.Process(start.pid).kill()
    return await run.started_again([view], at)


@fault("child dies by itself", phase=PHASE, share=6)
async def child_dies(run: Run) -> list[float]:
    """a tool that segfaults, exits, is killed or runs out of memory: twice, or in every attempt"""
    how = run.rng.choice(["segfault", "exit", "kill", "memory"])
    times = run.rng.choice([2, 3])
    (view,) = await run.calls("die", 1, how=how, times=times)
    await run.until(lambda: view.over, f"die({how}) ends", 30)
    attempts = len(run.starts(view))
    if attempts != 3:
        raise Wrong(f"{view.label} made {attempts} attempts, not 3")
    return []


@fault("worker killed", bar_s=3.0, phase=PHASE, share=14)
async def worker_killed(run: Run) -> list[float]:
    """kill -9 of a worker with async and sync tools running"""
    await run.site.settled()
    views = await run.hold("probe", 6) + await run.hold("probe_sync", 1)
    name, held = run.victim(views)
    children = psutil.Process(run.site.workers[name].pid).children(recursive=True)
    at = await run.kill(name)
    recovered = await run.started_again(held, at)
    # One that was just starting finds out once it has loaded what it asks the kernel with.
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 10)
    if alive:
        raise Wrong(f"{len(alive)} tool processes outlived their worker")
    return recovered


@fault("worker killed with messages reserved", bar_s=10.0, phase=PHASE, share=3)
async def worker_killed_reserved(run: Run) -> list[float]:
    """kill -9 of a worker that is frozen with doorbells in its hands"""
    await run.site.settled()
    name = run.rng.choice(list(run.site.workers))
    worker = run.site.workers[name]
    worker.send(signal.SIGSTOP)
    views = await run.calls("doze", 16, seconds=0.2)
    await asyncio.sleep(1.0)
    at = await run.kill(name)
    return await run.started(views, at)


@fault("worker frozen", bar_s=20.0, phase="slow", share=2)
async def worker_frozen(run: Run) -> list[float]:
    """SIGSTOP of a worker with all its processes for two leases, then SIGCONT"""
    views = await run.hold("probe", 6, seconds=40)
    name, held = run.victim(views)
    parent = psutil.Process(run.site.workers[name].pid)
    frozen = [parent, *parent.children(recursive=True)]
    at = time.time()
    for process in frozen:
        process.suspend()
    try:
        recovered = await run.started_again(held, at)
        await run.until(lambda: all(view.over for view in held), "the probes end elsewhere")
        await asyncio.sleep(max(0.0, at + 2 * LEASE_S - time.time()))
    finally:
        for process in frozen:
            process.resume()
    # It must come to its senses by itself: the same process takes work again under a new name.
    pid = run.site.workers[name].pid

    async def registered() -> bool:
        rows = await run.site.sql("SELECT 1 FROM workers WHERE pid = $1 AND lease_until > now()", pid)
        return bool(rows)

    for _ in range(100):
        if await registered():
            break
        await asyncio.sleep(0.1)
    else:
        raise Wrong("the worker that was frozen did not register again within 10 s")
    return recovered


@fault("idle worker stopped", bar_s=10.0, phase=PHASE, share=4)
async def idle_worker_stopped(run: Run) -> list[float]:
    """SIGSTOP of a worker that waits for doorbells, calls, then SIGCONT or SIGKILL"""
    name = run.rng.choice(list(run.site.workers))
    worker = run.site.workers[name]
    at = time.time()
    worker.send(signal.SIGSTOP)
    views = await run.calls("doze", 12, seconds=0.1)
    try:
        return await run.started(views, at)
    finally:
        if run.rng.random() < 0.5:
            await run.kill(name)
        else:
            worker.send(signal.SIGCONT)


@fault("worker told to stop", bar_s=3.0, phase=PHASE, share=6)
async def worker_sigterm(run: Run) -> list[float]:
    """SIGTERM: what runs goes on elsewhere at its next context call; nothing is held against it"""
    views = [run.load.view("doze", seconds=4.0) for _ in range(6)]
    for view in views:
        run.load.spawn(run.load.play(view, run.rng))
    await run.until(lambda: all(run.first_start(view) for view in views), "the calls start")
    return await _stop_worker(run, views, [signal.SIGTERM])


@fault("worker told to stop twice", bar_s=3.0, phase=PHASE, share=3)
async def worker_sigterm_twice(run: Run) -> list[float]:
    """SIGTERM to the whole group, and SIGTERM or SIGKILL again while it drains"""
    await run.site.settled()
    views = await run.hold("probe", 4)
    again = run.rng.choice([signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
    return await _stop_worker(run, views, [signal.SIGTERM, again])


async def _stop_worker(run: Run, views: list[View], signals: list[signal.Signals]) -> list[float]:
    """Stop the worker that runs most of `views`; the seconds from the first signal until what it gave back runs
    again. Probes make no context call: they are let run until they are done or the grace is over."""
    name, held = run.victim(views)
    worker = run.site.workers[name]
    before = {view.label: len(run.starts(view)) for view in held}
    group = psutil.Process(worker.pid)
    at = time.time()
    for number in signals:
        for process in [group, *group.children(recursive=True)] if len(signals) > 1 else [group]:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        await asyncio.sleep(0.5)
    try:
        await asyncio.to_thread(worker.wait, 40)
    except TimeoutError:
        worker.send(signal.SIGKILL)
        raise Wrong("the worker did not end within 40 s of SIGTERM") from None
    await run.until(
        lambda: all(view.over or len(run.starts(view)) > before[view.label] for view in held), "they go on elsewhere"
    )
    return [run.starts(view)[-1].at_s - at for view in held if len(run.starts(view)) > before[view.label]]


@fault("front end killed", bar_s=2.0, phase=PHASE, share=6)
async def front_end_killed(run: Run) -> list[float]:
    """kill -9 of a front end under requests: the next request on another one works"""
    name = run.rng.choice(list(run.site.front_ends))
    views = await run.calls("doze", 6, seconds=0.3)
    await asyncio.sleep(run.rng.random() * 0.05)
    at = time.time()
    run.site.front_ends[name].kill()
    other = next(url for each, url in run.site.urls.items() if each != name)
    view = run.load.view("instant", x=7)
    run.load.spawn(run.load.play(view, run.rng, other))
    await run.until(lambda: bool(view.statuses), "the other front end answers")
    worked = view.accepted_at_s - at
    run.outages.append((at, at + 5))
    await run.until(lambda: all(each.over for each in views), "the calls end")
    return [worked]


@fault("child frozen", phase=PHASE, share=1)
async def child_frozen(run: Run) -> list[float]:
    """SIGSTOP of a process whose tool has a limit of 3 s: the limit ends it, and the process is replaced"""
    (view,) = await run.calls("limited", 1)
    await run.until(lambda: bool(run.first_start(view)), "the tool starts")
    process = psutil.Process(run.starts(view)[0].pid)
    process.suspend()
    await run.until(lambda: view.over, "the limit ends it", 25)
    await run.until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "it is replaced", 10)
    return []


@fault("tool that will not be stopped", phase=PHASE, share=1)
async def stubborn(run: Run) -> list[float]:
    """a cancelled tool swallows everything: its process is replaced after the grace, tasks beside it go on"""
    view = run.load.view("endless_stubborn")
    await run.load.create(view, run.rng, time.monotonic() + 30)
    await run.until(lambda: bool(run.first_start(view)), "the tool starts")
    run.load.spawn(run.load.follow(view, run.rng, time.monotonic() + 60))
    await run.until(lambda: view.over, "the cancel ends the task", 10)
    cancelled = time.time()
    beside = await run.hold("probe", 4, seconds=3)
    process = psutil.Process(run.starts(view)[0].pid)
    await run.until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "it is replaced", 20)
    if time.time() - cancelled > 10 + 5:
        raise Wrong(f"its process was replaced {time.time() - cancelled:.1f} s after the cancel")
    await run.until(lambda: all(each.over for each in beside), "the others end")
    if any(len(run.starts(each)) > 1 for each in beside):
        raise Wrong("tasks beside it were run again")
    return []


@fault("tools that let nobody else run", phase="slow", share=1)
async def blocked(run: Run) -> list[float]:
    """an async tool blocks its worker's loop for 20 s, a sync tool holds its interpreter's lock: nobody is replaced"""
    views = [*await run.calls("hog", 1, seconds=20.0), *await run.calls("grip", 1, seconds=30.0)]
    await run.until(lambda: all(view.over for view in views), "they end", 60)
    again = [view.tool for view in views if len(run.starts(view)) > 1]
    if again:
        raise Wrong(f"{', '.join(again)} was run again")
    return []


POINTS: dict[str, tuple[str, ...]] = {
    "call.checked": ("kill", "sleep 2"),
    "call.committed": ("kill", "raise", "sleep 2"),
    "answer.checked": ("kill",),
    "answer.committed": ("kill", "raise"),
    "cancel.committed": ("kill",),
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

    async def inject(run: Run) -> list[float]:
        await run.site.settled()
        if action == "kill" and not on_front_end:
            await run.site.warm()  # the one that is left is what is measured, not its start
        triggers.arm(run.folder, name, action)
        views = [*await run.calls("doze", 2, seconds=0.3), *await run.calls("ask", 2), *await run.calls("endless", 1)]
        entry = await run.fired(name)
        if entry is None:
            raise Wrong(f"nobody passed {name}")
        if action == "kill" and on_front_end:
            run.outages.append((entry.at_s, entry.at_s + 5))
        if action == "kill":
            # The others see it; those that were done before have nothing to recover.
            await run.gone(entry.pid)
            reviving = asyncio.create_task(run.site.revive())
            await run.until(lambda: all(view.over for view in views), "the calls end")
            await reviving
            if not on_front_end:
                return _begun_after_death(run, entry.pid, entry.at_s)
            return []
        await run.until(lambda: all(view.over for view in views), "the calls end")
        return []

    inject.__doc__ = f"a {'front end' if on_front_end else 'worker'} at the point `{name}`: {verb}"
    bar = 10.0 if action == "kill" and not on_front_end else None
    fault(f"{name}: {verb}", bar_s=bar, phase="points", share=2)(inject)


def _begun_after_death(run: Run, pid: int, at_s: float) -> list[float]:
    """For each sleeper whose attempt died with the worker: the time to the next one. Others wait for somebody else."""
    times = []
    for view in run.load.views:
        if view.tool != "doze" or view.task_id is None:
            continue
        ended = {entry.attempt for entry in run.ledger.of[view.task_id] if entry.event == "end"}
        for before, after in pairwise(run.ledger.starts(view.task_id)):
            here = int(before.note.split()[2]) == pid and before.at_s <= at_s < after.at_s
            if here and before.attempt not in ended:
                times.append(after.at_s - at_s)
    return times


for _name, _actions in POINTS.items():
    for _action in _actions:
        _declare(_name, _action)


async def _a_worker_dies(run: Run, point: str) -> list[float]:
    """Kill one worker, and the next one at `point`, which is on the way of repairing it."""
    await run.site.settled()
    views = await run.hold("probe", 4)
    name, held = run.victim(views)
    triggers.arm(run.folder, point, "kill")
    at = await run.kill(name)
    entry = await run.fired(point)
    if entry is None:
        raise Wrong(f"nobody passed {point}")
    await run.gone(entry.pid)
    await run.site.revive()
    return await run.started_again(held, at)


@fault("killed while it buries", bar_s=20.0, phase="points", share=1)
async def killed_while_burying(run: Run) -> list[float]:
    """a worker is killed, and the other one in the middle of taking back its tasks"""
    return await _a_worker_dies(run, "bury.half")


@fault("killed before it rings", bar_s=20.0, phase="points", share=1)
async def killed_before_ringing(run: Run) -> list[float]:
    """a worker is killed, and the other one when it has taken back its tasks and rung for none"""
    return await _a_worker_dies(run, "bury.committed")


@fault("killed while it relays", phase="points", share=1)
async def killed_while_relaying(run: Run) -> list[float]:
    """the broker is emptied under waiting calls, and a worker killed that has noted them as rung and rung for none"""
    triggers.arm(run.folder, "relay.committed", "kill")
    views = await run.calls("block", 14, seconds=2.0)
    await run.until(lambda: all(view.statuses for view in views), "the calls are accepted")
    with redis.Redis.from_url(run.site.broker_url) as broker:
        await asyncio.to_thread(broker.flushall)
    entry = await run.fired("relay.committed")
    if entry is None:
        raise Wrong("nobody passed relay.committed")
    await run.gone(entry.pid)
    await run.site.revive()
    await run.until(lambda: all(view.over for view in views), "the calls end")
    return []


@fault("frozen with a result in its hands", bar_s=20.0, phase="slow", share=1)
async def frozen_with_result(run: Run) -> list[float]:
    """SIGSTOP of a worker that is about to store a result, until another has run the call again; then SIGCONT"""
    triggers.arm(run.folder, "end.known", "stop")
    views = await run.calls("doze", 6, seconds=0.4)
    entry = await run.fired("end.known")
    if entry is None:
        raise Wrong("nobody passed end.known")
    frozen = psutil.Process(entry.pid)
    try:
        await run.until(lambda: all(view.over for view in views), "the calls end elsewhere")
    finally:
        frozen.resume()
    ended = [view.ended_at_s - entry.at_s for view in views if view.ended_at_s > entry.at_s]
    await asyncio.sleep(2)  # the late writes come now; the audit sees whether one was taken
    return ended
