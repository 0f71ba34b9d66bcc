"""Calls that are the same call, by a key or by their arguments; races are staged on two connections."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from taskengine.errors import KeyReused
from taskengine.records import Same
from taskengine.settings import Settings
from taskengine.store import Store
from tests.store.calls import OWNER, RESULT, new_task, take
from tests.store.sql import execute

KEY = Same("k" * 64)
TEN_MINUTES = Same("a" * 64, 600_000)


async def test_the_same_key_of_the_same_owner_leads_to_the_same_task(store: Store) -> None:
    first, _ = await store.tasks.create(new_task(same=KEY))
    again, doorbell = await store.tasks.create(new_task(same=KEY))
    assert (again.id, doorbell) == (first.id, None)
    other, doorbell = await store.tasks.create(new_task(same=KEY, owner="bob"))
    assert other.id != first.id
    assert doorbell is not None


@pytest.mark.parametrize("ends", ["complete", "is_error", "cancel"])
async def test_a_key_holds_however_its_task_ended(store: Store, ends: str) -> None:
    first, doorbell = await store.tasks.create(new_task(same=KEY))
    assert doorbell is not None
    claim = await take(store, doorbell)
    assert claim is not None
    if ends == "cancel":
        await store.tasks.cancel(first.id, OWNER)
    else:
        await store.attempts.complete(claim, RESULT, is_error=ends == "is_error", status_message="Completed")
    again, doorbell = await store.tasks.create(new_task(same=KEY))
    assert (again.id, again.terminal, doorbell) == (first.id, True, None)


@pytest.mark.parametrize("other", [{"arguments": {"n": 2}}, {"arguments": {"n": True}}, {"tool": "other"}])
async def test_a_key_of_another_call_is_refused_and_makes_nothing(store: Store, other: dict[str, object]) -> None:
    first, _ = await store.tasks.create(new_task(same=KEY))
    second = new_task(same=KEY, **other)
    with pytest.raises(KeyReused, match=first.id):
        await store.tasks.create(second)
    assert await store.tasks.get_many([second.id], OWNER) == {}


async def test_the_order_of_the_arguments_makes_no_other_call(store: Store) -> None:
    first, _ = await store.tasks.create(new_task(same=KEY, arguments={"a": 1, "b": {"c": 1, "d": 2}}))
    again, _ = await store.tasks.create(new_task(same=KEY, arguments={"b": {"d": 2, "c": 1}, "a": 1}))
    assert again.id == first.id


async def test_a_key_is_free_again_when_its_task_is_kept_no_longer(store: Store, database_url: str) -> None:
    first, doorbell = await store.tasks.create(new_task(same=KEY))
    assert doorbell is not None
    claim = await take(store, doorbell)
    assert claim is not None
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 second' WHERE id = $1", first.id)
    second, doorbell = await store.tasks.create(new_task(same=KEY))  # before any sweep
    assert second.id != first.id
    assert doorbell is not None


async def test_of_many_same_calls_at_two_front_ends_one_makes_the_task(settings: Settings) -> None:
    one, two = await Store.open(settings), await Store.open(settings)
    for same in (KEY, TEN_MINUTES):
        made = await asyncio.gather(
            *(store.tasks.create(new_task(same=same)) for store in (one, two) for _ in range(10))
        )
        assert len({record.id for record, _ in made}) == 1
        assert sum(doorbell is not None for _, doorbell in made) == 1
    await one.close()
    await two.close()


async def test_a_second_call_waits_for_the_first_that_is_not_committed_yet(
    settings: Settings, database_url: str
) -> None:
    """Staged: another front end has inserted under the key and has not committed when this one begins."""
    store = await Store.open(settings)
    template, _ = await store.tasks.create(new_task())
    copied = text(
        "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object("
        "'id', 'tsk_first', 'same', CAST(:name AS text)))).* FROM tasks t WHERE id = :template"
    )
    async with store._database.transaction() as connection:
        await connection.execute(copied, {"name": KEY.name, "template": template.id})
        second = asyncio.create_task(store.tasks.create(new_task(same=KEY)))
        for _ in range(200):
            waiting = await execute(
                database_url,
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            if waiting:
                break
            await asyncio.sleep(0.02)
        assert waiting, "the second insert does not wait for the first"
        assert not second.done()
    record, doorbell = await second
    assert (record.id, doorbell) == ("tsk_first", None)
    await store.close()


async def test_the_same_arguments_join_a_task_that_lives_however_long_ago_it_was_made(
    store: Store, database_url: str
) -> None:
    first, _ = await store.tasks.create(new_task(same=TEN_MINUTES))
    await execute(database_url, "UPDATE tasks SET created_at = created_at - interval '50 minutes'")
    again, doorbell = await store.tasks.create(new_task(same=TEN_MINUTES))
    assert (again.id, doorbell) == (first.id, None)


async def test_the_same_arguments_get_a_success_within_the_window_only(store: Store, database_url: str) -> None:
    first, doorbell = await store.tasks.create(new_task(same=TEN_MINUTES))
    assert doorbell is not None
    claim = await take(store, doorbell)
    assert claim is not None
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    again, doorbell = await store.tasks.create(new_task(same=TEN_MINUTES))
    assert (again.id, again.result, doorbell) == (first.id, RESULT, None)
    await execute(database_url, "UPDATE tasks SET created_at = created_at - interval '11 minutes'")
    later, doorbell = await store.tasks.create(new_task(same=TEN_MINUTES))
    assert later.id != first.id
    assert doorbell is not None


@pytest.mark.parametrize("ends", ["is_error", "fail", "cancel"])
async def test_the_same_arguments_are_tried_anew_after_a_failure(store: Store, ends: str) -> None:
    first, doorbell = await store.tasks.create(new_task(same=TEN_MINUTES))
    assert doorbell is not None
    claim = await take(store, doorbell)
    assert claim is not None
    if ends == "cancel":
        await store.tasks.cancel(first.id, OWNER)
    elif ends == "fail":
        await store.attempts.fail(claim, '{"code":1,"message":"no"}', status_message="no")
    else:
        await store.attempts.complete(claim, RESULT, is_error=True, status_message="no")
    second, doorbell = await store.tasks.create(new_task(same=TEN_MINUTES))
    assert second.id != first.id
    assert doorbell is not None
