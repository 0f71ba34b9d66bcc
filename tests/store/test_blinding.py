"""Digests of arguments: the same in every process and through every change of the keys, and no use to a reader."""

from __future__ import annotations

import asyncio
import base64

from pydantic import SecretStr

from taskengine.limits import per, slots_of, total
from taskengine.records import Entry, NewTask, Same
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.rekey import PLACES
from tests.store.calls import OWNER, claimed, new_task, take, worker
from tests.store.sql import execute

OLD, NEW = bytes([1] * 32), bytes([2] * 32)
LIMITS = [per("arg:customer", 1), per("owner", 5), total(20)]
SLOTS = slots_of("count", LIMITS, OWNER, {"customer": "ann"})
SAME = Same("a" * 64, 600_000)
ROTATION: tuple[tuple[bytes, ...], ...] = ((), (OLD,), (OLD, NEW), (NEW, OLD), (NEW,))


async def opened(settings: Settings, *keys: bytes) -> Store:
    texts = [SecretStr(base64.b64encode(key).decode()) for key in keys]
    return await Store.open(settings.model_copy(update={"encryption_keys": texts}))


async def seal_again(store: Store) -> None:
    for place in PLACES:
        await store.rekey.batch(place, None)


async def stored_keys(url: str, task_id: str) -> list[str]:
    ((keys,),) = await execute(url, "SELECT limit_keys FROM tasks WHERE id = $1", task_id)
    return list(keys)


async def test_a_digest_stays_the_same_through_a_whole_rotation(settings: Settings, database_url: str) -> None:
    """With the keys put in and taken out as docs/security.md says: what is dated before each step still counts."""
    seen, first = set(), new_task(same=SAME, slots=SLOTS)
    for number, ring in enumerate(ROTATION):
        store = await opened(settings, *ring)
        if number == 0:
            await store.tasks.create(first)
        task, doorbell = await store.tasks.create(new_task(same=SAME, slots=SLOTS))
        assert (task.id, doorbell) == (first.id, None), f"with {len(ring)} keys in step {number} the call ran again"
        other, _ = await store.tasks.create(new_task(slots=SLOTS))
        seen.add(tuple(await stored_keys(database_url, other.id)))
        if ring:
            await seal_again(store)
        await store.close()
    assert len(seen) == 1


async def test_a_limit_holds_between_two_processes_in_different_steps(settings: Settings) -> None:
    before, after = await opened(settings, OLD, NEW), await opened(settings, NEW, OLD)
    bells = [(await store.tasks.create(new_task(slots=SLOTS)))[1] for store in (before, after)]
    await worker(before, "w1")
    claims = [await take(store, bell) for store, bell in zip((before, after), bells, strict=True) if bell is not None]
    assert [claim is not None for claim in claims] == [True, False]
    await before.close()
    await after.close()


async def test_a_child_is_counted_as_the_call_of_a_client_is(settings: Settings, database_url: str) -> None:
    store = await opened(settings, OLD)
    called, _ = await store.tasks.create(new_task(slots=SLOTS))
    parent = await claimed(store, "w1", tool="parent")
    child = new_task(parent=parent.task_id, slots=SLOTS)
    await store.journal.record(parent, [Entry("1", "call", "count", done=False, child_id=child.id)], [child])
    assert await stored_keys(database_url, child.id) == await stored_keys(database_url, called.id)
    await store.close()


async def test_only_what_digests_arguments_is_keyed(settings: Settings, database_url: str) -> None:
    """An owner is a plain column, and the count of all calls tells nothing."""
    store = await opened(settings)
    task, _ = await store.tasks.create(new_task(slots=SLOTS, dedupe="d" * 64, same=SAME))
    of_argument, of_owner, of_all = await stored_keys(database_url, task.id)
    assert of_argument != SLOTS[0].key
    assert (of_owner, of_all) == (SLOTS[1].key, "count:total")
    ((dedupe, same),) = await execute(database_url, "SELECT dedupe, same FROM tasks WHERE id = $1", task.id)
    assert dedupe != "d" * 64
    assert same != SAME.name
    await store.close()


async def test_the_secret_is_read_once_and_only_where_it_is_needed(settings: Settings) -> None:
    store = await opened(settings)
    reads = 0
    secret = store.keys.secret

    async def counted(name: str) -> bytes:
        nonlocal reads
        reads += 1
        return await secret(name)

    store.keys.secret = counted  # type: ignore[method-assign,assignment]
    await store.tasks.create(new_task(slots=SLOTS[1:], same=Same("k" * 64)))
    assert reads == 0
    calls: list[NewTask] = [new_task(slots=SLOTS) for _ in range(10)]
    await asyncio.gather(*(store.tasks.create(call) for call in calls))
    await store.tasks.create(new_task(dedupe="d"))
    assert reads == 1
    await store.close()


async def test_processes_that_need_it_first_at_the_same_moment_agree(settings: Settings, database_url: str) -> None:
    stores = [await opened(settings, OLD) for _ in range(4)]
    made = await asyncio.gather(*(store.tasks.create(new_task(slots=SLOTS)) for store in stores))
    assert len({tuple(await stored_keys(database_url, task.id)) for task, _ in made}) == 1
    for store in stores:
        await store.close()
