"""What may go wrong between a host without tasks and its task: nothing is lost, doubled or answered by others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from taskengine import TaskEngine
from taskengine.errors import StoreUnavailable
from taskengine.server import create_app
from taskengine.server.legacy import following
from taskengine.server.service import Service
from taskengine.settings import Settings
from tests.bridge.tools import engine
from tests.legacy import peer as legacy
from tests.server.peer import Hands, Peer, front_end, peer_of, serving


@asynccontextmanager
async def legacy_peer(
    settings: Settings, version: str = legacy.LATEST, capabilities: Mapping[str, Any] = {}
) -> AsyncIterator[tuple[legacy.Peer, Service]]:
    app = create_app(engine, settings)
    async with front_end(app, settings.path) as running, legacy.peer_of(running) as peer:
        await peer.initialize(version, capabilities)
        yield peer, app.state.service


class CutOff:
    """A statement that is carried out, and whose outcome is not learned."""

    def __init__(self, method: Any, times: int) -> None:
        self._method = method
        self._left = times

    async def __call__(self, *args: Any) -> Any:
        outcome = await self._method(*args)
        if self._left:
            self._left -= 1
            raise StoreUnavailable("ConnectionResetError")
        return outcome


@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25"])
async def test_a_call_whose_outcome_was_not_learned_is_joined_by_its_repetition(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """A committed task that the repeated call finds is not taken away from it."""
    app = create_app(engine, settings)
    async with front_end(app, settings.path) as running, peer_of(running) as modern, legacy.peer_of(running) as older:
        await older.initialize(version if version != "2026-07-28" else legacy.LATEST)
        peer = modern if version == "2026-07-28" else older
        tasks = app.state.service.store.tasks
        monkeypatch.setattr(tasks, "create", CutOff(tasks.create, times=3))
        assert (await peer.call("shared", {"n": 2})).error["code"] == -32603
        again = await peer.call("shared", {"n": 2})
        await asyncio.sleep(0.3)  # what would cancel it works in the background
        (row,) = await hands.rows()
        assert row.status == "working"
        assert row.id in again.text


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18"])
async def test_a_database_that_stays_away_does_not_make_the_host_begin_again(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    long = settings.model_copy(update={"inline_wait": timedelta(seconds=30)})
    monkeypatch.setattr(following, "LONGEST_OUTAGE_S", 0.2)
    async with legacy_peer(long, version) as (peer, service):

        async def away(*_: Any) -> Any:
            raise StoreUnavailable("ConnectionRefusedError")

        monkeypatch.setattr(service.store.tasks, "get", away)
        reply = await peer.call("job", {"n": 3})
        monkeypatch.undo()
        (row,) = await hands.rows()
        assert row.id in reply.text
        assert "Do not call job again" in reply.text


async def test_a_question_that_is_answered_as_it_is_put_does_not_end_the_call(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another client, or by an earlier answer of this one: the call of a host that can be asked goes on (A-26)."""
    long = settings.model_copy(update={"inline_wait": timedelta(seconds=30)})
    async with legacy_peer(long, capabilities=legacy.FORMS) as (peer, service):
        inputs, offer = service.store.inputs, service.store.inputs.offer

        async def answered_meanwhile(task_id: str, keys: Any, *rest: Any) -> Any:
            if keys:
                await inputs.answer(task_id, "anonymous", {"sure": {"action": "accept", "content": {"ok": True}}})
            return await offer(task_id, keys, *rest)

        monkeypatch.setattr(inputs, "offer", answered_meanwhile)
        calling = asyncio.create_task(peer.call("confirm"))
        await hands.run(engine)
        await hands.run(engine)
        assert (await calling).text == "accept True"


@pytest.mark.parametrize("tool", ["task_wait", "task_answer", "task_cancel"])
async def test_an_id_that_no_task_can_have_is_an_unknown_one(peer: Peer, tool: str) -> None:
    """X-SEC-03: also what the database cannot even be asked for."""
    more = {"answers": {"a": "accept"}} if tool == "task_answer" else {}
    for task_id in ("tsk_\x00", "tsk \n", "", "x" * 100_000, "ä"):
        reply = await peer.call(tool, {"task_id": task_id, **more})
        assert reply.result["isError"] is True
        assert reply.text == (await peer.call(tool, {"task_id": "tsk_nothere", **more})).text


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
async def test_nor_by_the_methods_of_the_protocol(settings: Settings, method: str) -> None:
    """X-SEC-03, L-TASK-27."""
    async with legacy_peer(settings) as (peer, _):
        for task_id in ("tsk_\x00", "", "x" * 100_000):
            reply = await peer.send(method, {"taskId": task_id})
            assert reply.error == (await peer.send(method, {"taskId": "tsk_nothere"})).error


async def test_questions_for_a_person_are_not_put_to_a_model(peer: Peer, hands: Hands) -> None:
    task_id = (await peer.call("consent", tasks=True, capabilities={"elicitation": {}})).result["taskId"]
    await hands.run(engine)
    reply = await peer.call("task_wait", {"task_id": task_id})
    assert "Sure?" in reply.text
    assert "task_answer" not in str(reply.result)
    assert "person" in reply.text


async def test_a_task_of_an_unknown_tool_takes_no_answer_from_a_model(
    peer: Peer, hands: Hands, settings: Settings
) -> None:
    """Nobody can say here that its questions are not for a person."""
    task_id = (await peer.call("consent", tasks=True, capabilities={"elicitation": {}})).result["taskId"]
    await hands.run(engine)
    async with serving(TaskEngine("other"), settings) as other:
        reply = await other.call("task_answer", {"task_id": task_id, "answers": {"sure": {"ok": True}}})
        assert reply.result["isError"] is True
        assert (await other.call("task_cancel", {"task_id": task_id})).result["structuredContent"]["status"] == (
            "cancelled"
        )


async def test_answers_to_a_task_that_asks_nothing_say_what_to_do(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("confirm"))
    await hands.run(engine)
    task_id = (await calling).result["structuredContent"]["task_id"]
    answer = {"task_id": task_id, "answers": {"sure": {"ok": True}}}
    await peer.call("task_answer", answer)
    late = await peer.call("task_answer", answer)
    assert late.result["isError"] is True
    assert "call task_wait" in late.text


@pytest.mark.parametrize(("setting", "listed"), [("auto", True), ("all", True), ("without_list", False)])
async def test_what_hides_the_list_hides_it_on_each_revision(settings: Settings, setting: str, listed: bool) -> None:
    """L-TASK-04."""
    async with legacy_peer(settings.model_copy(update={"handle_tools": setting})) as (peer, _):
        tools = [tool["name"] for tool in (await peer.send("tools/list")).result["tools"]]
        assert ("task_list" in tools) is listed
        reply = await peer.send("tasks/list")
        assert ("result" in reply.body) is listed
        capabilities = (await peer.initialize()).result["capabilities"]["tasks"]
        assert ("list" in capabilities) is listed


async def test_a_client_that_says_it_leaves_and_leaves_gives_its_question_back(
    settings: Settings, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-26: the next stream puts it at once, however slow the database is when the first one ends."""
    long = settings.model_copy(update={"inline_wait": timedelta(seconds=30)})
    async with legacy_peer(long, capabilities=legacy.FORMS) as (peer, service):
        take_back = service.store.inputs.take_back

        async def slowly(*args: Any, **more: Any) -> None:
            await asyncio.sleep(0.3)
            await take_back(*args, **more)

        monkeypatch.setattr(service.store.inputs, "take_back", slowly)
        task_id = await peer.begin("confirm")
        await hands.run(engine)
        async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
            assert (await stream.next())["method"] == "elicitation/create"
            await peer.notify("notifications/cancelled", {"requestId": stream.id})
        async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
            question = await stream.next(10)
            assert question["method"] == "elicitation/create"
            await peer.answer(question, {"action": "accept", "content": {"ok": True}})
            await hands.run(engine)
            assert (await stream.next())["result"]["content"][0]["text"] == "accept True"
