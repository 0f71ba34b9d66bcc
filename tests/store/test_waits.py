from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from taskengine.errors import ClaimLost
from taskengine.lifecycle import Phase, Status
from taskengine.records import Claim, Doorbell, Entry
from taskengine.store import Store
from tests.store.calls import LEASE_S, OWNER, RESULT, claimed, question, take
from tests.store.sql import execute
from tests.store.staged import Stage
from tests.store.test_journal import FIRST, called, child

NOW = datetime(2020, 1, 1, tzinfo=UTC)
LATER = datetime.now(UTC) + timedelta(hours=1)
ANSWER = {"action": "accept", "content": {}}


async def phase(store: Store, claim: Claim) -> tuple[Status, Phase]:
    record = await store.tasks.get(claim.task_id, OWNER)
    return record.status, record.phase


async def retaken(store: Store, claim: Claim, worker_id: str = "w1") -> Claim:
    taken = await take(store, Doorbell(claim.task_id, claim.attempt + 1, "default"), worker_id)
    assert taken is not None
    return taken


async def family(store: Store, children: int = 1) -> tuple[Claim, list[Claim]]:
    """A running parent, and its running children."""
    claim = await claimed(store)
    entries = [called(f"tsk_{n}", f"1.{n}.1") for n in range(children)]
    doorbells = await store.journal.record(claim, entries, [child(claim, f"tsk_{n}") for n in range(children)])
    return claim, [taken for bell in doorbells if (taken := await take(store, bell, "w1"))]


async def done(store: Store, claim: Claim) -> None:
    await store.attempts.complete(claim, RESULT, is_error=False, status_message="done")


async def test_a_sleeping_task_works_waits_and_holds_nobody(store: Store) -> None:
    claim = await claimed(store)
    entry = Entry("1", "sleep", "", due=LATER)
    assert await store.waits.park(claim, message="Sleeping", entries=[entry], wake_at=LATER) is None
    assert await phase(store, claim) == (Status.WORKING, Phase.WAITING)
    assert await store.workers.renew("w1", LEASE_S) == frozenset()
    assert (await store.journal.load(claim.task_id))["1"] == entry


async def test_a_timer_wakes_its_task_once(store: Store, stage: Stage) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="Sleeping", wake_at=NOW)
    due = await store.waits.due_in_s()
    assert due is not None
    assert due < 0
    woken = await stage.together([store.waits.wake_due] * 4)
    assert [bell for bells in woken for bell in bells] == [Doorbell(claim.task_id, 2, "default")]
    assert await phase(store, claim) == (Status.WORKING, Phase.QUEUED)
    assert await store.waits.due_in_s() is None


async def test_a_timer_does_not_wake_before_its_time(store: Store) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="Sleeping", wake_at=LATER)
    assert await store.waits.wake_due() == []
    left = await store.waits.due_in_s()
    assert left is not None
    assert 0 < left <= 3_600


@pytest.mark.parametrize("first", ["wake", "cancel"])
async def test_waking_races_cancel_and_leaves_one_end(store: Store, stage: Stage, first: str) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="Sleeping", wake_at=NOW)
    # A janitor passes over a row that is locked: they meet at the start.
    moves = {"wake": store.waits.wake_due, "cancel": partial(store.tasks.cancel, claim.task_id, OWNER)}
    await stage.together([moves.pop(first), *moves.values()])
    assert await phase(store, claim) == (Status.CANCELLED, Phase.DONE)


async def test_a_sleeping_task_does_not_expire_like_one_that_nobody_answers(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="Sleeping", wake_at=LATER)
    await execute(database_url, "UPDATE tasks SET updated_at = now() - interval '100 days'")
    assert await store.upkeep.expire(60, "{}") == 0


@pytest.mark.parametrize("wait", [{"wake_at": LATER}, {"wake_open": 0}, {"questions": [question()]}])
async def test_a_superseded_attempt_parks_nothing(store: Store, wait: dict[str, Any]) -> None:
    late = await claimed(store)
    doorbell = await store.attempts.release(late)
    assert await take(store, doorbell, "w2")
    with pytest.raises(ClaimLost):
        await store.waits.park(late, message="late", entries=[FIRST], **wait)
    assert await store.journal.load(late.task_id) == {}


async def test_a_parent_wakes_when_its_last_child_has_ended(store: Store, stage: Stage) -> None:
    claim, children = await family(store, 3)
    assert await store.waits.park(claim, message="Waiting", wake_open=0) is None
    for each in children[:2]:
        await done(store, each)
        assert await store.waits.wake_parent(claim.task_id) == []
    await done(store, children[2])
    woken = await stage.behind(claim.task_id, [partial(store.waits.wake_parent, claim.task_id)] * 4)
    assert [bell for bells in woken for bell in bells] == [Doorbell(claim.task_id, 2, "default")]


async def test_a_parent_that_waits_for_one_child_wakes_with_the_first(store: Store) -> None:
    claim, children = await family(store, 3)
    await store.waits.park(claim, message="Waiting", wake_open=2)
    await done(store, children[1])
    assert len(await store.waits.wake_parents()) == 1


async def test_a_child_that_ends_while_its_parent_parks_is_not_overlooked(store: Store) -> None:
    claim, (only,) = await family(store)
    await done(store, only)
    doorbell = await store.waits.park(claim, message="Waiting", wake_open=0)
    assert doorbell == Doorbell(claim.task_id, 2, "default")


async def test_the_last_two_children_that_end_at_once_wake_their_parent_once(store: Store, stage: Stage) -> None:
    claim, children = await family_of_two(store)
    await store.waits.park(claim, message="Waiting", wake_open=0)

    async def end(each: Claim) -> list[Doorbell]:
        await done(store, each)
        return await store.waits.wake_parent(claim.task_id)

    # Both have ended, and both ask at the same instant whether they were the last.
    woken = await stage.behind(claim.task_id, [partial(end, each) for each in children])
    assert sum(len(bells) for bells in woken) == 1


async def family_of_two(store: Store) -> tuple[Claim, list[Claim]]:
    claim = await claimed(store)
    names = [f"{claim.task_id}{n}" for n in range(2)]
    entries = [called(name, f"1.{n}.1") for n, name in enumerate(names)]
    doorbells = await store.journal.record(claim, entries, [child(claim, name) for name in names])
    return claim, [taken for bell in doorbells if (taken := await take(store, bell, "w1"))]


async def test_a_child_that_asks_wakes_its_parent_until_that_asks_for_it(store: Store) -> None:
    claim, (only,) = await family(store)
    await store.waits.park(claim, message="Waiting", wake_open=0)
    assert await store.waits.wake_parents() == []
    await store.waits.park(only, message="asks", questions=[question("name")])
    assert len(await store.waits.wake_parents()) == 1
    taken = await retaken(store, claim)
    await store.waits.park(taken, message="asks", questions=[question(f"{only.task_id}:name")], wake_open=0)
    assert await store.waits.wake_parents() == []
    assert await phase(store, claim) == (Status.INPUT_REQUIRED, Phase.WAITING)


async def test_the_questions_asked_for_a_child_are_taken_back_when_it_has_ended(store: Store) -> None:
    claim, (only,) = await family(store)
    await store.waits.park(claim, message="asks", questions=[question(f"{only.task_id}:name"), question("own")])
    await done(store, only)
    await store.waits.park(await _woken(store, claim), message="asks", questions=[question("own")], wake_open=1)
    taken = await retaken(store, await _current(store, claim))
    state = taken.journal["1.0.1"].child
    assert state is not None
    assert state.asked
    await store.waits.withdraw(taken, only.task_id)
    assert [each.key for each in (await store.tasks.get(claim.task_id, OWNER)).open_questions] == ["own"]


async def _woken(store: Store, claim: Claim) -> Claim:
    """The next attempt of a task that waits, as if something else it waited for had come."""
    url = store._database.url
    await execute(url, "UPDATE tasks SET wake_at = now() WHERE id = $1", claim.task_id)
    await store.waits.wake_due()
    return await retaken(store, claim)


async def _current(store: Store, claim: Claim) -> Claim:
    record = await store.tasks.get(claim.task_id, OWNER)
    return Claim(**{**{name: getattr(claim, name) for name in claim.__slots__}, "attempt": record.attempt})


async def test_an_answer_to_a_question_that_stayed_open_is_taken_while_the_task_runs(store: Store) -> None:
    claim = await claimed(store)
    await store.journal.record(claim, [FIRST])
    await store.waits.park(claim, message="asks", questions=[question("name")], wake_at=LATER)
    taken = await _woken(store, claim)
    assert [each.key for each in (await store.tasks.get(claim.task_id, OWNER)).open_questions] == ["name"]
    assert await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER}) is None
    assert await phase(store, claim) == (Status.WORKING, Phase.RUNNING)
    doorbell = await store.waits.park(taken, message="asks", questions=[question("name")], wake_at=LATER)
    assert doorbell == Doorbell(claim.task_id, 3, "default")
    assert set((await retaken(store, taken)).answers) == {"name"}


async def test_an_answer_behind_the_lock_of_a_parking_attempt_is_not_overlooked(
    store: Store, database_url: str
) -> None:
    claim = await claimed(store)
    await store.journal.record(claim, [FIRST])
    await store.waits.park(claim, message="asks", questions=[question("name")], wake_at=LATER)
    taken = await _woken(store, claim)
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", claim.task_id)
            parking = asyncio.create_task(
                store.waits.park(taken, message="asks", questions=[question("name")], wake_at=LATER)
            )
            async with asyncio.timeout(10):
                while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
            await connection.execute(
                "UPDATE inputs SET response = '{}', answered_at = now() WHERE task_id = $1", claim.task_id
            )
    finally:
        await connection.close()
    assert await parking == Doorbell(claim.task_id, 3, "default")


async def test_nobody_claims_a_task_whose_attempt_lingers(store: Store) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="asks", questions=[question("name")], linger_s=60)
    assert await store.waits.take_back(claim) is None
    doorbell = await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER})
    assert doorbell is not None
    assert await take(store, doorbell, "w2") is None
    assert await store.waits.take_back(claim) is not None
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.phase, record.attempt) == (Phase.RUNNING, 1)
    await done(store, claim)


async def test_a_lingering_attempt_that_died_keeps_nobody_out_for_long(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="asks", questions=[question("name")], linger_s=60)
    doorbell = await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER})
    assert doorbell is not None
    await execute(database_url, "UPDATE tasks SET kept_until = now()")
    assert await take(store, doorbell, "w2")
    assert await store.waits.take_back(claim) is None


async def test_an_attempt_of_a_buried_worker_takes_nothing_back(store: Store) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="asks", questions=[question("name")], linger_s=60)
    await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER})
    await store.workers.leave("w1")
    assert await store.waits.take_back(claim) is None


async def test_a_question_nobody_answered_is_withdrawn_and_stays_unanswered(store: Store) -> None:
    claim = await claimed(store)
    asked = Entry("1", "ask", "name", done=False, due=NOW)
    await store.waits.park(claim, message="asks", entries=[asked], questions=[question("name")], wake_at=NOW)
    await store.waits.wake_due()
    taken = await retaken(store, claim)
    given_up = Entry("1", "ask", "name", value='["name"]', due=NOW)
    assert await store.waits.give_up(taken, given_up, ["name"]) == {}
    assert await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER}) is None
    assert await store.waits.answers(claim.task_id) == {}
    assert (await store.journal.load(claim.task_id))["1"] == given_up


async def test_an_answer_that_came_at_the_last_moment_counts(store: Store) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="asks", questions=[question("name")], wake_at=NOW)
    await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER})
    taken = await retaken(store, claim)
    found = await store.waits.give_up(taken, Entry("1", "ask", "name", value='["name"]'), ["name"])
    assert found["name"].response == ANSWER


@pytest.mark.parametrize("first", ["give_up", "answer"])
async def test_an_answer_and_giving_up_at_the_same_instant_agree(store: Store, stage: Stage, first: str) -> None:
    """Either the answer was taken and the tool gets it, or the question was gone and the answer is to nothing."""
    claim = await claimed(store)
    asked = Entry("1", "ask", "name", done=False, due=NOW)
    await store.waits.park(claim, message="asks", entries=[asked], questions=[question("name")], wake_at=NOW)
    await store.waits.wake_due()
    taken = await retaken(store, claim)
    moves = {
        "give_up": partial(store.waits.give_up, taken, Entry("1", "ask", "name", value='["name"]'), ["name"]),
        "answer": partial(store.inputs.answer, claim.task_id, OWNER, {"name": ANSWER}),
    }
    told = await stage.behind(claim.task_id, [moves[first], moves["answer" if first == "give_up" else "give_up"]])
    kept = await store.waits.answers(claim.task_id)
    assert told[0 if first == "give_up" else 1] == kept
    assert (await store.tasks.get(claim.task_id, OWNER)).open_questions == ()
    assert set(kept) == (set() if first == "give_up" else {"name"})


@pytest.mark.parametrize("first", ["take_back", "cancel"])
async def test_taking_back_and_a_cancel_at_the_same_instant_leave_one_end(
    store: Store, stage: Stage, first: str
) -> None:
    claim = await claimed(store)
    await store.waits.park(claim, message="asks", questions=[question("name")], linger_s=60)
    await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER})
    moves = {
        "take_back": partial(store.waits.take_back, claim),
        "cancel": partial(store.tasks.cancel, claim.task_id, OWNER),
    }
    told = await stage.behind(claim.task_id, [moves[first], moves["cancel" if first == "take_back" else "take_back"]])
    assert await phase(store, claim) == (Status.CANCELLED, Phase.DONE)
    assert (told[0] is not None) == (first == "take_back")


async def test_a_failed_attempt_forgets_what_is_to_be_tried_again(store: Store) -> None:
    claim = await claimed(store)
    waiting = Entry("3", "step", "slow", done=False, tries=1, due=LATER)
    await store.journal.record(claim, [FIRST, Entry("2", "step", "bad", error="{}"), waiting])
    await store.waits.park(claim, message="again", wake_at=NOW, failed=True, forget=["2"])
    await store.waits.wake_due()
    taken = await retaken(store, claim)
    assert (set(taken.journal), taken.failures) == ({"1"}, 1)


WAITED_FOR = "SELECT phase, wake_at, wake_open FROM tasks WHERE id = $1"


@pytest.mark.parametrize("by", ["time", "children", "answer", "cancel", "expiry"])
async def test_a_task_that_waits_no_longer_has_nothing_it_waits_for(store: Store, database_url: str, by: str) -> None:
    claim, (only,) = await family(store)
    await store.waits.park(claim, message="asks", questions=[question("name")], wake_at=NOW, wake_open=0)
    match by:
        case "time":
            await store.waits.wake_due()
        case "children":
            await done(store, only)
            await store.waits.wake_parents()
        case "answer":
            await store.inputs.answer(claim.task_id, OWNER, {"name": ANSWER})
        case "cancel":
            await store.tasks.cancel(claim.task_id, OWNER)
        case "expiry":
            await store.upkeep.expire(-60, "{}")
    ((now, wake_at, wake_open),) = await execute(database_url, WAITED_FOR, claim.task_id)
    assert now in {Phase.QUEUED, Phase.DONE}
    assert (wake_at, wake_open) == (None, None)
