"""Faults of the broker, of the way to it, and of what comes out of it."""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import pairwise
from typing import Any

import redis

from taskengine.jobs.app import JOB, make_app, make_queue
from tests.chaos.quantiles import quantile
from tests.chaos.run import Run, Wrong, fault
from tests.processes import ROOT, environment

PHASE = "broker"


def _valkey(run: Run) -> redis.Redis:
    return redis.Redis.from_url(run.site.broker_url, socket_timeout=5)


@fault("broker emptied", bar_s=10.0, phase=PHASE, share=8)
async def emptied(run: Run) -> list[float]:
    """FLUSHALL while calls are made and wait"""
    views = await run.calls("doze", 10, seconds=0.1) + await run.calls("block", 4, seconds=0.2)
    await asyncio.sleep(run.rng.random() * 0.1)
    at = time.time()
    with _valkey(run) as broker:
        await asyncio.to_thread(broker.flushall)
    return await run.started(views, at)


@fault("broker emptied under a backlog", bar_s=10.0, phase=PHASE, share=1)
async def emptied_under_backlog(run: Run) -> list[float]:
    """FLUSHALL with 1,000 calls queued, 50 running and 50 asleep; the longest time in which no queued one began"""
    running = await run.hold("probe", round(run.sized(50, 5)), seconds=10)
    asleep = await run.calls("slumber", round(run.sized(50, 5)), seconds=8.0)
    queued = await run.calls("block", round(run.sized(1000, 30)), seconds=0.05)
    await run.until(lambda: all(view.statuses for view in [*asleep, *queued]), "the calls are accepted", 120)
    at = time.time()
    with _valkey(run) as broker:
        await asyncio.to_thread(broker.flushall)
    await run.until(lambda: all(view.over for view in [*running, *asleep, *queued]), "the calls end", 240)
    if any(len(run.starts(view)) > 1 for view in running):
        raise Wrong("a running tool was run again")
    begun = sorted(entry.at_s for view in queued for entry in run.starts(view)[:1] if entry.at_s > at)
    return [max(after - before for before, after in pairwise([at, *begun]))] if begun else []


@fault("broker killed", bar_s=10.0, phase=PHASE, share=4)
async def killed(run: Run) -> list[float]:
    """kill -9 of Valkey, back empty after a second; the time counts from then"""
    views = await run.calls("doze", 10, seconds=0.1)
    await run.site.do(run.site.valkey.kill)
    views += await run.calls("doze", 10, seconds=0.1)
    await asyncio.sleep(1.0)
    await run.site.do(run.site.valkey.start)
    return await run.started(views, time.time())


@fault("broker frozen", bar_s=10.0, phase=PHASE, share=1)
async def frozen(run: Run) -> list[float]:
    """SIGSTOP of Valkey for 60 s; calls are accepted as quickly as before, and begin within the bar after it goes on"""
    before = await _accepted_within_s(run)
    process = run.site.valkey_process()
    process.suspend()
    at, slow, views = time.time(), [], []
    try:
        while time.time() < at + run.sized(60, 8):
            made = await run.calls("doze", 5, seconds=0.1)
            await run.until(lambda made=made: all(each.statuses for each in made), "calls are accepted without it", 30)
            slow += [view.accepted_at_s - view.asked_at_s for view in made]
            views += made
            await asyncio.sleep(0.5)
    finally:
        process.resume()
    meanwhile = quantile(sorted(slow), 0.99)
    run.say(f"     calls were accepted within {before:.3f} s before, {meanwhile:.3f} s meanwhile (p99)")
    if meanwhile > max(2 * before, 1.0):
        raise Wrong(f"calls were accepted within {meanwhile:.2f} s (p99), {before:.2f} s before")
    return await run.started(views, time.time())


async def _accepted_within_s(run: Run) -> float:
    """The p99 of some calls, with everything there."""
    views = [view for _ in range(4) for view in await run.calls("doze", 5, seconds=0.1)]
    await run.until(lambda: all(view.statuses for view in views), "calls are accepted", 30)
    return quantile(sorted(view.accepted_at_s - view.asked_at_s for view in views), 0.99)


@fault("broker full", bar_s=10.0, phase=PHASE, share=2)
async def full(run: Run) -> list[float]:
    """Valkey refuses every write for three seconds (`maxmemory`); the time counts from when it takes them again"""
    with _valkey(run) as broker:
        broker.config_set("maxmemory", "1")
        try:
            at = time.time()
            views = await run.calls("doze", 10, seconds=0.1)
            await run.until(lambda: all(view.statuses for view in views), "calls are accepted without the broker", 30)
            await asyncio.sleep(max(0.0, at + 3 - time.time()))
        finally:
            broker.config_set("maxmemory", "0")
    return await run.started(views, time.time())


@fault("broker drops doorbells", bar_s=10.0, phase=PHASE, share=2)
async def evicting(run: Run) -> list[float]:
    """Valkey throws out what it holds to make room (`allkeys-lru`) for three seconds, and `doctor` says that it may"""
    settings = environment(run.site.settings(far=False))
    with _valkey(run) as broker:
        broker.config_set("maxmemory-policy", "allkeys-lru")
        broker.config_set("maxmemory", "1")
        try:
            at = time.time()
            views = await run.calls("doze", 10, seconds=0.1)
            told = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "taskengine", "doctor", env=settings, cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await told.communicate()
            await asyncio.sleep(max(0.0, at + 3 - time.time()))
        finally:
            broker.config_set("maxmemory", "0")
            broker.config_set("maxmemory-policy", "noeviction")
    if b"allkeys-lru" not in said:
        raise Wrong("`doctor` does not warn of the policy")
    return await run.started(views, time.time())


@fault("started without a broker", bar_s=10.0, phase=PHASE, share=2)
async def started_without(run: Run) -> list[float]:
    """a worker and a front end are started while Valkey is away; the time counts from when it is there"""
    await run.site.do(run.site.valkey.kill)
    for child in (run.site.workers["worker-far"], run.site.front_ends["serve-far"]):
        child.kill()
    at = time.time()
    run.outages.append((at, at + 10))
    reviving = asyncio.create_task(run.site.revive())
    await asyncio.sleep(3)
    await run.site.do(run.site.valkey.start)
    back = time.time()
    views = await run.calls("doze", 10, seconds=0.1)
    recovered = await run.started(views, back)
    await reviving
    return recovered


async def _link(run: Run, mode: Any, seconds: float) -> list[float]:
    proxy = run.site.proxies["broker"]
    proxy.set(mode)
    at = time.time()
    views = await run.calls("doze", 10, seconds=0.1)
    await asyncio.sleep(seconds)
    proxy.set("pass")
    return await run.started(views, at)


@fault("way to the broker reset", bar_s=10.0, phase=PHASE, share=4)
async def link_reset(run: Run) -> list[float]:
    """every connection of one worker and one front end to Valkey is reset"""
    return await _link(run, "reset", 0.1)


@fault("way to the broker refused", bar_s=10.0, phase=PHASE, share=3)
async def link_refused(run: Run) -> list[float]:
    """one worker and one front end lose Valkey and are refused for two seconds"""
    run.site.proxies["broker"].set("reset")
    return await _link(run, "refuse", 2.0)


@fault("way to the broker silent", bar_s=15.0, phase=PHASE, share=1)
async def link_silent(run: Run) -> list[float]:
    """one worker and one front end hear nothing of Valkey for 120 s, and nobody resets; from then, calls to the front
    end until they run, and afterwards until the worker runs something again"""
    proxy, far = run.site.proxies["broker"], run.site.workers["worker-far"].pid
    proxy.set("blackhole")
    at = time.time()
    views = await run.calls("doze", 10, seconds=0.1)
    recovered = await run.started(views, at)
    await asyncio.sleep(max(0.0, at + run.sized(120, 6) - time.time()))
    proxy.set("pass")
    healed = time.time()
    while not any(int(entry.note.split()[2]) == far and entry.at_s > healed for entry in run.begun()):
        if time.time() - healed > 60:
            raise Wrong("the worker takes nothing 60 s after its broker was back")
        await run.calls("doze", 2, seconds=0.1)
        await asyncio.sleep(0.2)
    return [*recovered, time.time() - healed]


@fault("way to the broker slow", bar_s=10.0, phase=PHASE, share=2)
async def link_slow(run: Run) -> list[float]:
    """200 ms are added to every piece between Valkey and one worker and front end"""
    return await _link(run, "delay", 3.0)


@fault("doorbells doubled, late and wrong", phase=PHASE, share=8, quiet=True)
async def junk(run: Run) -> list[float]:
    """ten copies of doorbells; old and future attempts, unknown tasks, ended
    tasks, one that waits for an answer, and messages that are none"""
    views = await run.calls("doze", 3, seconds=0.5)
    await run.until(lambda: all(view.task_id for view in views), "the calls are accepted")
    ended = [view.task_id for view in run.load.views if view.over and view.task_id][-3:]
    asking = run.load.view("ask")
    await run.load.create(asking, run.rng, time.monotonic() + 30)
    await run.until(lambda: bool(run.first_start(asking)), "the question is asked")
    bodies: list[list[Any]] = []
    for view in views:
        bodies += [[view.task_id, attempt] for attempt in (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 7, -1)]
    bodies += [[asking.task_id, attempt] for attempt in (0, 1, 2, 3)]
    bodies += [[task_id, attempt] for task_id in ended for attempt in (1, 2)]
    bodies += [["tsk_of_nobody", 1], [1, "x"], [], ["one"], [None, None], [{"a": 1}, [2]]]
    run.rng.shuffle(bodies)
    await run.site.do(lambda: _publish(run, bodies))
    await asyncio.sleep(1.5)  # past the moment in which it waits in place
    await run.site.do(lambda: _publish(run, bodies))
    if len(run.starts(asking)) != 1:
        raise Wrong(f"{asking.label} was run {len(run.starts(asking))} times while it waited for an answer")
    run.load.spawn(run.load.follow(asking, run.rng, time.monotonic() + 60))
    await run.until(lambda: all(view.over for view in [*views, asking]), "the calls end")
    for view in views:
        if len(run.starts(view)) != 1:
            raise Wrong(f"{view.label} was run {len(run.starts(view))} times")
    return []


def _publish(run: Run, bodies: list[list[Any]]) -> None:
    settings = run.site.settings(far=False)
    app = make_app(settings)
    queue = app.amqp.queues.select_add(make_queue(settings, "default"))
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        for body in bodies:
            app.send_task(JOB, args=body, queue=queue, producer=producer, ignore_result=True, retry=False)
        producer.publish(b"\x00garbage", routing_key=queue.name, exchange="", content_type="application/json")
        producer.publish({"not": "a job"}, routing_key=queue.name, exchange="", serializer="json")
