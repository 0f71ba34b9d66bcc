"""Faults of RabbitMQ. It is not ours alone: only queues of a namespace of our own are touched, unless it is a long run.

They need the address in `TASKENGINE_TEST_AMQP_URL`; without it the table says that they were left out.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from kombu import Connection

from tests.chaos.client import View
from tests.chaos.faults_races import LONG_RUN, LONG_S, long_run
from tests.chaos.proxy import Proxy
from tests.chaos.run import LEFT_OUT, Run, Wrong, fault
from tests.services import AMQP_VARIABLE

URL = os.environ.get(AMQP_VARIABLE, "")
ROUTES = ("default", "default.sync")
Inject = Callable[[Run], Awaitable[list[float]]]


def _given(
    name: str, *, bar_s: float | None = None, control: bool = False, least_length: float = 0.0
) -> Callable[[Inject], Inject]:
    """Declare the fault where there is a RabbitMQ, and `rabbitmqctl` when it needs `control`."""
    missing = "" if URL else f"no {AMQP_VARIABLE}"
    if control and not shutil.which("rabbitmqctl"):
        missing = "no rabbitmqctl"
    if missing:
        LEFT_OUT[name] = missing
        return lambda inject: inject
    return fault(name, bar_s=bar_s, phase="calm", least_length=least_length)


async def _control(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec("rabbitmqctl", *arguments, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise Wrong(f"rabbitmqctl {' '.join(arguments)} failed")


async def _consumer_timeout(milliseconds: int) -> None:
    await _control("eval", f"application:set_env(rabbit, consumer_timeout, {milliseconds}).")


def _own(run: Run, url: str = URL) -> dict[str, str]:
    return {"TASKENGINE_BROKER_URL": url, "TASKENGINE_NAMESPACE": f"chaos{run.rng.getrandbits(32):x}"}


def _forget(namespace: str) -> None:
    with Connection(URL) as connection, connection.channel() as channel:
        for route in ROUTES:
            channel.queue_delete(f"{namespace}.{route}")
        channel.exchange_delete(namespace)


@_given("consumer timeout", control=True)
async def consumer_timeout(run: Run) -> list[float]:
    """RabbitMQ closes channels that owe an acknowledgement for 15 s; tools run for 120 s, more calls than slots"""
    # Read by a channel when it is opened: only this harness's workers open theirs meanwhile.
    own = _own(run)
    await _consumer_timeout(15_000)
    try:
        await long_run(run, LONG_S, **own)
    finally:
        await _consumer_timeout(1_800_000)
        await asyncio.to_thread(_forget, own["TASKENGINE_NAMESPACE"])
    return []


@asynccontextmanager
async def _on_rabbit(run: Run) -> AsyncIterator[tuple[Proxy, str]]:
    """Every process of the site has its broker there, through a proxy; its namespace is given."""
    parts = urlsplit(URL)
    proxy = Proxy(lambda: asyncio.open_connection(parts.hostname, parts.port or 5672))
    await proxy.start()
    place = parts.netloc.rpartition("@")[0]
    own = _own(run, parts._replace(netloc=f"{place}{'@' if place else ''}127.0.0.1:{proxy.port}").geturl())
    try:
        await _all_anew(run, own)
        yield proxy, own["TASKENGINE_NAMESPACE"]
    finally:
        proxy.set("pass")
        await _all_anew(run, {})
        await proxy.stop()
        await asyncio.to_thread(_forget, own["TASKENGINE_NAMESPACE"])


async def _all_anew(run: Run, variables: dict[str, str]) -> None:
    at = time.time()

    async def worker(name: str) -> None:
        await asyncio.to_thread(run.site.workers[name].stop, 60)
        await run.site.start_worker(name, **variables)

    async def front_end(name: str) -> None:
        await asyncio.to_thread(run.site.front_ends[name].stop, 60)
        await run.site.start_front_end(name, **variables)

    names = [(worker, name) for name in run.site.workers] + [(front_end, name) for name in run.site.front_ends]
    await asyncio.gather(*(anew(name) for anew, name in names))
    run.outages.append((at, time.time()))


@_given("RabbitMQ loses what it was given", bar_s=10.0)
async def lost_after_publish(run: Run) -> list[float]:
    """the queues are deleted right after calls were rung for, and every connection is reset, as by a kill"""
    recovered: list[float] = []
    async with _on_rabbit(run) as (proxy, namespace):
        for _ in range(5):
            views = await run.calls("doze", 10, seconds=0.1)
            await run.until(lambda views=views: any(view.statuses for view in views), "the calls are accepted")
            at = time.time()
            await asyncio.to_thread(_forget, namespace)
            proxy.set("reset")
            recovered += await run.started(views, at)
    return recovered


async def _accepted_meanwhile(run: Run, seconds: float) -> list[View]:
    """Calls that are made now, when so many seconds are over. Raises Wrong when one had to wait."""
    at = time.time()
    views = await run.calls("doze", 10, seconds=0.1)
    await run.until(lambda: all(view.statuses for view in views), "calls are accepted without the broker", 30)
    slowest = max(view.accepted_at_s for view in views) - at
    if slowest > 5.0:
        raise Wrong(f"a call was accepted after {slowest:.1f} s")
    await asyncio.sleep(max(0.0, at + seconds - time.time()))
    return views


@_given("RabbitMQ takes nothing more", bar_s=15.0)
async def blocked(run: Run) -> list[float]:
    """RabbitMQ neither reads nor answers for 10 s, as one that blocks publishers; from when it does again"""
    async with _on_rabbit(run) as (proxy, _):
        proxy.set("blackhole")
        views = await _accepted_meanwhile(run, 10.0)
        proxy.set("pass")
        return await run.started(views, time.time())


@_given("RabbitMQ's memory alarm", bar_s=10.0, control=True, least_length=LONG_RUN)
async def memory_alarm(run: Run) -> list[float]:
    """publishers are blocked for 10 s by RabbitMQ itself, for everybody who uses it; from when the alarm is over"""
    async with _on_rabbit(run):
        await _control("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            views = await _accepted_meanwhile(run, 10.0)
        finally:
            await _control("set_vm_memory_high_watermark", "0.4")
        return await run.started(views, time.time())
