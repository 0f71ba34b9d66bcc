"""The audit log over the wire: who read, listed and was refused, without a request that waits for it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest

from taskengine.client import Client
from taskengine.errors import StoreUnavailable
from taskengine.server.trail import MOST, MOST_IDS, TOO_MANY, Trail
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.audit import Deed
from tests.legacy import peer as legacy
from tests.processes import ROOT, Processes, environment
from tests.security.guarded_app import engine
from tests.server.peer import QUEUES, WORKER, Hands, Peer, serving
from tests.store.sql import execute

APP = str(ROOT / "tests" / "security" / "guarded_app.py") + ":engine"


@pytest.fixture
async def peer(settings: Settings) -> AsyncIterator[Peer]:
    async with serving(engine, settings) as connected:
        yield connected


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)


async def found(store: Store, count: int, **which: Any) -> Sequence[Mapping[str, Any]]:
    """That many entries, newest first, as soon as they are there."""
    async with asyncio.timeout(20):
        while len(rows := await store.audit.find(**which)) < count:
            await asyncio.sleep(0.05)
    return rows


async def ended(peer: Peer, hands: Hands, store: Store) -> str:
    """A task that has completed and whose result nobody has read."""
    task_id = str((await peer.call("report", {"ledger": "x", "month": "May"}, tasks=True)).result["taskId"])
    claim = await store.attempts.claim_next(QUEUES, WORKER)
    assert claim is not None
    await store.attempts.complete(claim, '{"content":[]}', is_error=False, status_message="Completed")
    return task_id


async def test_reading_a_result_is_recorded_and_asking_for_a_status_is_not(
    peer: Peer, hands: Hands, store: Store
) -> None:
    task_id = str((await peer.call("report", {"ledger": "x", "month": "May"}, tasks=True)).result["taskId"])
    for _ in range(3):
        await peer.get(task_id)
    claim = await store.attempts.claim_next(QUEUES, WORKER)
    assert claim is not None
    await store.attempts.complete(claim, '{"content":[]}', is_error=False, status_message="Completed")
    await peer.get(task_id)
    read, made = await found(store, 2, task_id=task_id)
    assert (made["action"], made["actor"]) == ("create", "anonymous")
    assert (read["action"], read["actor"], read["tool"], read["times"]) == ("read", "anonymous", "report", 1)


async def test_a_foreign_or_missing_task_is_a_refusal_with_the_id_that_was_asked_for(peer: Peer, store: Store) -> None:
    for refused in (await peer.get("tsk_not_there"), await peer.cancel("tsk_not_there")):
        assert refused.error["code"] == -32602
    await found(store, 1, task_id="tsk_not_there", action="refuse")
    async with asyncio.timeout(20):
        while sum(row["times"] for row in await store.audit.find(task_id="tsk_not_there")) < 2:
            await asyncio.sleep(0.05)


async def test_foreign_tasks_that_a_subscription_names_are_refusals(peer: Peer, store: Store) -> None:
    """A few by their ids, and however many more as one entry."""
    ids = [f"tsk_{number}" for number in range(MOST_IDS + 10)]
    async with peer.stream("subscriptions/listen", {"notifications": {"taskIds": ids}}) as stream:
        assert (await stream.next())["params"]["notifications"] == {"taskIds": []}
    rows = await found(store, MOST_IDS + 1, action="refuse")
    assert {row["task_id"] for row in rows} == {*ids[:MOST_IDS], None}
    assert sum(row["times"] for row in rows) == len(ids)
    assert {row["detail"] for row in rows} == {"no such task of this caller"}


async def test_what_is_refused_for_a_limit_is_one_entry_however_many_tasks_it_names(
    settings: Settings, store: Store
) -> None:
    limited = settings.model_copy(update={"poll_rate": "1/day", "call_rate": "1/day", "max_streams_per_owner": 1})
    async with serving(engine, limited) as peer, legacy.serving(engine, limited) as session:
        calls = [await peer.call("task_list", {}) for _ in range(3)]
        assert [reply.status for reply in calls] == [200, 429, 429]
        await session.initialize()
        async with session.listen() as stream:
            await stream.event()
            await session.initialize()
            headers = {"content-type": None, "accept": "text/event-stream"}
            assert (await session.request("GET", headers=headers)).status == 429
        refused, number = 0, 0
        while refused < 3:
            number += 1
            refused += (await peer.get(f"tsk_{number}")).status == 429
    rows = await store.audit.find(action="refuse", limit=1000)
    times = Counter[str]()
    for row in rows:
        times[row["detail"]] += row["times"]
        if row["detail"].startswith("more than"):
            assert row["task_id"] is None
    assert times == {
        "more than it may have: calls": 2,
        "more than it may have: streams_per_owner": 1,
        "more than it may have: polls": 3,
        "no such task of this caller": number - 3,
    }


async def test_what_a_session_may_not_have_is_recorded(settings: Settings, store: Store) -> None:
    """Somebody else's session, cursor, event and question; each is answered as what never was."""
    async with legacy.serving(engine, settings) as one, legacy.serving(engine, settings) as other:
        await one.initialize(capabilities=legacy.ALL)
        await other.initialize(capabilities=legacy.ALL)
        events = {"content-type": None, "accept": "text/event-stream"}
        async with one.listen() as stream:
            await stream.event()
        assert (await other.request("GET", headers={**events, "last-event-id": stream.last_event})).status == 400
        assert (await other.answer({"id": "made up"}, {})).status == 400
        assert (await other.send("tasks/list", {"cursor": "made up"})).error["code"] == -32602
        assert (await one.request("DELETE")).status == 204
        assert (await one.send("ping")).status == 404
    rows = await store.audit.find(action="refuse")
    assert {row["actor"] for row in rows} == {"anonymous"}
    assert {row["detail"] for row in rows} == {
        "an event that its session was not sent",
        "an answer to what its session was not asked",
        "a cursor that was changed, is another's, or is too old",
        "a session that has ended, is another's, or none",
    }


async def test_coming_back_to_a_task_that_is_gone_is_recorded(
    settings: Settings, hands: Hands, store: Store, database_url: str
) -> None:
    quick = settings.model_copy(update={"keep_alive": timedelta(seconds=0.3)})
    async with legacy.serving(engine, quick) as peer:
        await peer.initialize(capabilities=legacy.ALL)
        task_id = await peer.begin("report", {"ledger": "x", "month": "May"})
        async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
            await stream.event()
        await execute(database_url, "DELETE FROM tasks")
        async with peer.listen(stream.last_event) as resumed:
            assert (await resumed.next())["error"]["code"] == -32602
    (row,) = await store.audit.find(action="refuse")
    assert (row["task_id"], row["detail"]) == (task_id, "no such task of this caller")


async def test_listing_is_recorded(peer: Peer, store: Store) -> None:
    await peer.call("task_list", {})
    (row,) = await found(store, 1, action="list")
    assert row["actor"] == "anonymous"


async def test_a_front_end_that_stops_has_stored_what_it_noted(
    processes: Processes, store: Store, settings: Settings
) -> None:
    front, url = processes.serve(APP)
    async with Client(url) as client:
        for number in range(20):
            with pytest.raises(Exception, match="Unknown or expired"):
                await client.get(f"tsk_{number}")
    front.send(signal.SIGTERM)
    await asyncio.to_thread(front.wait, 20)
    assert len(await store.audit.find(action="refuse")) == 20


async def test_what_could_not_be_stored_is_kept_and_stored_later(store: Store) -> None:
    class Away:
        def __init__(self) -> None:
            self.audit = self

        async def add(self, deeds: Sequence[Deed]) -> None:
            raise StoreUnavailable("away")

    where: list[Any] = [Away()]
    trail = Trail(lambda: where[0], on=True)
    trail.note("ann", "read", "t1", "count")
    trail.note("ann", "read", "t1", "count")
    with pytest.raises(StoreUnavailable):
        await trail._flush()
    trail.note("ann", "read", "t1", "count")
    where[0] = store
    await trail.stop()
    (row,) = await store.audit.find()
    assert (row["actor"], row["action"], row["task_id"], row["times"]) == ("ann", "read", "t1", 3)


async def test_a_flood_of_refusals_is_counted_in_bounded_memory(store: Store) -> None:
    trail = Trail(lambda: store, on=True)
    for number in range(MOST + 500):
        trail.note("flood", "refuse", f"tsk_{number}")
    for number in range(2 * MOST):
        trail.note(f"caller-{number}", "refuse", "tsk")
    assert len(trail._noted) <= 2 * MOST + len(("read", "list", "refuse"))
    assert sum(times for times, _ in trail._noted.values()) == 3 * MOST + 500
    crowded = trail._noted["flood", "refuse", None, None, TOO_MANY]
    assert crowded[0] == 500
    await trail.stop()
    assert len(await store.audit.find(limit=100_000)) <= 2 * MOST + 3


async def test_the_command_shows_the_log_and_filters_it(peer: Peer, store: Store, settings: Settings) -> None:
    made = (await peer.call("report", {"ledger": "x", "month": "May"}, tasks=True)).result["taskId"]
    await peer.cancel(made)
    await store.audit.add([Deed("eve\x1b[2J", "refuse", "tsk_x", detail="no such task of this caller")])

    async def command(*words: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "taskengine", "audit", *words],
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    rows = json.loads(await command("--task", made, "--json"))
    assert [row["action"] for row in rows] == ["cancel", "create"]
    assert [row["action"] for row in json.loads(await command("--owner", "anonymous", "--since", "1h", "--json"))] == [
        "cancel",
        "create",
    ]
    text = await command("--action", "refuse")
    assert "no such task of this caller" in text


async def test_what_cannot_be_stored_before_a_stop_is_said_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Away:
        def __init__(self) -> None:
            self.audit = self

        async def add(self, deeds: Sequence[Deed]) -> None:
            raise StoreUnavailable("away")

    monkeypatch.setattr("taskengine.server.trail.LAST_TRIES_S", 0.05)
    trail = Trail(lambda: cast("Any", Away()), on=True)
    trail.note("ann", "read", "t1", "count")
    await trail.stop()
    assert "read by ann: task t1, tool count" in caplog.text


async def test_an_id_that_no_task_can_have_is_refused_and_the_log_goes_on(settings: Settings, store: Store) -> None:
    async with legacy.serving(engine, settings) as peer:
        await peer.initialize(capabilities=legacy.ALL)
        for task_id in ("\0", "tsk_\0", "", "x" * 129, "tsk one"):
            assert (await peer.send("tasks/get", {"taskId": task_id})).error["code"] == -32602
        await peer.send("tasks/list")
        await found(store, 1, action="list")
    refused = await store.audit.find(action="refuse")
    assert {row["task_id"] for row in refused} == {None}
    assert sum(row["times"] for row in refused) == 5


async def test_what_the_database_has_no_place_for_is_replaced_in_every_text(store: Store) -> None:
    trail = Trail(lambda: store, on=True)
    trail.note("a\0b", "read", "t1", "c\0d", "e\ud800f")
    await trail.stop()
    (row,) = await store.audit.find()
    assert (row["actor"], row["tool"], row["detail"]) == ("a\ufffdb", "c\ufffdd", "e?f")


async def test_what_the_database_refuses_goes_to_the_log_and_keeps_nothing_back(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    trail = Trail(lambda: store, on=True)
    trail._noted["ann", "no\0action", "t1", "count", None] = 1, 0.0
    await trail._flush()
    assert "by ann: task t1, tool count" in caplog.text
    trail.note("ann", "read", "t2", "count")
    await trail.stop()
    (row,) = await store.audit.find()
    assert row["task_id"] == "t2"


async def test_a_log_that_cannot_be_written_at_all_does_not_keep_a_front_end_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Store:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr("taskengine.server.trail.LAST_TRIES_S", 0.05)
    trail = Trail(broken, on=True)
    trail.note("ann", "read", "t1", "count")
    await trail.stop()
    assert "read by ann: task t1, tool count" in caplog.text
