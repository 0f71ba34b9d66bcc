"""The plans of the statements that a poll, a create, a claim and a completion send, as PostgreSQL runs them.

The store sends each for real while its text and arguments are taken down; then the same is explained for a task in the
same state, in a transaction that is rolled back.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from pydantic import SecretStr

from taskengine.records import Claim, NewTask
from taskengine.settings import Settings
from taskengine.store import Store, database
from taskengine.store.bounds import Bounds

__all__ = ["overheard", "plans"]

OWNER = "profiled"
RESULT = '{"content":[{"type":"text","text":"done"}]}'
WITHIN = Bounds(owner_open=1000, all_open=None, all_queued=None, route_queued=None)
"""As callers with tokens have it by default."""
_Sent = list[tuple[str, list[Any]]]


@contextmanager
def overheard() -> Iterator[_Sent]:
    """Every statement that the store of this process sends meanwhile."""
    sent: _Sent = []
    original = database._text  # noqa: SLF001 - the one place that all of them pass

    def text(statement: Any, values: Any) -> tuple[str, list[Any]]:
        found = original(statement, values)
        sent.append(found)
        return found

    database._text = text  # noqa: SLF001
    try:
        yield sent
    finally:
        database._text = original  # noqa: SLF001


def _new() -> NewTask:
    return NewTask(
        id=f"tsk_{secrets.token_urlsafe(24)}",
        owner=OWNER,
        tool="nothing",
        queue="default",
        arguments={},
        capabilities={},
        ttl_ms=3_600_000,
        poll_interval_ms=1000,
    )


async def plans(url: str) -> dict[str, list[str]]:
    """By what is done: the plan of each statement, as `EXPLAIN (ANALYZE, BUFFERS)` writes it."""
    store = await Store.open(Settings(database_url=SecretStr(url), namespace="profiled"))
    connection = await asyncpg.connect(url, server_settings=database._PLANNING)  # noqa: SLF001 - as the store's own
    try:
        await store.workers.register("profiler", host="here", pid=1, queues=["default"], presence_key=None, lease_s=600)
        for _ in range(20):  # what is prepared once, and pages that are read once, are no part of a plan
            await store.tasks.create(_new(), WITHIN)
            await _completed(store, await _claimed(store))
        found = {}
        with overheard() as sent:
            first, _ = await store.tasks.create(_new(), WITHIN)
        found["create"] = await _explained(connection, sent, {first.id: f"tsk_{secrets.token_urlsafe(24)}"})
        with overheard() as sent:
            await store.tasks.get(first.id, OWNER)
        found["poll"] = await _explained(connection, sent, {})
        with overheard() as sent:
            claim = await _claimed(store)
        await store.tasks.create(_new(), WITHIN)
        found["claim"] = await _explained(connection, sent, {})
        other = await _claimed(store)
        with overheard() as sent:
            await _completed(store, claim)
        found["completion"] = await _explained(connection, sent, {claim.task_id: other.task_id})
        await _completed(store, other)
        return found
    finally:
        await connection.close()
        await store.close()


async def _claimed(store: Store) -> Claim:
    claim = await store.attempts.claim_next(["default"], "profiler")
    assert claim is not None
    return claim


async def _completed(store: Store, claim: Claim) -> None:
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="Completed")


async def _explained(connection: Any, sent: _Sent, instead: dict[str, str]) -> list[str]:
    """With one task in the place of another, which is no longer as the statement found it."""

    def other(value: Any) -> Any:
        if isinstance(value, list):
            return [other(each) for each in value]
        return instead.get(value, value) if isinstance(value, str) else value

    texts = []
    for sql, arguments in sent:
        transaction = connection.transaction()
        await transaction.start()
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", *map(other, arguments))
        await transaction.rollback()
        texts.append("\n".join(row[0] for row in rows))
    return texts
