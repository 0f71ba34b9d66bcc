"""The pool's slots, without Celery's consumer around it."""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from taskengine.jobs.app import MOST_IN_ONE
from taskengine.jobs.bell import BUSY_S, GATHER_S, LONGEST_S, Bell
from taskengine.jobs.pool import SlotPool
from taskengine.records import Doorbell
from taskengine.settings import Settings

SLOTS = 3


class _Host:
    """Attempts begin and end when the test says so."""

    settings = Settings(async_slots=SLOTS, sync_slots=1)
    routes = ("default", "default.sync")

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.rung: list[str] = []
        self.decide: list[Callable[[], None]] = []

    def start(self, pool: SlotPool) -> None: ...

    def offer(self, doorbells: Sequence[Doorbell], settled: Callable[[], None]) -> None:
        self.offered += [doorbell.task_id for doorbell in doorbells]
        self.decide.append(settled)

    def ring(self, doorbell: Doorbell) -> None:
        self.rung.append(doorbell.task_id)

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


def _apply(pool: SlotPool, task_id: str, *more: Any, forget: Callable[[Any], None] = lambda _: None) -> None:
    request = {"delivery_info": {"routing_key": "taskengine.default"}}
    options = {"more": more} if more else {}
    pool.on_apply(
        None,
        (None, None, request, json.dumps([[task_id, 1], options, {}])),
        {},
        callback=forget,
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


def test_a_job_of_several_doorbells_takes_the_free_slots_and_what_is_left_is_rung_for_others() -> None:
    host, forgotten = _Host(), list[Any]()
    pool, loop, consumer = SlotPool(app=SimpleNamespace(taskengine_host=host)), _Loop(), _Consumer()
    pool._state = pool.RUN
    pool.register_with_event_loop(loop)
    pool.attach(consumer)
    _apply(pool, "a", ("b", 1), ("c", 1), ("d", 1), forget=forgotten.append)
    assert (host.offered, host.rung) == (["a", "b", "c"], ["d"])
    assert "taskengine.default" not in consumer.names
    loop.turn()
    assert not forgotten
    (decided,) = host.decide
    decided()
    loop.turn()
    assert len(forgotten) == 1


@pytest.mark.parametrize("more", [[1], [["b"]], [[1, "b"]], "bc", 7, [None]])
def test_a_job_with_anything_else_among_its_doorbells_is_dropped_whole(more: Any) -> None:
    host, forgotten = _Host(), list[Any]()
    pool = SlotPool(app=SimpleNamespace(taskengine_host=host))
    pool._state = pool.RUN
    request = {"delivery_info": {"routing_key": "taskengine.default"}}
    body = json.dumps([["a", 1], {"more": more}, {}])
    pool.on_apply(None, (None, None, request, body), {}, callback=forgotten.append, accept_callback=lambda *_: None)
    assert (host.offered, host.rung, len(forgotten)) == ([], [], 1)


def _messages(monkeypatch: pytest.MonkeyPatch, bell: Bell, count: int) -> list[tuple[Doorbell, ...]]:
    """What goes to the broker in this order when all that has been rung goes into so many messages."""
    messages: list[tuple[Doorbell, ...]] = []
    monkeypatch.setattr(bell, "_send", lambda *doorbells: messages.append(doorbells))
    monkeypatch.setattr("taskengine.jobs.bell.time.monotonic", lambda: 100.0)
    monkeypatch.setattr("taskengine.jobs.bell.time.sleep", lambda _: None)
    for _ in range(count):
        bell._publish(bell._next()[0])
    return messages


def test_doorbells_that_gather_go_together_by_route_and_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    bell = Bell(Settings())
    for route, count in (("default", 7), ("default.sync", 2), ("gpu", 1), ("default", 1)):
        for n in range(count):
            bell.ring(Doorbell(f"{route}-{n}", 1, route))
    messages = _messages(monkeypatch, bell, 7)
    assert [len(doorbells) for doorbells in messages] == [1, 2, 4, 1, 1, 1, 1]
    assert [doorbell.task_id for doorbells in messages[:3] for doorbell in doorbells] == [
        f"default-{n}" for n in range(7)
    ]
    assert [{doorbell.queue for doorbell in doorbells} for doorbells in messages[3:]] == [
        {"default.sync"},
        {"default.sync"},
        {"gpu"},
        {"default"},
    ]


def test_what_is_rung_at_one_moment_is_spread_over_messages_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message goes to one worker: the first ones must not be given all, and the thousandth needs few."""
    bell = Bell(Settings())
    for n in range(150):
        bell.ring(Doorbell(str(n), 1, "default"))
    sizes = [len(doorbells) for doorbells in _messages(monkeypatch, bell, 9)]
    assert sizes == [1, 2, 4, 8, 16, *[MOST_IN_ONE] * 3, 150 - 31 - 3 * MOST_IN_ONE]


def _gathered(monkeypatch: pytest.MonkeyPatch, bell: Bell, route: str, count: int) -> tuple[int, list[float]]:
    """Of so many doorbells, and one more while the bell waits: how many go in one message, and the seconds waited."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        bell.ring(Doorbell("late", 1, route))

    monkeypatch.setattr("taskengine.jobs.bell.time.sleep", wait)
    for n in range(count):
        bell.ring(Doorbell(str(n), 1, route))
    return len(bell._next()[0]), waits


def test_soon_after_a_message_doorbells_gather_and_one_that_comes_alone_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("taskengine.jobs.bell.time.monotonic", lambda: now[0])
    bell = Bell(Settings())
    monkeypatch.setattr(bell, "_send", lambda *_: None)
    assert _gathered(monkeypatch, bell, "default", 1) == (1, [])
    bell._publish([Doorbell("before", 1, "default")])
    now[0] += BUSY_S / 2
    assert _gathered(monkeypatch, bell, "default", 1) == (1, [])  # as the last one did
    bell._publish([Doorbell(str(n), 1, "default") for n in range(MOST_IN_ONE)])
    assert _gathered(monkeypatch, bell, "default", 2) == (3, [LONGEST_S])
    bell._publish([Doorbell(name, 1, "default") for name in ("before", "beside")])
    bell._publish([Doorbell("alone", 1, "default.sync")])
    now[0] += BUSY_S / 2
    assert _gathered(monkeypatch, bell, "default", 2) == (3, [GATHER_S])
    assert _gathered(monkeypatch, bell, "default", 4) == (4, [])  # twice the last is full already
    assert _gathered(monkeypatch, bell, "default.sync", 1) == (1, [])  # goes alone in any case
    now[0] += BUSY_S
    assert _gathered(monkeypatch, bell, "default", 1) == (1, [])


def test_celerys_thread_is_woken_when_slots_go_from_none_to_some_and_not_at_each_end() -> None:
    pool, loop, consumer = SlotPool(app=SimpleNamespace(taskengine_host=_Host())), _Loop(), _Consumer()
    pool._state = pool.RUN
    pool.register_with_event_loop(loop)
    loop.turn()
    pool.attach(consumer)
    for n in range(SLOTS):
        _apply(pool, f"tsk_{n}")
    assert "taskengine.default" not in consumer.names
    woken = []
    for _ in range(SLOTS):
        pool.freed("default")
        woken.append(bool(select.select([pool._wake_r], [], [], 0)[0]))
        loop.turn()
    assert woken == [True, False, False]
    assert "taskengine.default" in consumer.names
    _apply(pool, "a", *((f"m{n}", 1) for n in range(SLOTS)))
    assert pool.crowded("default")  # all of them are free again
