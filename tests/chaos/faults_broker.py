"""Faults of the broker, of the way to it, and of what comes out of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis

from taskengine.jobs.app import JOB, make_app, make_queue
from tests.chaos.run import Run, Wrong, fault

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


@fault("broker killed", bar_s=10.0, phase=PHASE, share=4)
async def killed(run: Run) -> list[float]:
    """kill -9 of Valkey, back empty after a second; the time counts from then"""
    views = await run.calls("doze", 10, seconds=0.1)
    await run.site.do(run.site.valkey.kill)
    views += await run.calls("doze", 10, seconds=0.1)
    await asyncio.sleep(1.0)
    await run.site.do(run.site.valkey.start)
    return await run.started(views, time.time())


@fault("broker frozen", bar_s=10.0, phase=PHASE, share=2)
async def frozen(run: Run) -> list[float]:
    """SIGSTOP of Valkey for eight seconds; calls are accepted meanwhile, and begin after it goes on"""
    process = run.site.valkey_process()
    process.suspend()
    try:
        at = time.time()
        views = await run.calls("doze", 10, seconds=0.1)
        await run.until(lambda: all(view.statuses for view in views), "calls are accepted without the broker", 30)
        slowest = max(view.accepted_at_s for view in views) - at
        if slowest > 5.0:
            raise Wrong(f"a call was accepted after {slowest:.1f} s")
        await asyncio.sleep(max(0.0, at + 8 - time.time()))
    finally:
        process.resume()
    return await run.started(views, time.time())


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


@fault("way to the broker silent", bar_s=10.0, phase=PHASE, share=2)
async def link_silent(run: Run) -> list[float]:
    """one worker and one front end hear nothing of Valkey for six seconds"""
    return await _link(run, "blackhole", 6.0)


@fault("way to the broker slow", bar_s=10.0, phase=PHASE, share=2)
async def link_slow(run: Run) -> list[float]:
    """200 ms are added to every piece between Valkey and one worker and front end"""
    return await _link(run, "delay", 3.0)


@fault("doorbells doubled, late and wrong", phase=PHASE, share=10)
async def junk(run: Run) -> list[float]:
    """ten copies of doorbells; old and future attempts, unknown tasks, ended tasks, and messages that are none"""
    views = await run.calls("doze", 3, seconds=0.5)
    await run.until(lambda: all(view.task_id for view in views), "the calls are accepted")
    ended = [view.task_id for view in run.load.views if view.over and view.task_id][-3:]
    bodies: list[list[Any]] = []
    for view in views:
        bodies += [[view.task_id, attempt] for attempt in (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 7, -1)]
    bodies += [[task_id, attempt] for task_id in ended for attempt in (1, 2)]
    bodies += [["tsk_of_nobody", 1], [1, "x"], [], ["one"], [None, None], [{"a": 1}, [2]]]
    run.rng.shuffle(bodies)
    await run.site.do(lambda: _publish(run, bodies))
    await run.until(lambda: all(view.over for view in views), "the calls end")
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
