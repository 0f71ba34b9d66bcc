from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest

from taskengine.server import create_app
from taskengine.settings import Settings
from taskengine.store import Store
from tests.legacy.peer import DOCUMENT, FORMS, Peer, Stream, peer_of, serving
from tests.legacy.tools import engine
from tests.server.peer import Hands, accept, form, front_end
from tests.server.peer import peer_of as modern_peer_of
from tests.store.sql import execute
from tests.wire.schemas import check

RELATED = "io.modelcontextprotocol/related-task"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def related(task_id: str) -> dict[str, Any]:
    return {RELATED: {"taskId": task_id}}


async def test_an_augmented_call_gives_its_task_at_once(peer: Peer, hands: Hands) -> None:
    """L-TASK-09 to L-TASK-15, L-TASK-20, A-27, D-02, D-08, D-09."""
    reply = await peer.call("job", {"n": 3}, task={}, token="t")
    check("CreateTaskResult", reply.result, DOCUMENT)
    assert not reply.streamed
    task, meta = reply.result["task"], reply.result["_meta"]
    assert reply.result.keys() == {"task", "_meta"}
    assert task["status"] == "working"
    assert MOMENT.fullmatch(task["createdAt"])
    assert MOMENT.fullmatch(task["lastUpdatedAt"])
    assert (task["ttl"], task["pollInterval"] <= 5000) == (2 * 3_600_000, True)
    assert meta[RELATED] == {"taskId": task["taskId"]}
    assert task["taskId"] in meta["io.modelcontextprotocol/model-immediate-response"]
    claim = await hands.take()
    assert (claim.task_id, claim.arguments) == (task["taskId"], {"n": 3})


async def test_get_gives_the_bare_task(peer: Peer, hands: Hands) -> None:
    """L-TASK-25, L-TASK-26, L-TASK-43, D-19."""
    task_id = await peer.begin("job")
    reply = await peer.send("tasks/get", {"taskId": task_id})
    assert not reply.streamed
    assert reply.result["taskId"] == task_id
    assert "_meta" not in reply.result
    await hands.complete(await hands.take())
    assert (await peer.get(task_id)).keys() & {"result", "error", "content"} == set()


@pytest.mark.parametrize(
    ("ttl", "kept"), [(60_000, 60_000), (0, 1_000), (10**15, 30 * 86_400_000), (None, 7_200_000), (5_000.0, 5_000)]
)
async def test_the_wish_for_a_ttl_is_met_within_limits(peer: Peer, hands: Hands, ttl: Any, kept: int) -> None:
    """L-TASK-16, L-TASK-17, A-34, D-13."""
    task_id = await peer.begin("job", task={"ttl": ttl})
    assert (await peer.get(task_id))["ttl"] == kept
    assert len(await hands.rows()) == 1


@pytest.mark.parametrize("task", [[], "x", True, {"ttl": "1h"}, {"ttl": -1}, {"ttl": 1.5}, {"ttl": True}])
async def test_a_malformed_augmentation_is_an_error(peer: Peer, hands: Hands, task: Any) -> None:
    assert (await peer.call("job", task=task)).refused == (200, -32602)
    assert await hands.rows() == []


async def test_the_result_is_waited_for_and_given_again(peer: Peer, hands: Hands) -> None:
    """L-TASK-28, L-TASK-30 to L-TASK-32, L-TASK-34, D-18, D-20."""
    task_id = await peer.begin("job")
    waiting = [asyncio.create_task(peer.result(task_id)) for _ in range(3)]
    claim = await hands.take()
    await asyncio.sleep(0.1)
    assert (await peer.get(task_id))["status"] == "working"
    assert not any(task.done() for task in waiting)
    await hands.complete(claim, "at last")
    replies = [*await asyncio.gather(*waiting), await peer.result(task_id)]
    for reply in replies:
        assert reply.result == {"content": [{"type": "text", "text": "at last"}], "_meta": related(task_id)}


async def test_a_failed_result_makes_the_task_failed_and_is_still_a_result(peer: Peer, hands: Hands) -> None:
    """L-TASK-23, L-TASK-24, L-TASK-29, D-15."""
    task_id = await peer.begin("job")
    await hands.complete(await hands.take(), "no disk", is_error=True)
    task = await peer.get(task_id)
    assert task["status"] == "failed"
    assert task["statusMessage"]
    reply = await peer.result(task_id)
    assert reply.result["isError"] is True
    assert reply.text == "no disk"


async def test_an_error_is_the_answer_to_result(peer: Peer, hands: Hands) -> None:
    """L-TASK-28, D-16."""
    task_id = await peer.begin("job")
    await hands.fail(await hands.take(), 77, "broke", {"why": 1})
    assert (await peer.get(task_id))["status"] == "failed"
    reply = await peer.result(task_id)
    assert reply.status == 200
    assert reply.error == {"code": 77, "message": "broke", "data": {"why": 1}}


async def test_arguments_that_do_not_fit_make_the_task_fail(peer: Peer, hands: Hands) -> None:
    """A-23. The attempt finds it out."""
    task_id = await peer.begin("job", {"n": "many"})
    await hands.run(engine)
    assert (await peer.get(task_id))["status"] == "failed"
    assert (await peer.result(task_id)).result["isError"] is True


async def test_cancelling_is_done_when_it_is_answered(peer: Peer, hands: Hands) -> None:
    """L-TASK-52 to L-TASK-56, A-25, D-30 to D-33."""
    task_id = await peer.begin("job")
    waiting = asyncio.create_task(peer.result(task_id))
    await hands.take()
    reply = await peer.send("tasks/cancel", {"taskId": task_id})
    assert (reply.result["taskId"], reply.result["status"]) == (task_id, "cancelled")
    assert "_meta" not in reply.result
    assert (await waiting).error["code"] == -32800
    assert (await peer.result(task_id)).error["code"] == -32800
    assert (await peer.send("tasks/cancel", {"taskId": task_id})).refused == (200, -32602)
    assert (await peer.get(task_id))["status"] == "cancelled"


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_a_task_that_ended_cannot_be_cancelled(peer: Peer, hands: Hands, status: str) -> None:
    task_id = await peer.begin("job")
    await hands.complete(await hands.take(), is_error=status == "failed")
    reply = await peer.send("tasks/cancel", {"taskId": task_id})
    assert reply.refused == (200, -32602)
    assert status in reply.error["message"]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
@pytest.mark.parametrize("params", [{"taskId": "tsk_none"}, {"taskId": 7}, {}])
async def test_an_unknown_task_is_an_error(peer: Peer, method: str, params: dict[str, Any]) -> None:
    """L-TASK-27, D-39."""
    assert (await peer.send(method, params)).refused == (200, -32602)


async def test_a_task_of_another_owner_is_unknown(peer: Peer, hands: Hands, database_url: str) -> None:
    """L-TASK-51, L-TASK-59, X-SEC-03."""
    task_id = await peer.begin("job")
    unknown = (await peer.send("tasks/get", {"taskId": "tsk_none"})).error
    await execute(database_url, "UPDATE tasks SET owner = 'somebody else'")
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        assert (await peer.send(method, {"taskId": task_id})).error == unknown
    assert (await peer.send("tasks/list")).result == {"tasks": []}


async def test_the_parameter_decides_which_task(peer: Peer, hands: Hands) -> None:
    """L-TASK-45."""
    task_id = await peer.begin("job")
    params = {"taskId": task_id, "_meta": related("tsk_other")}
    assert (await peer.send("tasks/get", params)).result["taskId"] == task_id


async def test_an_expired_task_is_unknown(peer: Peer, hands: Hands, database_url: str) -> None:
    """L-TASK-18, L-TASK-27."""
    task_id = await peer.begin("job")
    await hands.complete(await hands.take())
    await execute(database_url, "UPDATE tasks SET expires_at = now() - interval '1 second'")
    assert (await peer.send("tasks/result", {"taskId": task_id})).refused == (200, -32602)


async def test_all_tasks_are_listed_page_by_page(peer: Peer, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """L-TASK-48 to L-TASK-50, X-PAGE-01, X-PAGE-03, X-PAGE-05."""
    monkeypatch.setattr("taskengine.server.legacy.tasks.PAGE", 3)
    made = [await peer.begin("job") for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        result = (await peer.send("tasks/list", {} if cursor is None else {"cursor": cursor})).result
        seen += [task["taskId"] for task in result["tasks"]]
        cursor = result.get("nextCursor")
        if cursor is None:
            break
        assert cursor
        await peer.begin("job")  # what comes later does not move the pages
    assert seen == made[::-1]


@pytest.mark.parametrize("cursor", ["", "x", 7, ["x"]])
async def test_an_invalid_cursor_is_an_error(peer: Peer, cursor: Any) -> None:
    """L-TASK-49."""
    assert (await peer.send("tasks/list", {"cursor": cursor})).refused == (200, -32602)


async def test_where_strangers_may_call_tasks_are_not_listed(settings: Settings) -> None:
    """L-TASK-04."""
    exposed = settings.model_copy(update={"host": "0.0.0.0"})
    async with serving(engine, exposed) as peer:
        reply = await peer.initialize()
        assert "list" not in reply.result["capabilities"]["tasks"]
        assert (await peer.send("tasks/list")).refused == (200, -32601)


async def test_leaving_the_result_changes_nothing(peer: Peer, hands: Hands) -> None:
    """L-TASK-33, L-TASK-58, L-CANC-13."""
    task_id = await peer.begin("job", token=1)
    claim = await hands.take()
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        await hands.progress(claim, 1)
        await stream.next()
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        await hands.progress(claim, 2)
        while (await stream.next())["params"]["progress"] < 2:
            pass  # how it stood when the stream began
        await peer.notify("notifications/cancelled", {"requestId": stream.id})
        with pytest.raises(StopAsyncIteration):
            await stream.next()
    assert (await peer.get(task_id))["status"] == "working"
    await hands.complete(claim, "whole")
    assert (await peer.result(task_id)).text == "whole"


async def test_progress_and_log_lines_of_a_task_name_it(peer: Peer, hands: Hands) -> None:
    """L-TASK-42, L-TASK-47, L-PROG-08, D-36, D-37, X-PROG-02."""
    task_id = await peer.begin("job", token="mine")
    claim = await hands.take()
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        await hands.progress(claim, 1, 4)
        told = await stream.next()
        assert told["params"]["progressToken"] == "mine"
        assert told["params"]["_meta"] == related(task_id)
        lines = [{"level": level, "logger": None, "data": f'"{level}"'} for level in ("debug", "warning")]
        await hands.store.attempts.log(claim, lines)
        told = await stream.next()
        assert told["params"] == {"level": "warning", "data": "warning", "_meta": related(task_id)}
        await hands.complete(claim)
        assert "result" in await stream.next()


async def test_many_waiting_clients_hold_no_database_connection_each(
    settings: Settings, hands: Hands, store: Store
) -> None:
    narrow = settings.model_copy(update={"database_pool": 2})
    async with serving(engine, narrow) as peer:
        await peer.initialize()
        task_id = await peer.begin("job")
        waiting = [asyncio.create_task(peer.result(task_id)) for _ in range(40)]
        claim = await hands.take()
        await asyncio.sleep(0.5)
        assert (await peer.get(task_id))["status"] == "working"
        await hands.complete(claim, "all")
        assert {reply.text for reply in await asyncio.gather(*waiting)} == {"all"}


async def rest(stream: Stream) -> None:
    """Read to the end, in which there is no error."""
    while True:
        assert "error" not in await stream.next()


async def test_a_task_begun_on_one_revision_is_finished_on_the_other(settings: Settings, hands: Hands) -> None:
    """A-07, D-17, X-SEC-02."""
    app = create_app(engine, settings)
    async with front_end(app) as running, peer_of(running) as old, modern_peer_of(running) as new:
        await old.initialize(capabilities=FORMS)
        task_id = await old.begin("confirm")
        await hands.ask(await hands.take(), form("elicit-1"))
        assert (await old.get(task_id))["status"] == "input_required"
        assert list((await new.get(task_id)).result["inputRequests"]) == ["elicit-1"]
        await new.update(task_id, {"elicit-1": accept(ok=True)})
        await hands.complete(await hands.take(), "bad", is_error=True)
        assert (await new.get(task_id)).result["status"] == "completed"
        assert (await old.get(task_id))["status"] == "failed"
        made = (await new.call("patient_job", tasks=True)).result["taskId"]
        assert (await old.get(made))["status"] == "working"
        await hands.complete(await hands.take(), "both")
        assert (await old.result(made)).text == "both"


async def test_a_stopping_front_end_hands_the_wait_to_another(settings: Settings, hands: Hands) -> None:
    """L-TRANS-08, L-TRANS-21, L-LIFE-11."""
    quick = settings.model_copy(update={"shutdown_grace": timedelta(seconds=0.2)})
    async with front_end(create_app(engine, quick)) as running, peer_of(running) as peer:
        await peer.initialize()
        task_id = await peer.begin("job", token=1)
        claim = await hands.take()
        async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
            await hands.progress(claim, 1)
            await stream.next()
            await running.stop()
            with pytest.raises(StopAsyncIteration):
                await rest(stream)
    async with serving(engine, settings) as later:
        later.session, later.version = peer.session, peer.version
        async with later.listen(stream.last_event) as resumed:
            await hands.complete(claim, "handed on")
            answer = await resumed.next()
            while "result" not in answer:
                answer = await resumed.next()
    assert answer["id"] == stream.id
    assert answer["result"]["content"][0]["text"] == "handed on"
