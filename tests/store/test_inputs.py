from __future__ import annotations

from functools import partial

import pytest

from taskengine.lifecycle import Phase, Status
from taskengine.store import Store
from tests.store.calls import OWNER, claimed, question, take
from tests.store.sql import execute
from tests.store.staged import Stage

YES = {"action": "accept", "content": {"name": "Ann"}}
NO = {"action": "decline"}


async def test_the_last_answer_makes_the_next_attempt_due(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a"), question("b")], "Waiting")
    assert await store.inputs.answer(claim.task_id, OWNER, {"b": YES}) is None
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, [each.key for each in record.open_questions]) == (Status.INPUT_REQUIRED, ["a"])
    doorbell = await store.inputs.answer(claim.task_id, OWNER, {"a": NO})
    assert doorbell is not None
    again = await take(store, doorbell, "w2")
    assert again is not None
    assert {key: each.response for key, each in again.answers.items()} == {"a": NO, "b": YES}


async def test_the_first_answer_to_a_question_wins(store: Store, stage: Stage, database_url: str) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a"), question("b")], "Waiting")
    answers = [partial(store.inputs.answer, claim.task_id, OWNER, {"a": {"action": f"{n}"}}) for n in range(4)]
    await stage.behind(claim.task_id, answers)
    (first,) = await execute(database_url, "SELECT response FROM inputs WHERE key = 'a'")
    await store.inputs.answer(claim.task_id, OWNER, {"a": YES})
    (later,) = await execute(database_url, "SELECT response FROM inputs WHERE key = 'a'")
    assert first == later


@pytest.mark.parametrize("keys", ["ab", "ba"])
async def test_two_last_answers_at_once_make_exactly_one_attempt_due(store: Store, stage: Stage, keys: str) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a"), question("b")], "Waiting")
    answers = [partial(store.inputs.answer, claim.task_id, OWNER, {key: YES}) for key in keys]
    rung = await stage.behind(claim.task_id, answers)
    assert sum(doorbell is not None for doorbell in rung) == 1
    assert (await store.tasks.get(claim.task_id, OWNER)).phase is Phase.QUEUED


@pytest.mark.parametrize("first", ["answer", "cancel"])
async def test_an_answer_and_a_cancel_at_once_leave_one_end(store: Store, stage: Stage, first: str) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("a")], "Waiting")
    moves = [
        partial(store.inputs.answer, claim.task_id, OWNER, {"a": YES}),
        partial(store.tasks.cancel, claim.task_id, OWNER),
    ]
    await stage.behind(claim.task_id, moves if first == "answer" else moves[::-1])
    assert (await store.tasks.get(claim.task_id, OWNER)).status is Status.CANCELLED


async def test_unknown_keys_and_ended_tasks_are_ignored(store: Store) -> None:
    claim = await claimed(store)
    assert await store.inputs.answer(claim.task_id, OWNER, {"never": YES}) is None
    await store.attempts.suspend(claim, [question("a")], "Waiting")
    await store.tasks.cancel(claim.task_id, OWNER)
    assert await store.inputs.answer(claim.task_id, OWNER, {"a": YES}) is None


@pytest.mark.parametrize("key", ["na\x00me", "\ud800"])
async def test_a_key_that_postgres_cannot_hold_is_ignored_as_any_unknown_one(store: Store, key: str) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question()], "Waiting")
    assert await store.inputs.answer(claim.task_id, OWNER, {key: {"action": "accept"}}) is None
    assert len((await store.tasks.get(claim.task_id, OWNER)).open_questions) == 1
