from __future__ import annotations

import asyncio

import pytest

from taskengine.records import Claim
from taskengine.store import Store
from tests.store.calls import RESULT, claimed, stored
from tests.store.sql import execute


async def _completed(store: Store, claim: Claim) -> None:
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")


async def test_a_watcher_hears_of_its_tasks_only(store: Store) -> None:
    mine, other = await claimed(store), await claimed(store)
    async with store.changes.watch([mine.task_id]) as watch:
        await watch.next(1.5)  # the first look marks everything once
        await _completed(store, other)
        assert await watch.next(0.3) == set()
        await _completed(store, mine)
        assert await watch.next(5) == {mine.task_id}


async def test_a_lost_notification_costs_a_second_and_no_hang(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    async with store.changes.watch([claim.task_id]) as watch:
        await watch.next(1.5)
        await execute(database_url, "UPDATE tasks SET updated_at = clock_timestamp()")
        assert await watch.next(5) == {claim.task_id}


async def test_watching_goes_on_when_the_listening_session_is_ended(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    async with store.changes.watch([claim.task_id]) as watch:
        await watch.next(1.5)
        await execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskengine listener'"
            " AND datname = current_database()",
        )
        await _completed(store, claim)
        seen: set[str] = set()
        while not seen:
            seen = await asyncio.wait_for(watch.next(5), 10)
        assert seen == {claim.task_id}


async def test_all_processes_hear_that_the_list_of_tools_changed(store: Store) -> None:
    async with store.changes.watch_tools() as watch:
        heard = False
        for _ in range(50):  # the listening session is being opened
            await store.changes.announce_tools()
            heard = await watch.next(0.1)
            if heard:
                break
        assert heard


async def test_looking_for_changes_goes_on_after_an_error_of_any_kind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = store.changes._look, 0

    async def fail_once() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("something nobody thought of")
        await look()

    monkeypatch.setattr(store.changes, "_look", fail_once)
    bell = await stored(store)
    async with asyncio.timeout(10), store.changes.watch([bell.task_id]):
        while looks < 2:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("turns", range(5))
async def test_a_watcher_that_is_cancelled_as_a_change_comes_ends(store: Store, turns: int) -> None:
    """Whoever waits here is often ended by cancellation, just when something changes as well."""
    async with store.changes.watch(["tsk"]) as watch:
        waiting = asyncio.create_task(watch.next(60))
        await asyncio.sleep(0.01)
        watch.mark("tsk")
        for _ in range(turns):
            await asyncio.sleep(0)
        accepted = waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled() is accepted
