"""The wrapper that repeats writes is no empty one."""

from __future__ import annotations

import random

from taskengine.lifecycle import Status
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.database import Database
from tests.store.calls import OWNER, RESULT, claimed
from tests.store.doubt import NOT_REPEATED, READS, REPEATED, Doubtful, writes_of
from tests.store.sql import execute


def test_of_every_write_it_is_known_whether_somebody_repeats_it(store: Store) -> None:
    named = {f"{noun}.{name}" for table in (REPEATED, READS) for noun, names in table.items() for name in names}
    assert writes_of(store) == named | set(NOT_REPEATED)
    assert not named & set(NOT_REPEATED)


async def test_a_write_that_counts_twice_would_be_seen(settings: Settings, database_url: str) -> None:
    """The same store with one statement spoiled: its repetition is not refused, and the database shows it."""
    store = Doubtful(Database(settings))

    async def add(task_id: str) -> None:
        await execute(database_url, "UPDATE tasks SET ran_ms = ran_ms + 1 WHERE id = $1", task_id)

    claim = await claimed(store)
    setattr(store.attempts, "fail", add)  # noqa: B010
    store.doubt(random.Random(4))
    while "attempts.fail" not in store.repeated:
        await store.attempts.fail(claim.task_id)  # type: ignore[call-arg,arg-type]
    (row,) = await execute(database_url, "SELECT ran_ms FROM tasks")
    assert row["ran_ms"] > 1
    await store.close()


async def test_the_engine_writes_again_what_it_did_not_hear_of(settings: Settings) -> None:
    store = Doubtful(Database(settings))
    store.doubt(random.Random(1))
    for _ in range(5):
        claim = await claimed(store)
        await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
        assert (await store.tasks.get(claim.task_id, OWNER)).status is Status.COMPLETED
    assert {"tasks.create", "attempts.claim", "attempts.complete"} <= set(store.repeated)
    await store.close()
