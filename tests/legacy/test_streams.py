from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from taskengine.server import create_app
from taskengine.settings import Settings
from tests.legacy.peer import ALL, Peer, call_params, peer_of, serving
from tests.legacy.tools import engine
from tests.server.peer import Hands, accept, form, front_end


async def test_a_broken_stream_is_resumed_without_loss(peer: Peer) -> None:
    """L-TRANS-19 to L-TRANS-22, D-46: a tool without a task."""
    async with peer.stream("tools/call", call_params("slow", token=1)) as stream:
        assert (await stream.event()).message is None
        assert (await stream.next())["params"]["progress"] == 0
    await asyncio.sleep(0.5)
    async with peer.listen(stream.last_event) as resumed:
        assert (await resumed.event()).message is None
        told = [await resumed.next() for _ in range(3)]
    assert [each["params"]["progress"] for each in told[:2]] == [1, 2]
    assert told[2]["id"] == stream.id
    assert told[2]["result"]["content"][0]["text"] == "slept"
    assert not {event.id for event in stream.events} & {event.id for event in resumed.events}


async def test_a_response_that_was_lost_is_given_again(peer: Peer) -> None:
    async with peer.stream("tools/call", call_params("slow", {"steps": 1}, token=1)) as stream:
        await stream.next()
        before = stream.last_event
        await stream.next()
    async with peer.listen(before) as resumed:
        assert (await resumed.next())["id"] == stream.id


@pytest.mark.parametrize("method", ["tools/call", "tasks/result"])
async def test_a_stream_of_a_task_is_resumed_at_any_front_end(settings: Settings, hands: Hands, method: str) -> None:
    async with serving(engine, settings) as peer, serving(engine, settings) as other:
        await peer.initialize(capabilities=ALL)
        other.session, other.version = peer.session, peer.version
        params = call_params("plain_job", token=1)
        if method == "tasks/result":
            params = {"taskId": await peer.begin("plain_job", token=1)}
        async with peer.stream(method, params) as stream:
            claim = await hands.take()
            await hands.progress(claim, 1)
            await stream.next()
            await hands.store.attempts.log(claim, [{"level": "info", "logger": None, "data": '"one"'}])
            assert (await stream.next())["params"]["data"] == "one"
        await hands.store.attempts.log(claim, [{"level": "info", "logger": None, "data": '"two"'}])
        async with other.listen(stream.last_event) as resumed:
            told = await resumed.next()
            while told["method"] != "notifications/message":
                told = await resumed.next()
            assert told["params"]["data"] == "two"
            await hands.ask(claim, form("sure"))
            question = await resumed.next()
            await peer.answer(question, accept(ok=True))
            await hands.complete(await hands.take(), "whole")
            answer = await resumed.next()
            while "result" not in answer:
                answer = await resumed.next()
    assert answer["id"] == stream.id
    assert answer["result"]["content"][0]["text"] == "whole"


async def test_a_stream_is_closed_for_the_client_to_come_back(settings: Settings) -> None:
    """L-TRANS-08, L-TRANS-09."""
    impatient = settings.model_copy(update={"stream_limit": timedelta(milliseconds=200)})
    async with serving(engine, impatient) as peer:
        await peer.initialize()
        async with peer.stream("tools/call", call_params("slow", {"steps": 2})) as stream:
            first = await stream.event()
            assert first.message is None
            assert first.retry
            with pytest.raises(StopAsyncIteration):
                await stream.next()
        for _ in range(10):
            try:
                async with peer.listen(stream.last_event) as stream:
                    answer = await stream.next()
                    break
            except StopAsyncIteration:
                continue
        assert answer["result"]["content"][0]["text"] == "slept"


async def test_older_revisions_get_no_empty_events_and_no_closed_streams(settings: Settings) -> None:
    impatient = settings.model_copy(update={"stream_limit": timedelta(milliseconds=200)})
    async with serving(engine, impatient) as peer:
        await peer.initialize("2025-06-18")
        reply = await peer.call("slow", token=1)
        assert all(event.message is not None for event in reply.events)
        assert reply.text == "slept"


async def test_events_of_another_session_lead_nowhere(peer: Peer, settings: Settings) -> None:
    """L-TRANS-22, X-SEC-15."""
    async with peer.stream("tools/call", call_params("slow", token=1)) as stream:
        await stream.next()
        async with serving(engine, settings) as stranger:
            await stranger.initialize()
            for event in (stream.last_event, "1", "x.y.z", ""):
                headers = {"accept": "text/event-stream", "last-event-id": event}
                assert (await stranger.request("GET", headers=headers)).status == 400


async def test_a_call_that_ended_with_its_front_end_says_so(settings: Settings) -> None:
    async with front_end(create_app(engine, settings)) as running, peer_of(running) as peer:
        await peer.initialize()
        async with peer.stream("tools/call", call_params("slow", {"steps": 99}, token=1)) as stream:
            await stream.next()
        await running.stop()
    async with serving(engine, settings) as later:
        later.session, later.version = peer.session, peer.version
        async with later.listen(stream.last_event) as resumed:
            answer = await resumed.next()
    assert (answer["id"], answer["error"]["code"]) == (stream.id, -32603)


async def test_open_streams_are_kept_alive(peer: Peer, hands: Hands) -> None:
    async with peer.stream("tools/call", call_params("job")) as stream:
        claim = await hands.take()
        await asyncio.sleep(0.8)
        await hands.complete(claim)
        assert "result" in await stream.next()


@pytest.mark.parametrize("position", ["9" * 18, "9" * 17, "9" * 5_000, "-1", "1e3"])
async def test_a_place_that_no_stream_can_have_is_refused(peer: Peer, position: str) -> None:
    async with peer.listen() as stream:
        await stream.event()
    token, _, *rest = stream.last_event.split(".")
    headers = {"accept": "text/event-stream", "last-event-id": ".".join([token, position, *rest])}
    assert (await peer.request("GET", headers=headers)).status == 400


async def test_the_last_place_that_a_stream_can_have_is_taken(peer: Peer) -> None:
    async with peer.listen() as stream:
        await stream.event()
    token, _, *rest = stream.last_event.split(".")
    async with peer.listen(".".join([token, "9" * 16, *rest])) as resumed:
        assert (await resumed.event()).message is None
        task_id = await peer.begin("job")
        await peer.send("tasks/cancel", {"taskId": task_id})
        assert (await resumed.next())["params"]["taskId"] == task_id


@pytest.mark.parametrize("progress", ["nan", "inf", "-inf", "1e999", "x"])
async def test_progress_that_no_stream_can_have_told_is_refused(peer: Peer, progress: str) -> None:
    async with peer.stream("tools/call", call_params("slow", token=1)) as stream:
        await stream.next()
    token, position, unique, *_ = stream.last_event.split(".")
    headers = {"accept": "text/event-stream", "last-event-id": f"{token}.{position}.{unique}.{progress}"}
    assert (await peer.request("GET", headers=headers)).status == 400
