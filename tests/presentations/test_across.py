"""One row, more presentations: what begins with one client is seen, answered, cancelled and finished by any other."""

from __future__ import annotations

import asyncio
from itertools import permutations
from pathlib import Path

import pytest

from tests.presentations.clients import Client
from tests.presentations.conftest import connected
from tests.presentations.kinds import KINDS, Bridged
from tests.presentations.place import Place
from tests.presentations.test_behaviours import ANN, appears

pytestmark = pytest.mark.asyncio(loop_scope="module")

Clients = dict[str, Client]
PAIRS = pytest.mark.parametrize(("one", "other"), list(permutations(KINDS, 2)))


@pytest.fixture(autouse=True)
def silent_users(clients: Clients) -> None:
    for client in clients.values():
        client.user = {}


@PAIRS
async def test_a_task_begun_on_one_is_finished_on_another(clients: Clients, one: str, other: str) -> None:
    """A-07."""
    task_id = await clients[one].begin("double_later", n=4)
    assert (await clients[other].finish(task_id)).structured == {"doubled": 8}
    assert (await clients[one].finish(task_id)).structured == {"doubled": 8}


@PAIRS
async def test_a_question_asked_on_one_is_answered_on_another(clients: Clients, one: str, other: str) -> None:
    """A-07, D-21, D-22."""
    task_id = await clients[one].begin("interview_later")
    await clients[one].asked(task_id, "Who are you?", "How old are you?")
    await clients[other].answer(task_id, {"How old are you?": {"age": 7}})
    await clients[one].answer(task_id, ANN)
    await clients[other].asked(task_id, "And your friend?")
    clients[other].user = {"And your friend?": {"name": "Eve"}}
    assert (await clients[other].finish(task_id)).text == "Ann (7) and Eve"
    assert (await clients[one].finish(task_id)).text == "Ann (7) and Eve"


@PAIRS
async def test_a_task_is_cancelled_on_another(clients: Clients, tmp_path: Path, one: str, other: str) -> None:
    """A-07."""
    task_id = await clients[one].begin("wait_for_later", gate=str(tmp_path / "gate"))
    await clients[other].cancel(task_id)
    assert await clients[one].status(task_id) == "cancelled"
    assert not (await clients[one].finish(task_id)).ok


@pytest.mark.parametrize("begun", KINDS)
async def test_each_revision_has_its_own_view_of_a_status(clients: Clients, tmp_path: Path, begun: str) -> None:
    """D-15, D-17, A-07."""
    gate = tmp_path / "gate"
    working = await clients[begun].begin("wait_for_later", gate=str(gate))
    asking = await clients[begun].begin("greet_later")
    await clients[begun].until(asking, "input_required")
    refused, jammed = await clients[begun].begin("refuse_later"), await clients[begun].begin("jam_later")
    for task_id in (refused, jammed):
        await clients[begun].finish(task_id)
    for client in clients.values():
        assert await client.status(working) == "working"
        assert await client.status(asking) == "input_required"
        assert await client.status(refused) == client.failed_result
        assert (await client.finish(refused)).is_error
        assert await client.status(jammed) == "failed"
        assert "out of paper" in (await client.finish(jammed)).text
    gate.touch()
    await clients[begun].answer(asking, ANN)
    for client in clients.values():
        assert (await client.finish(working)).text == "attempt 1"
        assert (await client.finish(asking)).text == "Hello, Ann!"
        assert await client.status(working) == await client.status(asking) == "completed"


async def test_the_first_of_competing_answers_wins(clients: Clients) -> None:
    """A-07, M-TASK-50."""
    task_id = await clients["modern_tasks"].begin("greet_later")
    await clients["older"].asked(task_id, "Who are you?")
    await clients["modern_plain"].answer(task_id, ANN)
    late = {"inputResponses": {"name": {"action": "accept", "content": {"name": "Eve"}}}}
    response = await clients["modern_tasks"].ask("tasks/update", {"taskId": task_id, **late})
    assert "result" in response
    arguments = {"task_id": task_id, "answers": {"name": {"name": "Eve"}}}
    refused = await clients["older"].ask("tools/call", {"name": "task_answer", "arguments": arguments})
    assert refused["result"]["isError"] is True
    assert (await clients["legacy_tasks"].finish(task_id)).text == "Hello, Ann!"


async def test_the_same_call_joins_its_task_from_any_client_without_tasks(clients: Clients, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    plain = [client for client in clients.values() if isinstance(client, Bridged)]
    calling = [asyncio.create_task(client.call("shared", gate=str(gate))) for client in plain]
    await appears(tmp_path / "gate.begun")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await asyncio.wait(calling, return_when=asyncio.FIRST_COMPLETED)
    gate.touch()
    assert [found.text for found in await asyncio.gather(*calling)] == ["attempt 1"] * len(plain)
    assert (tmp_path / "gate.begun").read_text() == "x"


@pytest.mark.parametrize("theirs", KINDS)
async def test_a_task_of_another_owner_is_like_one_that_never_was(
    clients: Clients, place: Place, tmp_path: Path, theirs: str
) -> None:
    """X-SEC-02, X-SEC-03, X-SEC-08, X-STDIO-14. The account that starts programs is one owner, HTTP without
    authorization another."""
    client = clients[theirs]
    ours = "stdio" if client.transport.keeps_sessions else "http"
    owner = await connected(place, "modern_tasks", ours)
    try:
        task_id = await owner.begin("greet_later")
        await owner.asked(task_id, "Who are you?")
        assert not await client.knows(task_id)
        responses = {"name": {"action": "accept", "content": {"name": "Eve"}}}
        attempts = [
            ("tasks/get", {}),
            ("tasks/result", {}),
            ("tasks/cancel", {}),
            ("tasks/update", {"inputResponses": responses}),
        ]
        for method, more in attempts:
            found, unknown = [
                (await client.ask(method, {"taskId": some, **more})).get("error") for some in (task_id, "tsk_never")
            ]
            assert found == unknown
            assert found is not None
        for tool, more in (("task_wait", {}), ("task_cancel", {}), ("task_answer", {"answers": {"name": "accept"}})):
            found, unknown = [
                await client.ask("tools/call", {"name": tool, "arguments": {"task_id": some, **more}})
                for some in (task_id, "tsk_never")
            ]
            assert found["result"] == unknown["result"]
            assert found["result"]["isError"] is True
        listed = await client.ask("tools/call", {"name": "task_list", "arguments": {}})
        assert task_id not in str(listed)
        owner.user = ANN
        assert (await owner.finish(task_id)).text == "Hello, Ann!"
    finally:
        await owner.close()
