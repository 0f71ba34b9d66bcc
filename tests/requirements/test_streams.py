"""What goes over the streams of 2026-07-28, and what must not (requirements 1.5, 1.15, 1.19 and 1.20)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.requirements.conftest import Front
from tests.requirements.tools import engine
from tests.server.peer import EXTENSION, Hands, methods
from tests.wire.schemas import TASKS, check

LEVEL = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


async def test_a_subscription_carries_what_was_asked_for_and_nothing_of_any_request(front: Front, hands: Hands) -> None:
    """M-SUB-02, M-SUB-09, M-SUB-13, M-TASK-70, M-TASK-73, M-TRANS-24, M-PROG-07."""
    peer = await front.modern()
    watched = (await peer.call("report", tasks=True, meta={"progressToken": "t", LEVEL: "debug"})).result["taskId"]
    other = (await peer.call("report", tasks=True)).result["taskId"]
    wanted: dict[str, Any] = {"toolsListChanged": True}
    async with (
        peer.stream("subscriptions/listen", {"notifications": wanted}) as tools,
        peer.stream("subscriptions/listen", {"notifications": {"taskIds": [watched]}}) as tasks,
    ):
        assert (await tools.next())["params"]["notifications"] == wanted
        assert (await tasks.next())["params"]["notifications"] == {"taskIds": [watched]}
        await hands.hears()
        claims = {claim.task_id: claim for claim in [await hands.take(), await hands.take()]}
        await hands.progress(claims[watched], 1, 2)
        await hands.store.attempts.log(claims[watched], [{"level": "error", "logger": None, "data": '"line"'}])
        await hands.complete(claims[other])
        await peer.call("add_tool")
        await hands.complete(claims[watched])
        said = [message async for message in rest(tasks)]
        assert methods(said[:-1]) == ["notifications/tasks"] * (len(said) - 1)
        assert {message["params"]["taskId"] for message in said[:-1]} == {watched}
        assert said[-1]["result"]["resultType"] == "complete"
        told = await tools.next()
        assert told["method"] == "notifications/tools/list_changed"
        assert told["params"]["_meta"] == {SUBSCRIPTION: tools.id}


async def test_a_stream_opened_again_tells_the_state_and_replays_nothing(front: Front, hands: Hands) -> None:
    """M-SUB-05 (with the type of the id), M-SUB-10, M-SUB-14, M-SUB-17, M-TRANS-22, A-20, A-21."""
    peer = await front.modern()
    task_id = (await peer.call("report", tasks=True)).result["taskId"]
    params = {"notifications": {"taskIds": [task_id]}}
    async with peer.stream("subscriptions/listen", params) as stream:
        await stream.next()
        await stream.next()
    async with asyncio.timeout(5):
        while front.app.state.service.open_exchanges:  # nothing is kept for who is gone
            await asyncio.sleep(0.02)
    claim = await hands.take()
    await hands.progress(claim, 1, 2)
    await hands.complete(claim)
    message = {**peer.message("subscriptions/listen", params, EXTENSION, {}), "id": "again"}
    headers = {**peer.headers("subscriptions/listen", params, {}), "last-event-id": "1"}
    reply = await peer.post(json.dumps(message), headers)
    acknowledged, state, result = reply.messages
    assert acknowledged["params"]["_meta"] == state["params"]["_meta"] == {SUBSCRIPTION: "again"}
    assert (state["method"], state["params"]["status"]) == ("notifications/tasks", "completed")
    assert (result["id"], result["result"]["_meta"][SUBSCRIPTION]) == ("again", "again")


async def test_side_by_side_each_call_hears_of_itself_only(front: Front) -> None:
    """M-TRANS-17, M-TRANS-18, M-TRANS-19, M-BASE-09, M-PROG-06."""
    peer = await front.modern()
    calls = [peer.call("steps", {"pause": 0.1}, meta={"progressToken": token, LEVEL: "info"}) for token in ("a", "b")]
    for token, reply in zip(("a", "b"), await asyncio.gather(*calls), strict=True):
        assert all("id" not in message for message in reply.notifications)
        told = [each["params"] for each in reply.notifications if each["method"] == "notifications/progress"]
        assert [params["progressToken"] for params in told] == [token] * 3
        assert methods(reply.notifications).count("notifications/message") == 3
        assert reply.text == "walked"


async def test_progress_only_grows_and_a_flood_is_thinned_out(front: Front) -> None:
    """X-PROG-02, X-PROG-04, X-PROG-05, X-LOG-10, on either revision."""
    peer, session = await front.modern(), await front.legacy()
    meta = {"progressToken": "t", LEVEL: "info"}
    for tool in ("stagger", "overflow"):
        for messages in (
            (await peer.call(tool, meta=meta)).messages,
            (await session.call(tool, token="t")).messages,
        ):
            told = [each["params"] for each in messages if each.get("method") == "notifications/progress"]
            values = [params["progress"] for params in told]
            assert values == sorted(set(values))
            assert values[-1] == told[-1]["total"], "the end is always told"
            assert "result" in messages[-1]
            if tool == "overflow":
                assert len(values) < 1000
                assert sum(each.get("method") == "notifications/message" for each in messages) < 1000


async def test_an_error_after_the_stream_began_is_its_last_event(front: Front, hands: Hands) -> None:
    """M-TRANS-26, M-STAT-01: its status would be 400, had the stream not begun with 200."""
    peer = await front.modern()
    params: dict[str, Any] = {"name": "job"}
    async with peer.stream("tools/call", params, capabilities={}, meta={"progressToken": 1}) as stream:
        claim = await hands.take()
        await hands.progress(claim, 1, 2)
        assert (await stream.next())["method"] == "notifications/progress"
        await hands.fail(claim, -32021, "Needs sampling", {"requiredCapabilities": {"sampling": {}}})
        said = [message async for message in rest(stream)]
    assert [(message["id"], message["error"]["code"]) for message in said] == [(stream.id, -32021)]


async def test_only_calls_become_tasks_or_ask(front: Front) -> None:
    """M-TASK-08, M-TASK-10, M-TASK-74, M-MRTR-03, M-CACHE-01 to M-CACHE-03."""
    peer = await front.modern()
    declared = {**EXTENSION, "elicitation": {}, "sampling": {}, "roots": {}}
    for method in ("server/discover", "tools/list"):
        result = (await peer.send(method, capabilities=declared)).result
        assert result["resultType"] == "complete"
        assert type(result["ttlMs"]) is int
        assert result["cacheScope"] in {"public", "private"}
    for method in ("tasks/result", "tasks/list", "tasks/create", "tasks/delete", "tasks"):
        assert (await peer.send(method, {"taskId": "tsk_1"}, capabilities=declared)).refused == (404, -32601)


async def test_reading_a_task_changes_nothing(front: Front, hands: Hands) -> None:
    """M-TASK-20, M-TASK-42."""
    peer = await front.modern()
    task_id = (await peer.call("report", tasks=True)).result["taskId"]
    await hands.take()
    polls = [(await peer.get(task_id)).result for _ in range(5)]
    for poll in polls:
        check("GetTaskResult", poll, TASKS)
        assert {**poll, "pollIntervalMs": 0} == {**polls[0], "pollIntervalMs": 0}


async def test_a_task_asks_only_what_the_call_that_made_it_declared(front: Front, hands: Hands) -> None:
    """M-TASK-58, A-32."""
    peer = await front.modern()
    silent = (await peer.call("confirm", tasks=True)).result["taskId"]
    await hands.run(engine)
    task = (await peer.get(silent)).result
    assert (task["status"], task["error"]["code"]) == ("failed", -32021)
    assert "inputRequests" not in task
    asking = (await peer.call("confirm", tasks=True, capabilities={"elicitation": {}})).result["taskId"]
    await hands.run(engine)
    task = (await peer.get(asking)).result  # this request declares nothing but the extension
    assert (task["status"], list(task["inputRequests"])) == ("input_required", ["elicit-1"])


async def rest(stream: Any) -> Any:
    """All messages to the end of the stream."""
    while True:
        try:
            yield await stream.next()
        except StopAsyncIteration:
            return
