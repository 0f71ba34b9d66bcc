from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from taskengine.errors import ClaimLost, StoreUnavailable
from taskengine.lifecycle import Phase, Status
from taskengine.losses import Loss
from taskengine.records import Claim, Doorbell, Entry
from taskengine.store import Store
from taskengine.store.database import Database
from tests.store.calls import LEASE_S, OWNER, RESULT, claimed, question, stored, take, worker
from tests.store.sql import execute
from tests.store.staged import Stage

ERROR = '{"code":-32603,"message":"lost"}'
KILLED = Loss("killed by SIGKILL", signal="SIGKILL", peak_bytes=812_000_000)


async def test_only_one_of_many_workers_claims_an_attempt(store: Store) -> None:
    doorbell = await stored(store)
    for n in range(8):
        await worker(store, f"w{n}")
    claims = await asyncio.gather(*(take(store, doorbell, f"w{n}") for n in range(8)))
    assert sum(claim is not None for claim in claims) == 1


async def test_workers_that_ask_for_the_next_at_one_moment_get_one_each_and_none_twice(
    store: Store, stage: Stage
) -> None:
    bells = [await stored(store) for _ in range(5)]
    for n in range(4):
        await worker(store, f"w{n}")
    claims = await stage.together([partial(store.attempts.claim_next, ["default"], f"w{n}") for n in range(4)])
    taken = [claim.task_id for claim in claims if claim is not None]
    # Who finds the row that it wanted locked takes another, so that nobody leaves without.
    assert len(set(taken)) == len(taken) == 4
    assert {claim.attempt for claim in claims if claim is not None} == {1}
    (left,) = {bell.task_id for bell in bells} - set(taken)
    claims = await stage.together([partial(store.attempts.claim_next, ["default"], f"w{n}") for n in range(4)])
    assert [claim.task_id for claim in claims if claim is not None] == [left]


async def test_an_unregistered_worker_claims_nothing(store: Store) -> None:
    doorbell = await stored(store)
    assert await store.attempts.claim(doorbell, "nobody") is None
    assert await store.attempts.claim_next(["default"], "nobody") is None


async def test_a_free_slot_takes_what_has_waited_longest_in_its_queues(store: Store) -> None:
    other, first, second = await stored(store, queue="gpu"), await stored(store), await stored(store)
    await worker(store, "w1")
    claims = [await store.attempts.claim_next(["default", "default.sync"], "w1") for _ in range(3)]
    assert [claim and claim.task_id for claim in claims] == [first.task_id, second.task_id, None]
    assert (await store.tasks.get(other.task_id, OWNER)).phase is Phase.QUEUED


@pytest.mark.parametrize("attempt", [0, 2, 7])
async def test_a_doorbell_with_another_attempt_is_refused(store: Store, attempt: int) -> None:
    doorbell = await stored(store)
    assert await take(store, Doorbell(doorbell.task_id, attempt, "default"), "w1") is None


async def test_a_claim_carries_the_call(store: Store) -> None:
    claim = await claimed(store, arguments={"text": "ä\u0000"}, first={"who": {"action": "accept"}})
    assert claim.arguments == {"text": "ä\u0000"}
    assert claim.first == {"who": {"action": "accept"}}
    assert claim.answers == {}


async def test_a_completed_task_serves_its_result_as_it_was_stored(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.complete(claim, RESULT, is_error=True, status_message="ValueError")
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, record.result, record.is_error) == (Status.COMPLETED, RESULT, True)


async def test_a_failed_task_has_its_error_and_no_result(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.fail(claim, ERROR, status_message="lost", traceback="…")
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, record.error, record.result) == (Status.FAILED, ERROR, None)


async def test_late_writes_of_a_superseded_attempt_are_refused(store: Store) -> None:
    late = await claimed(store)
    doorbell = await store.attempts.release(late)
    current = await take(store, doorbell, "w2")
    assert current is not None
    for write in _writes(store, late):
        with pytest.raises(ClaimLost):
            await write
    await store.attempts.complete(current, RESULT, is_error=False, status_message="Completed")
    record = await store.tasks.get(late.task_id, OWNER)
    assert (record.status, record.attempt, record.result) == (Status.COMPLETED, 2, RESULT)


async def test_nothing_is_written_after_the_end(store: Store) -> None:
    claim = await claimed(store)
    await store.tasks.cancel(claim.task_id, OWNER)
    for write in _writes(store, claim):
        with pytest.raises(ClaimLost):
            await write
    assert (await store.tasks.get(claim.task_id, OWNER)).status is Status.CANCELLED


def _writes(store: Store, claim: Claim) -> list:
    attempts = store.attempts
    return [
        attempts.progress(claim, 1, 2, None, "50 %"),
        attempts.suspend(claim, [question("late")], "Waiting"),
        attempts.complete(claim, '{"content":[]}', is_error=False, status_message="Completed"),
        attempts.fail(claim, ERROR, status_message="Failed"),
        attempts.release(claim),
        attempts.lose(claim, Loss("killed"), 3),
    ]


async def test_asking_frees_the_worker_and_shows_the_questions_in_order(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.suspend(claim, [question("b"), question("a")], "Waiting for 2 answers")
    record = await store.tasks.get(claim.task_id, OWNER)
    assert (record.status, record.phase) == (Status.INPUT_REQUIRED, Phase.WAITING)
    assert [each.key for each in record.open_questions] == ["b", "a"]
    assert await store.workers.renew("w1", LEASE_S) == frozenset()


async def test_lost_attempts_are_repeated_until_there_were_too_many(store: Store) -> None:
    claim = await claimed(store)
    for _ in range(2):
        doorbell = await store.attempts.lose(claim, KILLED, 3)
        assert doorbell is not None
        again = await take(store, doorbell, "w1")
        assert again is not None
        claim = again
    assert await store.attempts.lose(claim, KILLED, 3) is None
    record = await store.tasks.get(claim.task_id, OWNER)
    assert record.status is Status.FAILED
    assert record.status_message == "Gave up after 3 lost attempts: killed by SIGKILL, peak memory 812 MB"
    error = json.loads(record.error or "")
    assert error["message"] == record.status_message
    known = {"cause": "killed by SIGKILL", "signal": "SIGKILL", "peakMemoryBytes": 812_000_000}
    assert error["data"] == {"attempts": [{"attempt": n, **known} for n in (1, 2, 3)]}
    losses = (await store.inspection.show(claim.task_id))["losses"]
    assert [(loss["attempt"], loss["worker"]) for loss in losses] == [(1, "w1"), (2, "w1"), (3, "w1")]


async def test_the_names_of_workers_stay_with_operators(store: Store) -> None:
    """X-SEC-13."""
    claim = await claimed(store, "host-of-ours-1")
    assert await store.attempts.lose(claim, KILLED, 1) is None
    record = await store.tasks.get(claim.task_id, OWNER)
    assert "host-of-ours" not in f"{record.error}{record.status_message}"


async def test_a_loss_that_is_reported_again_is_refused_and_counted_once(store: Store) -> None:
    claim = await claimed(store)
    assert await store.attempts.lose(claim, KILLED, 3) is not None
    with pytest.raises(ClaimLost):
        await store.attempts.lose(claim, KILLED, 3)
    row = await store.inspection.show(claim.task_id)
    assert (row["crashes"], len(row["losses"])) == (1, 1)


async def test_a_handed_back_attempt_is_due_and_counts_no_crash(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.hand_back(claim.task_id, claim.attempt, claim.worker_id)
    record = await store.tasks.get(claim.task_id, OWNER)
    assert record.phase is Phase.QUEUED
    assert await take(store, Doorbell(claim.task_id, 2, "default"), "w2") is not None


async def test_running_time_adds_up_over_attempts(store: Store) -> None:
    claim = await claimed(store)
    await asyncio.sleep(0.05)
    again = await take(store, await store.attempts.release(claim), "w1")
    assert again is not None
    assert again.ran_ms >= 50


async def test_every_visible_change_moves_updated_at(store: Store) -> None:
    claim = await claimed(store)
    times = [(await store.tasks.get(claim.task_id, OWNER)).updated_at]
    await store.attempts.progress(claim, 1, 2, "half", "50 %")
    times.append((await store.tasks.get(claim.task_id, OWNER)).updated_at)
    await store.attempts.suspend(claim, [question("a"), question("b")], "Waiting")
    times.append((await store.tasks.get(claim.task_id, OWNER)).updated_at)
    await store.inputs.answer(claim.task_id, OWNER, {"a": {"action": "accept"}})
    times.append((await store.tasks.get(claim.task_id, OWNER)).updated_at)
    assert times == sorted(set(times))


async def test_log_lines_are_kept_with_the_task(store: Store, database_url: str) -> None:
    claim = await claimed(store)
    await store.attempts.log(claim, [{"level": "info", "logger": None, "data": json.dumps("started")}])
    rows = await store.inspection.logs(claim.task_id)
    assert [(row["attempt"], row["level"], row["data"]) for row in rows] == [(1, "info", "started")]


async def test_log_lines_and_the_notice_of_them_are_one_change(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the database lost in between, lines that are there would be reported as lost."""
    claim = await claimed(store)

    run, done = Database.run, list[Any]()

    async def once(*given: Any) -> Any:
        if done:
            raise StoreUnavailable("lost after the first transaction")
        done.append(given)
        return await run(*given)

    async with store.changes.watch([claim.task_id]) as watch:
        await store.changes.hear()
        with monkeypatch.context() as patch:
            patch.setattr(Database, "run", once)
            await store.attempts.log(claim, [{"level": "info", "logger": None, "data": "1"}])
        assert await watch.next(5) == {claim.task_id}
    assert len(await execute(database_url, "SELECT 1 FROM logs")) == 1


async def test_log_lines_of_a_superseded_attempt_are_refused(store: Store, database_url: str) -> None:
    late = await claimed(store)
    again = await take(store, await store.attempts.release(late))
    assert again is not None
    line = {"level": "info", "logger": None, "data": "1"}
    with pytest.raises(ClaimLost):
        await store.attempts.log(late, [line])
    await store.attempts.log(again, [line, line])
    assert [row["attempt"] for row in await execute(database_url, "SELECT attempt FROM logs")] == [2, 2]


async def test_a_free_slot_takes_only_calls_of_tools_it_has(store: Store) -> None:
    foreign, own = await stored(store, tool="newer"), await stored(store)
    await worker(store, "w1")
    claims = [await store.attempts.claim_next(["default"], "w1", ["count", "add"]) for _ in range(2)]
    assert [claim and claim.task_id for claim in claims] == [own.task_id, None]
    assert (await store.tasks.get(foreign.task_id, OWNER)).attempt == 0


async def test_a_free_slot_does_not_read_the_whole_backlog(store: Store, database_url: str) -> None:
    first = await stored(store)
    copies = "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object({}))).* FROM tasks t, n"
    numbers = "WITH n AS (SELECT generate_series(1, 5000) n) "
    queue = "CASE WHEN n % 2 = 0 THEN 'default' ELSE 'default.sync' END"
    plain = "'arguments', '{}', 'first', '{}', 'capabilities', '{}'"  # what is sealed is sealed for its own row
    changes = f"'id', 'c' || n, 'turn', t.turn + n, 'queue', {queue}, 'created_at', now(), {plain}"
    await execute(database_url, numbers + copies.format(changes))
    await execute(database_url, "ANALYZE tasks")
    await worker(store, "w1")
    claim = await store.attempts.claim_next(["default", "default.sync"], "w1", ["count"])
    assert claim is not None
    assert claim.task_id in {first.task_id, "c1"}  # the front of either queue
    await store.close()  # a session that ends reports what it read
    async with asyncio.timeout(10):
        while not (read := await _rows_read(database_url, "ix_tasks_due")):
            await asyncio.sleep(0.05)
    assert read < 20


async def _rows_read(url: str, index: str) -> int:
    statement = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = $1"
    return int((await execute(url, statement, index))[0][0])


async def test_a_free_slot_passes_over_a_task_whose_attempt_may_go_on_by_itself(store: Store) -> None:
    lingering = await claimed(store)
    await store.waits.park(lingering, message="asks", questions=[question()], linger_s=60)
    assert await store.inputs.answer(lingering.task_id, OWNER, {"name": {"action": "accept"}})
    other = await stored(store)
    claim = await store.attempts.claim_next(["default"], "w1")
    assert claim is not None
    assert claim.task_id == other.task_id
    assert await store.waits.take_back(lingering) is not None


@pytest.mark.parametrize("fails", [False, True])
async def test_a_claim_is_known_here_for_as_long_as_its_journal_is_being_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    first = await claimed(store)
    await store.journal.record(first, [Entry("1", "step", "fetch", value="1")])
    doorbell = await store.attempts.release(first)
    load, reading, go_on = store.journal.load, asyncio.Event(), asyncio.Event()

    async def slowly(task_id: str) -> dict[str, Entry]:
        reading.set()
        await go_on.wait()
        if fails:
            raise StoreUnavailable("away")
        return await load(task_id)

    monkeypatch.setattr(store.journal, "load", slowly)
    claiming = asyncio.create_task(store.attempts.claim(doorbell, "w1"))
    await asyncio.wait_for(reading.wait(), 10)
    assert store.attempts.loading == await store.workers.renew("w1", 15.0) == {(first.task_id, 2)}
    go_on.set()
    await asyncio.wait({claiming})
    assert (claiming.exception() is not None) is fails
    assert store.attempts.loading == set()
