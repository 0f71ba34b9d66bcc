from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from taskengine.settings import Settings
from taskengine.store.tasks import Tasks
from tests.legacy.peer import ALL, Peer, Stream, serving
from tests.legacy.tools import engine
from tests.server.peer import Hands


@pytest.fixture
async def both(settings: Settings) -> AsyncIterator[tuple[Peer, Peer]]:
    """The same session at two front ends."""
    async with serving(engine, settings) as one, serving(engine, settings) as other:
        await one.initialize(capabilities=ALL)
        other.session, other.version = one.session, one.version
        yield one, other


async def until(stream: Stream, status: str) -> dict[str, Any]:
    """The params of the notification of that status."""
    while True:
        told = await stream.next()
        assert told["method"] == "notifications/tasks/status"
        if told["params"]["status"] == status:
            return dict(told["params"])


async def test_a_session_is_told_of_its_tasks(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-TASK-44, L-TASK-46, L-TRANS-15, D-35."""
    peer, other = both
    async with peer.listen() as stream:
        await hands.hears()
        task_id = await other.begin("job")
        claim = await hands.take()
        await hands.complete(claim, is_error=True)
        told = await until(stream, "failed")
    assert told["taskId"] == task_id
    assert "_meta" not in told


async def test_the_stream_of_a_session_reads_no_results(
    both: tuple[Peer, Peer], hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never tells them, and they may be large."""

    async def unwanted(*_: Any) -> Any:
        raise AssertionError("a result was read")

    peer, _ = both
    monkeypatch.setattr(Tasks, "get_many", unwanted)
    async with peer.listen() as stream:
        await hands.hears()
        task_id = await peer.begin("job")
        await hands.complete(await hands.take())
        assert (await until(stream, "completed"))["taskId"] == task_id


async def test_a_session_is_not_told_of_other_sessions_tasks(peer: Peer, hands: Hands, settings: Settings) -> None:
    async with serving(engine, settings) as stranger, peer.listen() as stream:
        await stranger.initialize()
        await hands.hears(1)
        await stranger.begin("job")
        await hands.complete(await hands.take())
        with pytest.raises(TimeoutError):
            await stream.next(1.5)


async def test_whoever_comes_back_is_told_what_changed_meanwhile(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-TRANS-21."""
    peer, other = both
    async with peer.listen() as stream:
        await hands.hears()
        task_id = await peer.begin("job")
        claim = await hands.take()
        await until(stream, "working")
        last = stream.last_event
    await hands.complete(claim)
    async with other.listen(last) as resumed:
        assert (await until(resumed, "completed"))["taskId"] == task_id


async def test_changes_of_the_tools_are_told(both: tuple[Peer, Peer], hands: Hands) -> None:
    """X-TOOL-02."""
    peer, other = both
    async with peer.listen() as stream:
        await stream.event()
        await hands.hears()
        await asyncio.sleep(0.2)
        await other.call("add_tool")
        assert (await stream.next())["method"] == "notifications/tools/list_changed"


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_only_the_latest_stream_of_a_session_is_served(
    both: tuple[Peer, Peer], hands: Hands, elsewhere: bool
) -> None:
    """L-TRANS-18."""
    peer, other = both
    async with peer.listen() as first:
        await first.event()
        await hands.hears()
        await asyncio.sleep(0.2)
        async with (other if elsewhere else peer).listen():
            with pytest.raises(StopAsyncIteration):
                await first.next()


async def test_nothing_is_said_before_the_handshake_is_over(settings: Settings, hands: Hands) -> None:
    """L-LIFE-06: the client says so at any front end."""
    async with serving(engine, settings) as peer, serving(engine, settings) as other:
        await other.initialize()
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        peer.session = (await peer.send("initialize", params)).headers["mcp-session-id"]
        async with peer.listen() as stream, other.listen() as ready:
            assert (await stream.event()).message is None
            await ready.event()
            await hands.hears(2)
            await asyncio.sleep(0.2)
            await other.call("add_tool")
            assert (await ready.next())["method"] == "notifications/tools/list_changed"
            held_back = asyncio.create_task(stream.next(30))
            await asyncio.sleep(0.5)
            assert not held_back.done()
            mine, other.session = other.session, peer.session
            assert (await other.notify("notifications/initialized")).status == 202
            other.session = mine
            assert (await held_back)["method"] == "notifications/tools/list_changed"


async def test_the_stream_ends_when_its_session_expires(settings: Settings) -> None:
    """L-SESS-08, X-SEC-06."""
    short = settings.model_copy(update={"session_ttl": timedelta(seconds=3)})
    async with serving(engine, short) as peer:
        await peer.initialize()
        async with peer.listen() as stream:
            await stream.event()
            with pytest.raises(StopAsyncIteration):
                await stream.event(10)


async def test_a_stream_that_is_over_does_not_say_when_to_come_back(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-TRANS-09: two streams of one session do not take turns for ever."""
    peer, _ = both
    async with peer.listen() as first:
        await first.event()
        async with peer.listen():
            assert [event.retry for event in await first.rest()][1:] == [None] * (len(first.events) - 1)


async def test_the_stream_ends_with_its_session(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-SESS-08."""
    peer, other = both
    async with peer.listen() as stream:
        await stream.event()
        await hands.hears()
        await asyncio.sleep(0.2)
        await other.request("DELETE")
        with pytest.raises(StopAsyncIteration):
            await stream.next()
