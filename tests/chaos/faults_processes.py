"""Faults of processes: workers, their tool processes, front ends."""

from __future__ import annotations

import asyncio
import re
import signal
import time

import psutil
import redis

from tests.chaos.client import View
from tests.chaos.run import Run, Wrong, fault

PHASE = "processes"


@fault("child killed", bar_s=1.0, phase=PHASE, share=20, quiet=True)
async def child_killed(run: Run) -> list[float]:
    """kill -9 of a process that runs a sync tool, in a worker that has one to spare"""
    (view,) = await run.hold("probe_sync", 1, seconds=20)
    await run.site.warm()
    start = run.starts(view)[-1]
    at = time.time()
    psutil.Process(start.pid).kill()
    return await run.started_again([view], at)


@fault("child killed that has children", bar_s=1.0, phase=PHASE, share=2, quiet=True)
async def parent_killed(run: Run) -> list[float]:
    """kill -9 of a tool's process that has started another: that one is gone within 10 s, and no lock is left by it"""
    (view,) = await run.hold("brood", 1, seconds=20)
    tool = psutil.Process(run.starts(view)[-1].pid)
    await run.until(lambda: bool(tool.children()), "the tool starts another process")
    await run.site.warm()
    child = tool.children()[0]
    at = time.time()
    tool.kill()
    recovered = await run.started_again([view], at)
    try:
        await run.until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "it ends too", 10)
    except Wrong:
        child.kill()
        raise Wrong("a process that the tool had started outlived it by 10 s") from None
    locks = await run.site.sql("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
    if len(locks) > len(run.site.workers):
        raise Wrong(f"{len(locks)} presence locks are held by {len(run.site.workers)} workers")
    return recovered


@fault("thread left behind", phase=PHASE, share=2, quiet=True)
async def thread_left(run: Run) -> list[float]:
    """tools that leave a daemon thread behind, one after the other in the same processes: the next call is right"""
    for _ in range(2):
        views = await run.calls("thready", 4)
        await run.until(lambda views=views: all(view.over for view in views), "they end", 30)
        if any(len(run.starts(view)) > 1 for view in views):
            raise Wrong("a tool with a thread of its own was run again")
    return []


@fault("child dies by itself", phase=PHASE, share=6, quiet=True)
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


@fault("worker killed", bar_s=3.0, within=0.95, phase=PHASE, share=12)
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
    """kill -9 of a worker that has fetched doorbells and claimed for none of them, since a tool blocks its loop"""
    await run.site.settled()
    for _ in range(3):  # all may have gone to the worker that is free
        recovered = await _killed_with_reserved(run)
        if recovered is not None:
            return recovered
    raise Wrong("nothing was reserved")


async def _killed_with_reserved(run: Run) -> list[float] | None:
    """None when it had fetched nothing, and was left alone. Raises Wrong."""
    (blocked,) = await run.calls("hog", 1, seconds=20.0, holds=1)
    await run.until(lambda: bool(run.first_start(blocked)), "the loop is blocked")
    name = run.site.worker_by_pid(run.worker_of(blocked))
    if name is None:
        raise Wrong("the worker that is blocked is not there any more")
    views: list[View] = []
    for _ in range(16):  # a message each
        views += await run.calls("doze", 1, seconds=0.2)
        await asyncio.sleep(0.02)
    reserved = await _reserved(run)
    if not reserved:
        await run.until(lambda: blocked.over, "the loop is free again")
        return None
    run.note(f"the messages of {reserved} calls reserved")
    return await run.started(views, await run.kill(name))


async def _reserved(run: Run) -> int:
    """How many calls wait although the broker has no message for them: some worker has fetched it. The relay ends this
    after two seconds, and the count is 0 if it was not to be seen before."""
    seen = 0
    with redis.Redis.from_url(run.site.broker_url) as broker:
        for _ in range(20):
            queues = [key for key in broker.scan_iter("*", _type="list") if not key.endswith(b".sync")]
            messages = sum(int(broker.llen(key)) for key in queues)
            rows = await run.site.sql(
                "SELECT count(*) AS waiting FROM tasks WHERE phase = 'queued' AND queue NOT LIKE '%.sync'"
            )
            before, seen = seen, 0 if messages else int(rows[0]["waiting"])
            if before and seen:  # the front end had the time to ring
                return seen
            await asyncio.sleep(0.1)
    return 0


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
        await asyncio.sleep(max(0.0, at + 2 * run.site.lease_s - time.time()))
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


@fault("worker told to stop twice", bar_s=3.0, within=0.95, phase=PHASE, share=3)
async def worker_sigterm_twice(run: Run) -> list[float]:
    """SIGTERM to the whole group, and SIGTERM, SIGQUIT or SIGKILL again while it drains; from the last signal on"""
    await run.site.settled()
    views = await run.calls("doze", 6, seconds=6.0)
    await run.until(lambda: all(run.first_start(view) for view in views), "the calls start")
    again = run.rng.choice([signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
    return await _stop_worker(run, views, [signal.SIGTERM, again])


async def _stop_worker(run: Run, views: list[View], signals: list[signal.Signals]) -> list[float]:
    """Stop the worker that runs most of `views`; the seconds from the last signal that came before it until each of
    those it gave back runs again."""
    name, held = run.victim(views)
    worker = run.site.workers[name]
    before = {view.label: len(run.starts(view)) for view in held}
    group = psutil.Process(worker.pid)
    told = []
    for number in signals:
        told.append(time.time())
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
    again = [run.starts(view)[before[view.label]].at_s for view in held if len(run.starts(view)) > before[view.label]]
    return [at - max(each for each in told if each <= at) for at in again if at > told[0]]


@fault("front end killed", bar_s=2.0, phase=PHASE, share=6, quiet=True)
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


@fault("child frozen", phase=PHASE, share=1, quiet=True)
async def child_frozen(run: Run) -> list[float]:
    """SIGSTOP of a process whose tool has a limit of 3 s: the limit ends it, and the process is replaced"""
    (view,) = await run.calls("limited", 1)
    await run.until(lambda: bool(run.first_start(view)), "the tool starts")
    process = psutil.Process(run.starts(view)[0].pid)
    process.suspend()
    await run.until(lambda: view.over, "the limit ends it", 25)
    await run.until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "it is replaced", 10)
    return []


@fault("tool that will not be stopped", phase=PHASE, share=1, quiet=True)
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
    """an async tool blocks its worker's loop for 20 s, a sync tool holds its interpreter's lock: nobody is replaced,
    and the worker's log names the one that blocks it within 5 s"""
    views = [*await run.calls("hog", 1, seconds=20.0), *await run.calls("grip", 1, seconds=30.0)]
    await run.until(lambda: bool(run.first_start(views[0])), "the loop is blocked")
    name = run.site.worker_by_pid(run.worker_of(views[0]))
    if name is None:
        raise Wrong("the worker that is blocked is not there any more")
    warning = re.compile(r"an async tool blocks it: .*\bhog\b")
    await run.until(lambda: bool(warning.search(run.site.workers[name].output())), "the stall is told", 5)
    await run.until(lambda: all(view.over for view in views), "they end", 60)
    again = [view.tool for view in views if len(run.starts(view)) > 1]
    if again:
        raise Wrong(f"{', '.join(again)} was run again")
    return []
