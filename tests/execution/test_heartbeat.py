"""The lease of a worker process when renewing it goes wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from taskengine.errors import StoreUnavailable
from taskengine.execution.heartbeat import RENEWALS_PER_LEASE, Heartbeat
from taskengine.lifecycle import Phase
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.workers import Workers
from tests.store.calls import OWNER, claimed

LEASE = timedelta(seconds=3)


class _Heart:
    def __init__(self) -> None:
        self.fenced = threading.Event()
        self.unended: set[str] = set()
        """Worker ids of which something still runs."""

    def running(self) -> frozenset[tuple[str, int]]:
        return frozenset()

    def busy_with(self) -> str:
        return "-"

    def taken_away(self, attempts: frozenset[tuple[str, int]], looked: float) -> None: ...

    def fence(self) -> None:
        self.fenced.set()

    def over(self, worker_id: str) -> bool:
        return worker_id not in self.unended

    def call_soon(self, call: Callable[[], None]) -> None:
        call()


@pytest.fixture
def heart() -> _Heart:
    return _Heart()


@pytest.fixture
def heartbeat(settings: Settings, heart: _Heart) -> Iterator[Heartbeat]:
    beating = Heartbeat(settings.model_copy(update={"lease": LEASE}), ("default",), heart)
    beating.start()
    assert beating.wait_ready(20)
    yield beating
    beating.stop()


async def test_the_heartbeat_goes_on_after_an_error_of_any_kind(
    heartbeat: Heartbeat, heart: _Heart, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, failed = Workers.renew, threading.Event()

    async def fail_once(self: Workers, worker_id: str, lease_s: float) -> frozenset[tuple[str, int]] | None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("something nobody thought of")
        return await renew(self, worker_id, lease_s)

    monkeypatch.setattr(Workers, "renew", fail_once)
    assert await asyncio.to_thread(failed.wait, 10)
    await asyncio.sleep(LEASE.total_seconds())
    assert not heart.fenced.is_set()
    assert [each["id"] for each in await store.workers.alive()] == [heartbeat.worker_id]


async def test_everything_is_stopped_before_the_lease_ends_although_renewals_hang(
    heartbeat: Heartbeat, heart: _Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = threading.Event()

    async def hang(*_: Any) -> bool:
        hung.set()
        await asyncio.sleep(60)
        return True

    monkeypatch.setattr(Workers, "renew", hang)
    assert await asyncio.to_thread(hung.wait, 10)
    began = time.monotonic()  # a fifth of the lease, or less, after the last renewal
    assert await asyncio.to_thread(heart.fenced.wait, 10)
    assert time.monotonic() - began < 0.75 * LEASE.total_seconds()
    monkeypatch.undo()
    assert await asyncio.to_thread(heartbeat.wait_ready, 10)


async def test_a_lease_is_tried_often_while_the_store_is_away(
    settings: Settings, heart: _Heart, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More tries than there are renewals before it would stop everything: it is there when the store comes back."""
    renew, tries, back = Workers.renew, 8, threading.Event()
    assert tries > RENEWALS_PER_LEASE

    async def away(self: Workers, worker_id: str, lease_s: float) -> frozenset[tuple[str, int]] | None:
        nonlocal tries
        tries -= 1
        if tries >= 0:
            raise StoreUnavailable("away")
        back.set()
        return await renew(self, worker_id, lease_s)

    monkeypatch.setattr(Workers, "renew", away)
    beating = Heartbeat(settings.model_copy(update={"lease": 5 * LEASE}), ("default",), heart)
    beating.start()
    try:
        assert await asyncio.to_thread(back.wait, 20)
        assert not heart.fenced.is_set()
    finally:
        beating.stop()
    assert caplog.text.count("the lease was not renewed") == 1, "once, not with every try"


async def test_what_was_stopped_for_the_lease_is_handed_back_uncounted_once_it_has_ended(
    heartbeat: Heartbeat, heart: _Heart, store: Store
) -> None:
    old = heartbeat.worker_id
    heart.unended.add(old)
    claim = await claimed(store, old)
    heartbeat._fence()
    assert await asyncio.to_thread(heartbeat.wait_ready, 20)
    # It has registered anew, and what goes on under the old name is still held by it.
    assert old in {each["id"] for each in await store.workers.alive()}
    assert (await store.tasks.get(claim.task_id, OWNER)).phase is Phase.RUNNING
    heart.unended.clear()
    async with asyncio.timeout(20):
        while old in {each["id"] for each in await store.workers.alive()}:
            await asyncio.sleep(0.02)
    row = await store.inspection.show(claim.task_id)
    assert (row["phase"], row["crashes"], row["losses"]) == (Phase.QUEUED, 0, [])


async def test_a_hand_back_that_fails_for_a_reason_nobody_thought_of_keeps_no_worker_from_registering(
    heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> int:
        raise RuntimeError("something nobody thought of")

    monkeypatch.setattr(Workers, "resign", fail)
    heartbeat._fence()
    assert await asyncio.to_thread(heartbeat.wait_ready, 20)


async def test_a_loop_that_stands_still_is_told_with_the_tool_that_blocks_it(
    heartbeat: Heartbeat, heart: _Heart, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heart, "busy_with", lambda: "hog")
    monkeypatch.setattr(heart, "call_soon", lambda _: None)  # nothing runs on the main loop any more
    async with asyncio.timeout(20):
        while "an async tool blocks it: hog" not in caplog.text:
            await asyncio.sleep(0.05)
    assert caplog.text.count("blocks it") == 1
