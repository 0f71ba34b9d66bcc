from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from pydantic import SecretStr

from taskengine.errors import TaskNotFound
from taskengine.lifecycle import Phase, Status
from taskengine.settings import Settings
from taskengine.store import Store, migrate
from tests.store.calls import OWNER, RESULT, claimed, new_task, question, stored, take
from tests.store.sql import execute

MOVED = """UPDATE tasks SET created_at = created_at - interval '3 hours', ended_at = ended_at - interval '2 hours'
    WHERE id = $1"""


async def test_a_stored_call_can_be_read_at_once(store: Store) -> None:
    doorbell = await stored(store)
    record = await store.tasks.get(doorbell.task_id, OWNER)
    assert (record.status, record.phase, record.attempt) == (Status.WORKING, Phase.QUEUED, 0)
    assert doorbell.attempt == 1


async def test_creating_again_with_the_same_id_changes_nothing_and_rings_until_a_worker_has_it(store: Store) -> None:
    """Whoever creates again did not hear that it was stored, and did not ring."""
    new = new_task()
    first, doorbell = await store.tasks.create(new)
    again, same = await store.tasks.create(new)
    assert doorbell is not None
    assert same == doorbell
    assert again.created_at == first.created_at
    assert await take(store, doorbell) is not None
    again, none = await store.tasks.create(new)
    assert again.created_at == first.created_at
    assert none is None


async def test_a_nonce_makes_one_task_only(store: Store) -> None:
    first, _ = await store.tasks.create(new_task(nonce="once"))
    second, doorbell = await store.tasks.create(new_task(nonce="once"))
    assert second.id == first.id
    assert doorbell is None


async def test_a_call_joins_the_live_task_of_its_owner_that_has_its_digest(store: Store) -> None:
    first, _ = await store.tasks.create(new_task(dedupe="same"))
    again, doorbell = await store.tasks.create(new_task(dedupe="same"))
    assert again.id == first.id
    assert doorbell is None
    for other in (new_task(dedupe="other"), new_task(dedupe="same", owner="bob"), new_task()):
        made, doorbell = await store.tasks.create(other)
        assert made.id == other.id
        assert doorbell is not None


async def test_a_call_does_not_join_a_task_that_has_ended(store: Store) -> None:
    first, _ = await store.tasks.create(new_task(dedupe="same"))
    await store.tasks.cancel(first.id, OWNER)
    second, doorbell = await store.tasks.create(new_task(dedupe="same"))
    assert second.id != first.id
    assert doorbell is not None


async def test_of_many_same_calls_at_once_one_makes_the_task(store: Store) -> None:
    made = await asyncio.gather(*(store.tasks.create(new_task(dedupe="same")) for _ in range(20)))
    assert len({record.id for record, _ in made}) == 1
    assert len([doorbell for _, doorbell in made if doorbell is not None]) == 1


async def test_recent_tasks_are_those_that_live_or_ended_lately_newest_first(store: Store, database_url: str) -> None:
    ids = [(await store.tasks.create(new_task()))[0].id for _ in range(4)]
    await store.tasks.create(new_task(owner="bob"))
    for task_id in ids[:2]:
        await store.tasks.cancel(task_id, OWNER)
    await execute(database_url, MOVED, ids[0])
    found = await store.tasks.recent(OWNER, 3600.0, 10)
    assert [record.id for record in found] == [ids[3], ids[2], ids[1]]
    assert [record.id for record in await store.tasks.recent(OWNER, 3600.0, 1)] == [ids[3]]


async def test_the_nonce_of_another_owner_reveals_nothing(store: Store) -> None:
    await store.tasks.create(new_task(nonce="once"))
    with pytest.raises(TaskNotFound):
        await store.tasks.create(new_task(nonce="once", owner="bob"))


async def test_unknown_and_foreign_and_expired_ids_are_the_same_error(store: Store, database_url: str) -> None:
    foreign = await stored(store)
    claim = await claimed(store, ttl_ms=1000)
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    await execute(
        database_url, "UPDATE tasks SET expires_at = now() - interval '1 second' WHERE id = $1", claim.task_id
    )
    messages = set()
    for task_id, owner in (("tsk_none", OWNER), (foreign.task_id, "bob"), (claim.task_id, OWNER)):
        for use in (store.tasks.get, store.tasks.cancel, lambda id_, by: store.inputs.answer(id_, by, {})):
            with pytest.raises(TaskNotFound) as caught:
                await use(task_id, owner)
            messages.add(str(caught.value))
    assert len(messages) == 1


async def test_get_many_leaves_out_what_the_owner_may_not_see(store: Store) -> None:
    mine, foreign = await stored(store), await stored(store, owner="bob")
    assert set(await store.tasks.get_many([mine.task_id, foreign.task_id, "tsk_none"], OWNER)) == {mine.task_id}


async def test_heads_say_how_tasks_stand_without_what_may_be_large(store: Store) -> None:
    foreign = await stored(store, owner="bob")
    done, failed, asking = await claimed(store), await claimed(store), await claimed(store)
    await store.attempts.complete(done, RESULT, is_error=True, status_message="Completed")
    await store.attempts.fail(failed, '{"code":-32603,"message":"no"}', status_message="no")
    await store.attempts.suspend(asking, [question()], "Waiting")
    ids = [done.task_id, failed.task_id, asking.task_id]
    whole = await store.tasks.get_many(ids, OWNER)
    heads = await store.tasks.heads([*ids, foreign.task_id, "tsk_none"], OWNER)
    assert set(heads) == set(ids)
    for task_id in ids:
        assert whole[task_id].result or whole[task_id].error or whole[task_id].open_questions
        bare = replace(whole[task_id], result=None, error=None, open_questions=(), now=heads[task_id].now)
        assert heads[task_id] == bare


@pytest.mark.parametrize("state", ["queued", "running", "waiting"])
async def test_cancel_settles_a_live_task_in_every_phase(store: Store, state: str) -> None:
    doorbell = await stored(store)
    claim = None if state == "queued" else await take(store, doorbell, "w1")
    if state == "waiting":
        assert claim is not None
        await store.attempts.suspend(claim, [question()], "Waiting")
    await store.tasks.cancel(doorbell.task_id, OWNER)
    record = await store.tasks.get(doorbell.task_id, OWNER)
    assert record.status is Status.CANCELLED
    assert record.open_questions == ()
    assert await take(store, doorbell, "w2") is None


async def test_cancel_of_an_ended_task_changes_nothing(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
    before = await store.tasks.get(claim.task_id, OWNER)
    await store.tasks.cancel(claim.task_id, OWNER)
    after = await store.tasks.get(claim.task_id, OWNER)
    assert (after.status, after.result, after.updated_at) == (Status.COMPLETED, RESULT, before.updated_at)


async def test_a_poll_interval_of_months_is_stored_as_the_longest_there_is(store: Store) -> None:
    record, _ = await store.tasks.create(new_task(poll_interval_ms=90 * 86_400_000))
    assert record.poll_interval_ms == 30_000


async def test_options_in_the_address_are_understood(database_url: str) -> None:
    url = f"{database_url}{'&' if '?' in database_url else '?'}sslmode=prefer&application_name=ours"
    opened = await Store.open(Settings(database_url=SecretStr(url)))
    try:
        await opened.health()
    finally:
        await opened.close()
    await asyncio.to_thread(migrate.upgrade, url)
