"""The wrapper that repeats writes is no empty one."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import text

from taskengine.errors import ClaimLost
from taskengine.lifecycle import Status
from taskengine.losses import Loss
from taskengine.records import Doorbell
from taskengine.settings import Settings
from taskengine.store import Store
from tests.store.calls import OWNER, RESULT, claimed
from tests.store.doubt import NOT_REPEATED, READS, REPEATED, Doubtful, writes_of
from tests.store.sql import execute


def test_of_every_write_it_is_known_whether_somebody_repeats_it(store: Store) -> None:
    named = {f"{noun}.{name}" for table in (REPEATED, READS) for noun, names in table.items() for name in names}
    assert writes_of(store) == named | set(NOT_REPEATED)
    assert not named & set(NOT_REPEATED)


async def test_a_write_that_counts_twice_would_be_seen(settings: Settings, database_url: str) -> None:
    """The same store with one statement spoiled: its repetition is not refused, and the database shows it."""
    store = Doubtful(settings)
    counting = text("UPDATE tasks SET ran_ms = ran_ms + 1 WHERE id = :id RETURNING id")

    async def add(task_id: str) -> None:
        await store._database.run(counting, {"id": task_id})

    claim = await claimed(store)
    setattr(store.attempts, "fail", add)  # noqa: B010
    store.doubt(random.Random(4))
    writes = 0
    while "attempts.fail" not in store.repeated:
        await store.attempts.fail(claim.task_id)  # type: ignore[call-arg,arg-type]
        writes += 1
    (row,) = await execute(database_url, "SELECT ran_ms FROM tasks")
    assert row["ran_ms"] > writes
    await store.close()


@pytest.mark.parametrize("crashes", [3, 1])
async def test_what_was_not_heard_is_what_the_first_write_would_have_told(settings: Settings, crashes: int) -> None:
    """Also where the repetition is refused: the caller's code after the commit has not been gone through then."""
    store = Doubtful(settings)
    claim = await claimed(store)
    store.doubt(_Once())
    told = await store.attempts.lose(claim, Loss("killed"), crashes)
    assert store.repeated == ["attempts.lose"]
    assert told == (Doorbell(claim.task_id, 2, "default") if crashes == 3 else None)
    assert (await store.inspection.show(claim.task_id))["crashes"] == 1
    with pytest.raises(ClaimLost):
        await store.attempts.lose(claim, Loss("killed"), crashes)
    await store.close()


class _Once(random.Random):
    """The first answer is lost, and none after it."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    def random(self) -> float:
        self._asked += 1
        return 0.0 if self._asked == 1 else 1.0


async def test_the_engine_writes_again_what_it_did_not_hear_of(settings: Settings) -> None:
    store = Doubtful(settings)
    store.doubt(random.Random(1))
    for _ in range(5):
        claim = await claimed(store)
        await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")
        assert (await store.tasks.get(claim.task_id, OWNER)).status is Status.COMPLETED
    assert {"tasks.create", "attempts.claim", "attempts.complete"} <= set(store.repeated)
    await store.close()
