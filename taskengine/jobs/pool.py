"""Celery's pool, replaced: a job is a doorbell, done as soon as its attempt is claimed or refused.

Celery's main thread consumes; the runner's event loop, in a thread of its own, claims and runs. Slots are ours, not
Celery's: async tools share one loop, sync tools have processes, and each kind has its queues. While a kind has no free
slot its queues are not consumed, so a busy worker never hoards a doorbell that an idle one could answer: a slot that
comes free takes what has waited longest straight from Postgres. A doorbell that comes all the same (RabbitMQ had sent
it already) is rung again for the others.

    accept -> acknowledge: a moment after the claim has committed, or was refused (`runner.SETTLE_S`)
    callback -> Celery forgets the job: the same moment; the attempt goes on without it
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from celery import bootsteps
from celery.concurrency.base import BasePool

from taskengine.jobs.app import is_sync, queue_name, route_of
from taskengine.records import Doorbell
from taskengine.settings import Settings

__all__ = ["ConsumerHandle", "Host", "SlotPool"]

logger = logging.getLogger("taskengine.jobs")

CLAIMS_IN_FLIGHT = 8
"""Messages a worker may hold between delivery and a moment after the claim: as many as its Celery thread can take in
that time, at some 0.7 ms each."""


class Host(Protocol):
    """What stands behind the pool: the runner's thread."""

    settings: Settings
    routes: tuple[str, ...]

    def start(self, pool: SlotPool) -> None: ...

    def offer(self, doorbells: Sequence[Doorbell], settled: Callable[[], None]) -> None:
        """Claim and run them; `settled` is called a moment after the claim of each is decided. Returns at once."""

    def ring(self, doorbell: Doorbell) -> None: ...

    def drain(self) -> None:
        """Returns when no attempt runs any more."""


class SlotPool(BasePool):  # type: ignore[misc]  # Celery has no types
    """The pool of one worker. All methods but `from_runner` run on Celery's main thread."""

    uses_semaphore = False
    signal_safe = False
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._host: Host = self.app.taskengine_host
        settings = self._host.settings
        self._free: dict[bool, int] = {False: settings.async_slots, True: settings.sync_slots}
        self._counting = threading.Lock()
        """Of what is free: slots are taken on Celery's thread and given back on the runner's."""
        self._consumer: Any = None
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)

    @property
    def num_processes(self) -> int:
        return CLAIMS_IN_FLIGHT

    def on_start(self) -> None:
        self._host.start(self)

    def on_stop(self) -> None:
        self._host.drain()

    on_terminate = on_stop

    def on_close(self) -> None:
        pass

    def register_with_event_loop(self, loop: Any) -> None:
        loop.add_reader(self._wake_r, self._run_calls)
        self._woken = False
        self._wake()  # a broken connection may have left calls behind

    def from_runner(self, call: Callable[[], None]) -> None:
        """Run `call` on Celery's main thread soon. Thread-safe."""
        self._calls.append(call)
        self._wake()

    def _wake(self) -> None:
        if self._woken:  # the calls are looked at after this is taken back
            return
        self._woken = True
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_w, b"!")

    def _run_calls(self, *_: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_r, 4096)
        self._woken = False
        while self._calls:
            self._calls.popleft()()

    def on_apply(
        self,
        _target: Any,
        args: tuple[Any, ...],
        _kwargs: Any,
        *,
        callback: Callable[[Any], None],
        accept_callback: Callable[[int, float], None],
        **_: Any,
    ) -> None:
        def settled() -> None:
            accept_callback(os.getpid(), time.monotonic())
            callback((0, None, 0.0))

        request, body = args[2], args[3]
        doorbells = self._read(request, body)
        if not doorbells:
            settled()
            return
        lane = is_sync(doorbells[0].queue)
        taken = doorbells[: self._take(lane, len(doorbells)) if self.active else 0]
        for doorbell in doorbells[len(taken) :]:
            self._host.ring(doorbell)
        if not taken:
            settled()
            return
        if self._free[lane] <= 0:
            self._regulate(lane)
        self._host.offer(taken, lambda: self.from_runner(settled))

    def _read(self, request: dict[str, Any], body: Any) -> list[Doorbell]:
        try:
            (task_id, attempt), options, *_ = json.loads(body)
            named = [(task_id, attempt), *((each_id, number) for each_id, number in options.get("more", ()))]
            route = route_of(self._host.settings, request["delivery_info"]["routing_key"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("dropped a job message that is no doorbell: %s", error)
            return []
        if not all(isinstance(each_id, str) and isinstance(number, int) for each_id, number in named):
            logger.warning("dropped a job message that does not name an attempt")
            return []
        return [Doorbell(each_id, number, route) for each_id, number in named]

    def _take(self, lane: bool, wanted: int) -> int:
        """So many slots are taken now, as many as are wanted and free."""
        with self._counting:
            taken = max(0, min(wanted, self._free[lane]))
            self._free[lane] -= taken
        return taken

    def freed(self, route: str) -> None:
        """The runner gave a slot back. Thread-safe."""
        lane = is_sync(route)
        with self._counting:
            self._free[lane] += 1
            first = self._free[lane] == 1
        if first:  # only then is there something for Celery's thread to do: the queues are consumed again
            self.from_runner(lambda: self._regulate(lane))

    def crowded(self, route: str) -> tuple[str, ...]:
        """While all slots of this route's kind are taken: the routes that share them. Thread-safe."""
        lane = is_sync(route)
        if self._free[lane] > 0:
            return ()
        return tuple(each for each in self._host.routes if is_sync(each) == lane)

    def attach(self, consumer: Any) -> None:
        """A new connection's consumer, which has not begun to consume: let it know the queues it should take."""
        self._consumer = consumer
        for lane in self._free:
            self._regulate(lane, consuming=False)

    def detach(self) -> None:
        self._consumer = None

    def _regulate(self, lane: bool, *, consuming: bool = True) -> None:
        """Take the queues of this kind just while it has a free slot."""
        consumer = self._consumer
        if consumer is None or consumer.task_consumer is None:
            return
        taken = {queue.name for queue in consumer.task_consumer.queues}
        for route in self._host.routes:
            if is_sync(route) != lane:
                continue
            name = queue_name(self._host.settings, route)
            if self._free[lane] <= 0 and name in taken:
                consumer.cancel_task_queue(name)
            elif self._free[lane] > 0 and name not in taken and consuming:
                consumer.add_task_queue(name)
            elif self._free[lane] > 0 and name not in taken:
                queues = consumer.app.amqp.queues
                consumer.task_consumer.add_queue(queues.select_add(queues[name]))


class ConsumerHandle(bootsteps.StartStopStep):  # type: ignore[misc]
    """Gives the pool its consumer each time one is started."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        parent.pool.attach(parent)

    def stop(self, parent: Any) -> None:
        parent.pool.detach()
