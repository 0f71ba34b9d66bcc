"""How deep a task stands below others."""

from __future__ import annotations

from taskengine.records import Entry
from taskengine.store import Store
from tests.store.calls import claimed, new_task, take


async def test_the_depth_counts_the_tasks_above_up_to_a_limit(store: Store) -> None:
    claim = await claimed(store)
    depths = [await store.children.depth(claim.task_id, 32)]
    for _ in range(4):
        child = new_task(owner=claim.owner, parent=claim.task_id)
        (doorbell,) = await store.journal.record(claim, [Entry("1", "call", "count", child_id=child.id)], [child])
        taken = await take(store, doorbell)
        assert taken is not None
        claim = taken
        depths.append(await store.children.depth(claim.task_id, 32))
    assert depths == [0, 1, 2, 3, 4]
    assert await store.children.depth(claim.task_id, 2) == 2
    assert await store.children.depth("tsk_unknown", 32) == 0
