from __future__ import annotations

import asyncio

from taskengine.records import Question
from taskengine.store import Store
from taskengine.store.sessions import Notice, SessionState
from tests.store.calls import stored
from tests.store.sql import execute

FORM = {"mode": "form", "message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}


async def test_a_session_nothing_is_known_of_is_alive(store: Store) -> None:
    assert await store.sessions.state("new") == SessionState()
    await store.sessions.set_level("new", "error", 60)
    assert await store.sessions.state("new") == SessionState(ended=False, log_level="error")
    await store.sessions.end("new", 60)
    assert await store.sessions.state("new") == SessionState(ended=True, log_level="error")


async def test_sessions_and_letters_past_their_time_are_swept(store: Store, database_url: str) -> None:
    await store.sessions.end("old", -1)
    await store.sessions.end("new", 60)
    await store.sessions.post("late", "{}")
    await execute(database_url, "UPDATE letters SET expires_at = now() - interval '1 second'")
    await store.sessions.sweep()
    assert (await store.sessions.state("old")).ended is False
    assert (await store.sessions.state("new")).ended is True
    assert await store.sessions.fetch("late") is None


async def test_a_letter_is_fetched_once_and_the_first_counts(store: Store) -> None:
    await store.sessions.post("a", "1")
    await store.sessions.post("a", "2")
    assert await store.sessions.fetch("a") == "1"
    assert await store.sessions.fetch("a") is None


async def test_a_notice_is_heard(store: Store) -> None:
    heard: asyncio.Queue[Notice] = asyncio.Queue()
    store.changes.on_notice.append(heard.put_nowait)
    await store.changes.hear()
    await store.sessions.tell(Notice("s", "task", "tsk_1"))
    await store.sessions.tell(Notice("s", "ended", ""))
    async with asyncio.timeout(5):
        assert [await heard.get(), await heard.get()] == [Notice("s", "task", "tsk_1"), Notice("s", "ended", "")]


async def test_a_question_is_offered_by_one_stream_at_a_time(store: Store, database_url: str) -> None:
    doorbell = await stored(store)
    await store.workers.register("w", host="h", pid=1, queues=["default"], presence_key=None, lease_s=60)
    claim = await store.attempts.claim(doorbell, "w")
    assert claim is not None
    task_id = claim.task_id
    await store.attempts.suspend(claim, [Question("a", "elicitation/create", FORM)], "Waiting")
    offer, renew = store.inputs.offer, store.inputs.renew
    assert await offer(task_id, ["a", "b"], "one", 60) == {"a"}
    assert await offer(task_id, ["a"], "two", 60) == set()
    assert await renew(task_id, ["a"], "one", 60) == {"a"}
    assert await renew(task_id, ["a"], "two", 60) == set()
    await store.inputs.take_back(task_id, stream="two")
    assert await offer(task_id, ["a"], "two", 60) == set()
    await store.inputs.take_back(task_id, stream="one")
    assert await offer(task_id, ["a"], "two", -1) == {"a"}
    assert await offer(task_id, ["a"], "three", 60) == {"a"}  # the second was silent for too long
    await store.inputs.take_back(task_id, key="a")
    assert await renew(task_id, ["a"], "three", 60) == set()
