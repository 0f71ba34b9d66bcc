"""How many streams an owner has open: counted together by all front ends, and freed however they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from taskengine.client import Client
from taskengine.server import create_app
from taskengine.server.caller import ANONYMOUS
from taskengine.server.shared import Shared
from taskengine.server.streams import Streams, TooMany
from taskengine.settings import Settings
from taskengine.store import Store
from tests.legacy import peer as legacy
from tests.legacy.tools import engine
from tests.processes import free_port
from tests.server.peer import QUEUES, WORKER, Hands, Peer, front_end, serving
from tests.server.test_tasks import begun

Opened = Callable[..., Awaitable[AsyncExitStack]]


class Front:
    """What one front end counts with."""

    def __init__(self, settings: Settings) -> None:
        self.shared = Shared(settings)
        self.streams = Streams(self.shared)

    async def open(self, most: int = 2, name: str | None = None, owner: str = "ann") -> AsyncExitStack:
        """A stream, until the stack is closed."""
        stack = AsyncExitStack()
        await stack.enter_async_context(self.streams.open(owner, most, name))
        return stack

    async def is_full(self, most: int = 2, owner: str = "ann") -> bool:
        try:
            async with self.streams.open(owner, most):
                return False
        except TooMany:
            return True

    async def run_out(self) -> None:
        """Move the end of every entry into the past."""
        assert self.shared.pool is not None
        redis = Redis(connection_pool=self.shared.pool)
        async for key in redis.scan_iter(f"{self.shared.prefix}:streams:*"):
            await redis.zadd(key, {member: 1 for member, _ in await redis.zrange(key, 0, -1, withscores=True)})


@pytest.fixture
async def fronts(settings: Settings) -> AsyncIterator[Callable[..., Front]]:
    made: list[Front] = []

    def make(changed: Settings = settings) -> Front:
        made.append(Front(changed))
        return made[-1]

    yield make
    for front in made:
        await front.streams.close()
        await front.shared.close()


async def test_front_ends_count_together(fronts: Callable[..., Front]) -> None:
    one, other = fronts(), fronts()
    first, second = await one.open(), await other.open()
    assert await one.is_full()
    assert await other.is_full()
    assert not await one.is_full(owner="bob")
    await first.aclose()
    assert not await other.is_full()
    await second.aclose()


async def test_the_streams_of_a_front_end_that_was_killed_run_out(fronts: Callable[..., Front]) -> None:
    one, other = fronts(), fronts()
    killed = [await one.open(), await one.open()]
    assert await other.is_full()
    await one.run_out()
    assert not await other.is_full()
    for stream in killed:
        await stream.aclose()


async def test_streams_that_go_on_are_renewed(fronts: Callable[..., Front]) -> None:
    one, other = fronts(), fronts()
    streams = [await one.open(), await one.open(), await one.open(owner="bob", most=1)]
    await one.run_out()
    await one.streams._renew_all()
    assert await other.is_full()
    assert await other.is_full(owner="bob", most=1)
    await one.streams._renew_all()
    for stream in streams:
        await stream.aclose()
    assert not await other.is_full(most=1)


async def test_a_stream_that_ends_while_it_is_renewed_is_gone(
    fronts: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fronts()
    stream = await one.open(most=1)
    renewed = one.streams._renewed

    async def late(entries: Any) -> Any:
        await stream.aclose()
        return await renewed(entries)

    monkeypatch.setattr(one.streams, "_renewed", late)
    await one.streams._renew_all()
    assert not await fronts().is_full(most=1)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_stream_that_takes_the_place_of_another_is_counted_once(
    fronts: Callable[..., Front], elsewhere: bool
) -> None:
    one = fronts()
    other = fronts() if elsewhere else one
    left = await one.open(most=1, name="result")
    resumed = await other.open(most=1, name="result")
    await one.streams._renew_all()
    await left.aclose()
    assert await one.is_full(most=1)
    assert await other.is_full(most=1)
    await other.streams._renew_all()
    await resumed.aclose()
    assert not await other.is_full(most=1)


async def test_a_place_is_not_shared_by_more_than_the_old_and_the_new(fronts: Callable[..., Front]) -> None:
    one = fronts()
    streams = [await one.open(name="result"), await one.open(name="result")]
    with pytest.raises(TooMany):
        await one.open(name="result")
    for stream in streams:
        await stream.aclose()


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:{port}/0", "amqp://127.0.0.1:{port}//"])
async def test_without_redis_each_front_end_counts_for_itself(
    fronts: Callable[..., Front], settings: Settings, broker: str
) -> None:
    url = SecretStr(broker.format(port=free_port()))
    one, other = (fronts(settings.model_copy(update={"broker_url": url})) for _ in range(2))
    streams = [await one.open(), await one.open(name="named"), await one.open(name="named")]
    assert await one.is_full()
    assert not await other.is_full()
    for stream in streams:
        await stream.aclose()
    assert not await one.is_full(most=1)


async def test_streams_opened_while_redis_was_away_are_counted_when_it_is_back(fronts: Callable[..., Front]) -> None:
    one, other = fronts(), fronts()
    one.shared._away_until = time.monotonic() + 3600
    streams = [await one.open(), await one.open()]
    assert not await other.is_full()
    one.shared._away_until = 0
    await one.streams._renew_all()
    assert await other.is_full()
    for stream in streams:
        await stream.aclose()
    assert not await other.is_full()


# as clients meet it


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)


def limited(settings: Settings, most: int) -> Settings:
    return settings.model_copy(update={"max_streams_per_owner": most, "keep_alive": timedelta(seconds=0.3)})


async def test_subscriptions_at_all_front_ends_are_limited_together(settings: Settings, hands: Hands) -> None:
    """M-SUB-18."""
    few = limited(settings, 2)
    async with serving(engine, few) as one, serving(engine, few) as other:
        task_id = await begun(one)
        wanted = {"notifications": {"taskIds": [task_id]}}
        async with one.stream("subscriptions/listen", wanted) as first:
            await first.next()
            async with other.stream("subscriptions/listen", wanted) as second:
                await second.next()
                for peer in (one, other):
                    refused = await peer.send("subscriptions/listen", wanted, capabilities={"extensions": {}})
                    assert refused.refused == (400, -32021)  # what is wrong with it comes first
                    refused = await _listen(peer, wanted)
                    assert refused.refused == (429, -31010)
                    assert refused.error["data"]["limit"] == "streams_per_owner"
        await hands.complete(await hands.take())
        async with asyncio.timeout(10):  # a front end needs a moment to see that a client has gone
            while (reply := await _listen(other, wanted)).status == 429:
                await asyncio.sleep(0.02)
        assert reply.result["resultType"] == "complete"


async def _listen(peer: Peer, wanted: Any) -> Any:
    message = peer.message("subscriptions/listen", wanted, {"extensions": {"io.modelcontextprotocol/tasks": {}}}, {})
    return await peer.post(legacy.json.dumps(message), peer.headers("subscriptions/listen", wanted, {}))


@pytest.fixture
async def both(settings: Settings) -> AsyncIterator[Callable[[int], Awaitable[tuple[legacy.Peer, legacy.Peer]]]]:
    """The same session at two front ends, where so many streams may be open."""
    async with AsyncExitStack() as stack:

        async def make(most: int) -> tuple[legacy.Peer, legacy.Peer]:
            few = limited(settings, most)
            one, other = [await stack.enter_async_context(legacy.serving(engine, few)) for _ in range(2)]
            await one.initialize(capabilities=legacy.ALL)
            other.session, other.version = one.session, one.version
            return one, other

        yield make


async def test_streams_of_sessions_and_waits_for_results_are_limited_together(both: Any, hands: Hands) -> None:
    """M-SUB-18, L-TASK-63: a `tasks/result` that waits is one of them, and one that does not wait is none."""
    one, other = await both(2)
    task_id = await one.begin("job", token=1)
    claim = await hands.take()
    await hands.progress(claim, 1)
    async with one.listen() as listening, other.stream("tasks/result", {"taskId": task_id}) as waiting:
        await listening.event()
        await waiting.next()
        for peer in (one, other):
            refused = await peer.result(task_id)
            assert refused.refused == (200, -31010)
            assert refused.error["data"]["limit"] == "streams_per_owner"
        await other.initialize()
        refused = await other.request("GET", headers={"content-type": None, "accept": "text/event-stream"})
        assert refused.refused == (429, -31010)
        assert refused.headers["retry-after"] == str(refused.error["data"]["retryAfterSeconds"])
        await hands.complete(claim, "whole")
        while "result" not in (told := await waiting.next()):
            pass
        assert told["result"]["content"][0]["text"] == "whole"
        assert (await one.result(task_id)).text == "whole"
        async with other.listen() as second:
            await second.event()
            assert (await one.result(task_id)).text == "whole"


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_whoever_comes_back_takes_the_place_of_the_stream_it_left(
    both: Any, hands: Hands, elsewhere: bool
) -> None:
    """L-TRANS-18: although its old connection still looks open."""
    one, other = await both(1)
    task_id = await one.begin("job", token=1)
    claim = await hands.take()
    await hands.progress(claim, 1)
    async with one.stream("tasks/result", {"taskId": task_id}) as stream:
        await stream.next()
        back = other if elsewhere else one
        async with back.listen(stream.last_event) as resumed:
            with pytest.raises(StopAsyncIteration):
                await stream.next()
            assert (await one.result(task_id)).refused == (200, -31010)
            async with back.listen(stream.last_event) as again:
                with pytest.raises(StopAsyncIteration):
                    await resumed.next()
                assert (await other.result(task_id)).refused == (200, -31010)
                await hands.complete(claim, "once")
                while "result" not in (told := await again.next()):
                    pass
    assert told["id"] == stream.id
    async with one.listen() as listening:
        await listening.event()


async def test_a_stream_that_finds_no_place_is_refused_and_can_be_resumed_later(both: Any, hands: Hands) -> None:
    one, other = await both(1)
    async with one.stream("tools/call", legacy.call_params("plain_job", token=1)) as stream:
        claim = await hands.take()
        await hands.progress(claim, 1)
        await stream.next()
    headers = {"content-type": None, "accept": "text/event-stream", "last-event-id": stream.last_event}
    async with one.listen() as listening:
        await listening.event()
        refused = await other.request("GET", headers=headers)
        assert refused.refused == (429, -31010)
        assert int(refused.headers["retry-after"]) >= 1
    await hands.complete(claim, "whole")
    async with asyncio.timeout(10):
        while (reply := await other.request("GET", headers=headers)).status == 429:
            await asyncio.sleep(0.02)
    assert reply.text == "whole"


async def test_our_own_client_comes_back_until_there_is_a_place(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-TRANS-21: its call is not lost."""
    one = limited(settings, 1).model_copy(update={"stream_limit": timedelta(milliseconds=200)})
    app = create_app(engine, one)
    refused = asyncio.Event()
    async with front_end(app, one.path) as running:
        monkeypatch.setattr(app.state.service.trail, "refused", lambda *_: refused.set())
        client = Client(running.url, tasks=False, revision=legacy.LATEST)
        async with client, asyncio.timeout(30):
            async with app.state.service.budgets.stream(ANONYMOUS):
                calling = asyncio.create_task(client.call("plain_job"))
                claim = await hands.take()
                await hands.progress(claim, 1)
                await refused.wait()
            await hands.complete(claim, "whole")
            assert (await calling).text == "whole"
