"""The pool's slots, without Celery's consumer around it."""

from __future__ import annotations

import json
import select
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from taskengine.jobs.pool import SlotPool
from taskengine.records import Doorbell
from taskengine.settings import Settings

SLOTS = 3


class _Host:
    """Attempts begin and end when the test says so."""

    settings = Settings(async_slots=SLOTS, sync_slots=1)
    routes = ("default", "default.sync")

    def start(self, pool: SlotPool) -> None: ...

    def offer(self, doorbell: Doorbell, settled: Callable[[], None]) -> None: ...

    def ring(self, doorbell: Doorbell) -> None: ...

    def drain(self) -> None: ...


class _Loop:
    """Celery's event loop: it calls a reader while its pipe has something to read."""

    def __init__(self) -> None:
        self._readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._readers[descriptor] = callback

    def turn(self) -> None:
        for descriptor in select.select(list(self._readers), [], [], 0)[0]:
            self._readers[descriptor]()


class _Consumer:
    """Celery's consumer with a connection that can break."""

    def __init__(self) -> None:
        self.broken = False
        self.names = {"taskengine.default", "taskengine.default.sync"}
        self.task_consumer = self

    @property
    def queues(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.names]

    def cancel_task_queue(self, name: str) -> None:
        self.names.discard(name)

    def add_task_queue(self, name: str) -> None:
        if self.broken:
            raise ConnectionError("the broker went away")
        self.names.add(name)


def _apply(pool: SlotPool, task_id: str) -> None:
    request = {"delivery_info": {"routing_key": "taskengine.default"}}
    pool.on_apply(
        None,
        (None, None, request, json.dumps([[task_id, 1], {}, {}])),
        {},
        callback=lambda _: None,
        accept_callback=lambda _pid, _at: None,
    )


def test_slots_that_come_free_while_the_broker_goes_away_are_free_afterwards() -> None:
    pool, loop, consumer = SlotPool(app=SimpleNamespace(taskengine_host=_Host())), _Loop(), _Consumer()
    pool._state = pool.RUN
    pool.register_with_event_loop(loop)
    pool.attach(consumer)
    for n in range(SLOTS):
        _apply(pool, f"tsk_{n}")
    assert "taskengine.default" not in consumer.names
    consumer.broken = True
    for _ in range(SLOTS):
        pool.freed("default")
    with pytest.raises(ConnectionError):
        loop.turn()
    pool.detach()
    loop, consumer = _Loop(), _Consumer()  # Celery starts both anew
    pool.attach(consumer)
    pool.register_with_event_loop(loop)
    loop.turn()
    for n in range(SLOTS - 1):
        _apply(pool, f"tsk_again_{n}")
    assert pool.crowded("default") == ()
    assert "taskengine.default" in consumer.names
