"""Shorthand for tests of the store: a stored call, a registered worker, a claim."""

from __future__ import annotations

import secrets
from typing import Any

from taskengine.records import Claim, Doorbell, NewTask, Question
from taskengine.store import Store

OWNER = "ann"
RESULT = '{"content":[{"type":"text","text":"kept"}]}'
LEASE_S = 15.0


def new_task(**changes: Any) -> NewTask:
    values: dict[str, Any] = {
        "id": f"tsk_{secrets.token_urlsafe(24)}",
        "owner": OWNER,
        "tool": "count",
        "queue": "default",
        "arguments": {"n": 1},
        "capabilities": {"elicitation": {}},
        "ttl_ms": 3_600_000,
        "poll_interval_ms": 30_000,
    }
    return NewTask(**values | changes)


async def stored(store: Store, **changes: Any) -> Doorbell:
    _, doorbell = await store.tasks.create(new_task(**changes))
    assert doorbell is not None
    return doorbell


async def worker(store: Store, worker_id: str, lease_s: float = LEASE_S, presence_key: int | None = None) -> str:
    await store.workers.register(
        worker_id, host="here", pid=1, queues=["default"], presence_key=presence_key, lease_s=lease_s
    )
    return worker_id


async def take(store: Store, doorbell: Doorbell, worker_id: str = "w1") -> Claim | None:
    """The worker's claim; it registers first where it has not yet."""
    if worker_id not in {each["id"] for each in await store.workers.alive()}:
        await worker(store, worker_id)
    return await store.attempts.claim(doorbell, worker_id)


async def claimed(store: Store, worker_id: str = "w1", **changes: Any) -> Claim:
    claim = await take(store, await stored(store, **changes), worker_id)
    assert claim is not None
    return claim


def question(key: str = "name") -> Question:
    return Question(key, "elicitation/create", {"message": "Who?", "requestedSchema": {"type": "object"}})
