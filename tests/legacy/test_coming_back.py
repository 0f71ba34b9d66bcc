"""Clients that come back to a stream, cancel what has none, or read nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from taskengine.server import create_app
from taskengine.server.endpoint import McpEndpoint
from taskengine.server.legacy.front import Front
from taskengine.server.legacy.runs import Runs
from taskengine.settings import Settings
from taskengine.wire.meta import IDEMPOTENCY_KEY
from tests.legacy.peer import ALL, Peer, call_params, peer_of, serving
from tests.legacy.tools import engine
from tests.server.peer import Hands, accept, form, front_end


@pytest.fixture
async def both(settings: Settings) -> AsyncIterator[tuple[Peer, Peer]]:
    """The same session at two front ends."""
    async with serving(engine, settings) as one, serving(engine, settings) as other:
        await one.initialize(capabilities=ALL)
        other.session, other.version = one.session, one.version
        yield one, other


def front_of(app: Any) -> Front:
    endpoint = next(route.endpoint for route in app.routes if isinstance(route.endpoint, McpEndpoint))
    return endpoint._legacy._front


async def status(hands: Hands, wanted: str) -> None:
    async with asyncio.timeout(5):
        while (await hands.rows())[0].status != wanted:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("method", ["tools/call", "tasks/result"])
async def test_whoever_comes_back_is_not_asked_again(both: tuple[Peer, Peer], hands: Hands, method: str) -> None:
    """L-TASK-40, L-TRANS-18, A-26: the client has the question from before, and its answer still counts."""
    peer, other = both
    params = call_params("plain_job", token=1)
    if method == "tasks/result":
        params = {"taskId": await peer.begin("plain_job", token=1)}
    async with peer.stream(method, params) as stream:
        await hands.ask(await hands.take(), form("first"))
        question = await stream.next()
    async with other.listen(stream.last_event) as resumed:
        following = asyncio.create_task(resumed.next(60))
        await asyncio.sleep(1)
        assert not following.done()
        assert (await other.answer(question, accept(ok=True))).status == 202
        claim = await hands.take()
        await hands.complete(claim, "whole")
        told = await following
    assert told["result"]["content"][0]["text"] == "whole"


async def test_a_question_that_was_lost_on_the_way_is_put_again(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-TASK-40, L-TRANS-21: the client comes back to a place before it."""
    peer, other = both
    task_id = await peer.begin("job", token=1)
    claim = await hands.take()
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        await hands.progress(claim, 1)
        await stream.next()
        before = stream.last_event
        await hands.ask(claim, form("first"))
        question = await stream.next()
    async with other.listen(before) as resumed:
        again = await resumed.next()
        assert again["method"] == "elicitation/create"
        assert again["id"] != question["id"]
        await other.answer(again, accept(ok=True))
        await hands.complete(await hands.take())


async def test_progress_is_not_told_twice_to_whoever_comes_back(both: tuple[Peer, Peer], hands: Hands) -> None:
    """X-PROG-02, L-TRANS-21."""
    peer, other = both
    task_id = await peer.begin("job", token=1)
    claim = await hands.take()
    await hands.progress(claim, 0.5)
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        assert (await stream.next())["params"]["progress"] == 0.5
    async with other.listen(stream.last_event) as resumed:
        following = asyncio.create_task(resumed.next(60))
        await asyncio.sleep(1.2)
        await hands.progress(claim, 2)
        assert (await following)["params"]["progress"] == 2
        await hands.complete(claim)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_stream_that_was_left_is_closed_when_its_client_comes_back(
    both: tuple[Peer, Peer], hands: Hands, elsewhere: bool
) -> None:
    """L-TRANS-18: a connection that still looks open gets nothing more, and no response."""
    peer, other = both
    task_id = await peer.begin("job", token=1)
    claim = await hands.take()
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        await hands.progress(claim, 1)
        await stream.next()
        async with (other if elsewhere else peer).listen(stream.last_event) as resumed:
            with pytest.raises(StopAsyncIteration):
                await stream.next()
            await hands.complete(claim, "once")
            while "result" not in (answer := await resumed.next()):
                pass
    assert answer["id"] == stream.id


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_call_is_cancelled_although_its_stream_was_left_before(
    both: tuple[Peer, Peer], hands: Hands, elsewhere: bool
) -> None:
    """L-CANC-10, L-CANC-11, X-CANC-07: clients that give up close the stream and cancel, in either order."""
    peer, other = both
    async with peer.stream("tools/call", call_params("plain_job", token=1)) as stream:
        await hands.progress(await hands.take(), 1)
        await stream.next()
    await asyncio.sleep(0.2)
    assert (await hands.rows())[0].status == "working"
    await (other if elsewhere else peer).notify("notifications/cancelled", {"requestId": stream.id})
    await status(hands, "cancelled")


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_call_keeps_its_key_when_its_client_comes_back(
    both: tuple[Peer, Peer], hands: Hands, keyed: bool
) -> None:
    """L-CANC-10: what the client may ask for again by its key does not end with a request."""
    peer, other = both
    params = call_params("plain_job", token=1)
    if keyed:
        params["_meta"][IDEMPOTENCY_KEY] = "order-1"
    async with peer.stream("tools/call", params) as stream:
        claim = await hands.take()
        await hands.progress(claim, 1)
        await stream.next()
    async with other.listen(stream.last_event) as resumed:
        await hands.progress(claim, 2)
        while (await resumed.next())["params"]["progress"] != 2:
            pass
        await other.notify("notifications/cancelled", {"requestId": stream.id})
        await resumed.rest()
    if not keyed:
        await status(hands, "cancelled")
        return
    await hands.complete(claim, "kept")  # raises where the task was cancelled
    again = {"name": "plain_job", "_meta": {IDEMPOTENCY_KEY: "order-1"}}
    assert (await other.send("tools/call", again)).text == "kept"


async def test_a_tool_without_a_task_is_cancelled_although_its_stream_was_left_before(settings: Settings) -> None:
    """L-CANC-10."""
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as peer:
        await peer.initialize()
        async with peer.stream("tools/call", call_params("slow", {"steps": 999}, token=1)) as stream:
            await stream.next()
        runs = front_of(app).runs
        assert len(runs._going) == 1
        await peer.notify("notifications/cancelled", {"requestId": stream.id})
        async with asyncio.timeout(5):
            while runs._going:
                await asyncio.sleep(0.02)
        async with peer.listen(stream.last_event) as resumed:
            assert (await resumed.next())["error"]["code"] == -32800


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [("slow", {"steps": 6}, "slept"), ("slow", {"steps": 1}, "slept"), ("refuse_later", {}, "Not today")],
)
async def test_a_call_that_runs_elsewhere_is_waited_for_and_not_done_again(
    both: tuple[Peer, Peer], tool: str, arguments: dict[str, Any], said: str
) -> None:
    """L-TRANS-21: its result comes to whichever front end the client came back to, whether it has ended or not."""
    peer, other = both
    async with peer.stream("tools/call", call_params(tool, arguments, token=1)) as stream:
        await stream.next()
    async with other.listen(stream.last_event) as resumed:
        answer = await resumed.next(10)
    assert answer["id"] == stream.id
    assert said in json.dumps(answer)
    if "error" in answer:
        assert answer["error"] == {"code": 1234, "message": "Not today", "data": {"why": "Sunday"}}


async def test_a_call_that_runs_elsewhere_can_be_cancelled_and_answered(both: tuple[Peer, Peer]) -> None:
    """L-CANC-10, L-TRANS-21."""
    peer, other = both
    async with peer.stream("tools/call", call_params("ask_name")) as stream:
        question = await stream.next()
    async with other.listen(stream.last_event) as resumed:
        await other.answer(question, accept(name="Ada"))
        assert (await resumed.next(10))["result"]["content"][0]["text"] == "Hello, Ada!"
    async with peer.stream("tools/call", call_params("slow", {"steps": 999}, token=1)) as stream:
        await stream.next()
    async with other.listen(stream.last_event) as resumed:
        await resumed.event()
        await other.notify("notifications/cancelled", {"requestId": stream.id})
        with pytest.raises(StopAsyncIteration):
            await resumed.next()
    async with asyncio.timeout(5):
        while True:
            async with peer.listen(stream.last_event) as again:
                if (await again.next()).get("error", {}).get("code") == -32800:
                    break


async def test_what_was_cancelled_is_not_gone_on_with(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-CANC-10, L-CANC-13: transports come back to a stream that ended without an answer, and get a short one."""
    peer, other = both
    await other.notify("notifications/initialized")  # it listens from its first such message on
    task_id = await peer.begin("job", token=1)
    claim = await hands.take()
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        await hands.hears(2)
        await hands.progress(claim, 1)
        await stream.next()
        await peer.notify("notifications/cancelled", {"requestId": stream.id, "reason": "Enough\nof it"})
        assert [event.retry for event in await stream.rest()][1:] == [None] * (len(stream.events) - 1)
    await asyncio.sleep(0.3)
    for each in (peer, other):
        async with each.listen(stream.last_event) as resumed:
            answer = await resumed.next()
            assert (answer["id"], answer["error"]["code"]) == (stream.id, -32800)
    assert (await peer.get(task_id))["status"] == "working"
    await hands.complete(claim)


async def test_a_wait_for_a_task_by_a_tool_can_be_cancelled(peer: Peer, hands: Hands) -> None:
    """L-CANC-10: the handle tools too; the task is not touched."""
    task_id = await peer.begin("job")
    claim = await hands.take()
    async with peer.stream("tools/call", call_params("task_wait", {"task_id": task_id}, token=1)) as stream:
        await hands.progress(claim, 1)
        await stream.next()
        await peer.notify("notifications/cancelled", {"requestId": stream.id})
        with pytest.raises(StopAsyncIteration):
            await stream.next()
    assert (await peer.get(task_id))["status"] == "working"
    await hands.complete(claim)


async def test_a_stream_that_cannot_be_resumed_is_not_closed_early(settings: Settings, hands: Hands) -> None:
    """L-TRANS-08: only a client that has an event's id can come back."""
    impatient = settings.model_copy(update={"stream_limit": timedelta(milliseconds=200)})
    async with serving(engine, impatient) as peer:
        await peer.initialize()
        task_id = await peer.begin("job")
        claim = await hands.take()
        waiting = asyncio.create_task(peer.call("task_wait", {"task_id": task_id}))
        await asyncio.sleep(0.6)
        assert not waiting.done()
        await hands.complete(claim, "all of it")
        assert (await waiting).text == "all of it"


@pytest.mark.parametrize("accept_header", [None, "application/json"])
async def test_a_stopping_front_end_names_the_task_of_a_bridged_call(
    settings: Settings, hands: Hands, accept_header: str | None
) -> None:
    """Issue 3: a host never loses or doubles its task; any client understands an ordinary result."""
    quick = settings.model_copy(update={"shutdown_grace": timedelta(seconds=0.2)})
    async with front_end(create_app(engine, quick)) as running, peer_of(running) as peer:
        await peer.initialize()
        headers = {} if accept_header is None else {"accept": accept_header}
        calling = asyncio.create_task(peer.send("tools/call", call_params("job"), headers))
        claim = await hands.take()
        await running.stop()
        reply = await calling
    assert reply.result["structuredContent"]["task_id"] == claim.task_id
    await hands.complete(claim)


async def test_a_client_that_reads_nothing_holds_up_nobody(settings: Settings) -> None:
    """L-CANC-10, X-SEC-10: its stream backs up, others are served, and its call can be cancelled."""
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as peer:
        await peer.initialize()
        message = {**peer.message("tools/call", call_params("flood", {"size": 50_000})), "id": "stuck"}
        body = json.dumps(message)
        head = "".join(f"{name}: {value}\r\n" for name, value in peer.headers().items())
        address = urlsplit(peer.url)
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stuck, (address.hostname, address.port))
            head = f"POST {address.path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{head}\r\n"
            await loop.sock_sendall(stuck, (head + body).encode())
            front = front_of(app)
            async with asyncio.timeout(5):
                while not len(front.runs):
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            assert (await peer.call("greet")).text == "Hello, you!"
            sizes = [run.size for run in front.runs._going.values()]
            assert max(sizes) < 2 << 20  # what waits for it is bounded
            async with asyncio.timeout(8):
                assert (await peer.notify("notifications/cancelled", {"requestId": "stuck"})).status == 202
                while front.runs._going or front.requests._running:
                    await asyncio.sleep(0.02)


async def test_nothing_is_left_of_streams_that_ended(settings: Settings, hands: Hands) -> None:
    """Nothing grows with sessions, streams, questions or calls."""
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as peer:
        for _ in range(3):
            await peer.initialize(capabilities=ALL)
            task_id = await peer.begin("job", token=1)
            claim = await hands.take()
            async with peer.listen() as own, peer.stream("tasks/result", {"taskId": task_id}) as waiting:
                await own.event()
                await hands.ask(claim, form("sure"))
                await peer.answer(await waiting.next(), accept(ok=True))
                await hands.complete(await hands.take())
                while "result" not in await waiting.next():
                    pass
            async with peer.stream("tools/call", call_params("ask_name")) as stream:
                await peer.answer(await stream.next(), accept(name="Ada"))
                await stream.next()
            await peer.call("greet")
            await peer.request("DELETE")
        front = front_of(app)
        async with asyncio.timeout(5):
            while front.listeners:
                await asyncio.sleep(0.02)
        held = (front.requests._running, front.requests._calls, front._wanted, front.tellers._here, front.answers)
        assert [len(each) for each in held] == [0] * len(held)
        assert len(front.runs) == 3  # the calls that had a stream, for a while; no plain answer
        changes = app.state.service.store.changes
        assert (changes._watches, changes._tools, changes._seen) == ({}, set(), {})


class Kept:
    def __init__(self, name: str, size: int) -> None:
        self.id, self.size = name, size

    def cancel(self) -> None:
        raise AssertionError("it has ended")

    async def outcome(self) -> Any:
        raise NotImplementedError

    async def serve(self, exchange: Any, framing: Any) -> Any:
        raise NotImplementedError


async def test_ended_calls_are_kept_as_far_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskengine.server.legacy.runs.KEPT_BYTES", 100)
    monkeypatch.setattr("taskengine.server.legacy.runs.KEPT_S", 0.05)
    runs = Runs()
    for name, size in (("a", 60), ("b", 60), ("c", 30)):
        runs.begin(Kept(name, size))
        runs.end(Kept(name, size))
    assert (runs.get("a"), len(runs)) == (None, 2)
    runs.forget("b")
    assert len(runs) == 1
    runs.begin(Kept("going", 1_000))
    async with asyncio.timeout(5):
        while runs.get("c") is not None:
            await asyncio.sleep(0.01)
    assert runs.get("going") is not None
