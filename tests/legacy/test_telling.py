"""Who is told how a task goes, when a session has several streams open at several front ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import text

from taskengine.records import Claim
from taskengine.server.legacy.turns import Turn
from taskengine.settings import Settings
from taskengine.store import Store
from tests.legacy.peer import ALL, Peer, Stream, call_params, serving
from tests.legacy.test_tasks import related
from tests.legacy.tools import engine
from tests.server.peer import Hands


@pytest.fixture
async def both(settings: Settings) -> AsyncIterator[tuple[Peer, Peer]]:
    """The same session at two front ends."""
    async with serving(engine, settings) as one, serving(engine, settings) as other:
        await one.initialize(capabilities=ALL)
        other.session, other.version = one.session, one.version
        yield one, other


async def grow(hands: Hands, claim: Claim, stream: Stream, first: int) -> tuple[int, dict[str, Any]]:
    """Let the task go on until the stream tells of it; how far it is then, and what was told."""
    telling = asyncio.create_task(stream.next())
    progress = first
    async with asyncio.timeout(10):
        while not telling.done():
            await hands.progress(claim, progress, 1000)
            progress += 1
            await asyncio.wait({telling}, timeout=0.1)
    return progress, telling.result()


async def test_the_progress_of_a_task_is_told_to_one_stream_of_its_session(
    both: tuple[Peer, Peer], hands: Hands
) -> None:
    """L-TRANS-18, L-TASK-38, L-TASK-47, X-PROG-02: the latest stream, and the one before it when that has ended."""
    peer, other = both
    task_id = await peer.begin("job", token="t")
    claim = await hands.take()
    async with peer.stream("tasks/result", {"taskId": task_id}) as first:
        at, told = await grow(hands, claim, first, 1)
        assert told["params"]["_meta"] == related(task_id)
        async with other.stream("tasks/result", {"taskId": task_id}) as second:
            at, _ = await grow(hands, claim, second, at)
            quiet = asyncio.create_task(first.next(60))
            at, _ = await grow(hands, claim, second, at)
            at, _ = await grow(hands, claim, second, at)
            await asyncio.sleep(0.3)
            if quiet.done():  # what was on its way when the second came
                assert quiet.result()["params"]["progress"] < at - 2
                quiet = asyncio.create_task(first.next(60))
                at, _ = await grow(hands, claim, second, at)
                await asyncio.sleep(0.3)
            assert not quiet.done()
        async with asyncio.timeout(10):
            while not quiet.done():
                await hands.progress(claim, at, 1000)
                at += 1
                await asyncio.wait({quiet}, timeout=0.1)
        assert quiet.result()["params"]["progress"] >= at - 10
    await hands.complete(claim)


async def test_two_sessions_are_told_each_for_itself(peer: Peer, hands: Hands, settings: Settings) -> None:
    """L-TASK-42, D-37: log lines go to whoever waits; progress only where its token came from (X-PROG-01)."""
    async with serving(engine, settings) as stranger:
        await stranger.initialize()
        task_id = await peer.begin("job", token="t")
        claim = await hands.take()
        async with (
            peer.stream("tasks/result", {"taskId": task_id}) as mine,
            stranger.stream("tasks/result", {"taskId": task_id}) as theirs,
        ):
            await hands.progress(claim, 1)
            assert (await mine.next())["method"] == "notifications/progress"
            await hands.store.attempts.log(claim, [{"level": "info", "logger": None, "data": '"a line"'}])
            line = {"level": "info", "data": "a line", "_meta": related(task_id)}
            assert (await mine.next())["params"] == line
            assert (await theirs.next())["params"] == line
        await hands.complete(claim)


async def test_progress_is_told_on_the_sessions_own_stream_while_nobody_waits_for_the_result(
    both: tuple[Peer, Peer], hands: Hands
) -> None:
    """L-TASK-38, L-TASK-47, L-PROG-08, D-36: to the end, wherever the client listens, and never twice."""
    peer, other = both
    async with peer.listen() as own:
        await own.event()
        await hands.hears()
        task_id = await other.begin("job", token="t")
        claim = await hands.take()

        async def next_progress() -> dict[str, Any]:
            while (told := await own.next(60))["method"] != "notifications/progress":
                pass
            return dict(told["params"])

        heard = asyncio.create_task(next_progress())
        at = 1
        async with asyncio.timeout(10):
            while not heard.done():
                await hands.progress(claim, at, 1000)
                at += 1
                await asyncio.wait({heard}, timeout=0.1)
        assert heard.result()["progressToken"] == "t"
        assert heard.result()["_meta"] == related(task_id)
        async with other.stream("tasks/result", {"taskId": task_id}) as waiting:
            at, _ = await grow(hands, claim, waiting, at)
            await asyncio.sleep(0.3)  # whatever was on its way has come
            begun = at
            heard = asyncio.create_task(next_progress())
            for _ in range(3):
                at, _ = await grow(hands, claim, waiting, at)
            await asyncio.sleep(0.3)
            assert not heard.done() or heard.result()["progress"] < begun
            if heard.done():
                heard = asyncio.create_task(next_progress())
        last = at
        async with asyncio.timeout(10):
            while not heard.done():
                await hands.progress(claim, at, 1000)
                at += 1
                await asyncio.wait({heard}, timeout=0.1)
        assert heard.result()["progress"] >= last
    await hands.complete(claim)


async def test_a_stream_that_comes_later_learns_that_another_tells(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-TRANS-18: the session's own stream is opened while a stream waits for the result elsewhere."""
    peer, other = both
    task_id = await peer.begin("job", token="t")
    claim = await hands.take()
    async with other.stream("tasks/result", {"taskId": task_id}) as waiting:
        at, _ = await grow(hands, claim, waiting, 1)
        async with peer.listen() as own:
            await own.event()
            await hands.hears(2)
            await asyncio.sleep(0.5)
            methods: list[str] = []
            for _ in range(4):
                at, _ = await grow(hands, claim, waiting, at)
            await hands.complete(claim)
            while not methods or methods[-1] != "completed":
                told = await own.next()
                methods.append(told["params"].get("status", told["method"]))
    assert "notifications/progress" not in methods


async def test_waiting_calls_share_one_listening_session_and_hold_no_connection(
    settings: Settings, hands: Hands, store: Store
) -> None:
    """Issue 3: waiting `tasks/result` calls hold one notification subscription per process and no database connection
    each. The sessions are counted where they are: in Postgres."""
    narrow = settings.model_copy(update={"database_pool": 2})
    own = "datname = current_database() AND pid <> pg_backend_pid()"
    listening = text(f"SELECT count(*) FROM pg_stat_activity WHERE {own} AND application_name = 'taskengine listener'")
    working = text(f"SELECT count(*) FROM pg_stat_activity WHERE {own} AND application_name = 'taskengine'")

    async def count(what: Any) -> int:
        return int((await store._database.run(what)).scalar_one())

    before = await count(working)
    async with serving(engine, narrow) as peer, AsyncExitStack() as open_streams:
        await peer.initialize()
        task_id = await peer.begin("job", token="t")
        claim = await hands.take()
        opening = [
            open_streams.enter_async_context(peer.stream("tasks/result", {"taskId": task_id})) for _ in range(50)
        ]
        streams = await asyncio.gather(*opening)
        assert await count(listening) == 1
        assert await count(working) - before <= narrow.database_pool
        assert (await peer.get(task_id))["status"] == "working"  # and they leave room for others
        await hands.complete(claim, "all")
        answers = []
        for stream in streams:
            while "result" not in (answer := await stream.next(20)):
                pass
            answers.append(answer["result"]["content"][0]["text"])
        assert answers == ["all"] * len(streams)
        assert await count(listening) == 1


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("kind", ["call", "task"])
async def test_the_log_level_changes_for_streams_that_are_open(
    both: tuple[Peer, Peer], hands: Hands, elsewhere: bool, kind: str
) -> None:
    """L-LOG-05, L-LOG-07: also when another front end is told the level."""
    peer, other = both
    asking = other if elsewhere else peer
    await peer.send("logging/setLevel", {"level": "error"})
    if kind == "call":
        method, params = "tools/call", call_params("levels")
        claim = None
    else:
        task_id = await peer.begin("job")
        claim = await hands.take()
        method, params = "tasks/result", {"taskId": task_id}

    async def lines() -> None:
        while claim is not None:
            for level in ("debug", "info", "error"):
                await hands.store.attempts.log(claim, [{"level": level, "logger": None, "data": f'"{level}"'}])
            await asyncio.sleep(0.05)

    talking = asyncio.create_task(lines())
    try:
        async with peer.stream(method, params) as stream:
            for _ in range(3):
                assert (await stream.next())["params"]["level"] == "error"
            await asking.send("logging/setLevel", {"level": "debug"})
            async with asyncio.timeout(10):
                while (await stream.next())["params"]["level"] != "debug":
                    pass
            await asking.send("logging/setLevel", {"level": "error"})
            in_a_row = 0
            async with asyncio.timeout(10):
                while in_a_row < 9:
                    in_a_row = in_a_row + 1 if (await stream.next())["params"]["level"] == "error" else 0
            await peer.notify("notifications/cancelled", {"requestId": stream.id})
    finally:
        talking.cancel()
    if claim is not None:
        await hands.complete(claim)


def test_what_is_heard_before_ones_own_name_is_older() -> None:
    """L-TRANS-18: of two streams that come at the same moment one is left, not none."""
    first, second = Turn(), Turn()
    for heard in (first.id, second.id):  # the order in which every front end hears it
        over = first.is_over(heard), second.is_over(heard)
    assert over == (True, False)
    assert Turn(announced=True).is_over(second.id)
