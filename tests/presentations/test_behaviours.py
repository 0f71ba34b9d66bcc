"""What every client can rely on, in every presentation and on both transports."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.presentations.clients import Client
from tests.presentations.kinds import Bridged
from tests.presentations.transports import Lost

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANN = {"Who are you?": {"name": "Ann"}}
ALL = {**ANN, "How old are you?": {"age": 30}, "And your friend?": {"name": "Bob"}}


@pytest.fixture(autouse=True)
def a_silent_user(client: Client) -> None:
    client.user = {}


async def appears(file: Path) -> None:
    async with asyncio.timeout(30):
        while not file.exists():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("tool", ["double", "double_later"])
async def test_a_call_comes_to_its_result(client: Client, tool: str) -> None:
    """M-TASK-36, L-TASK-28."""
    found = await client.call(tool, n=21)
    assert found.ok
    assert found.structured == {"doubled": 42}
    assert "42" in found.text


@pytest.mark.parametrize("tool", ["refuse", "refuse_later"])
async def test_an_error_of_the_tool_is_a_result(client: Client, tool: str) -> None:
    """D-15."""
    found = await client.call(tool)
    assert (found.is_error, found.code) == (True, None)
    assert found.text == "there is no such report"


async def test_an_error_of_the_protocol_is_an_error(client: Client) -> None:
    """D-16."""
    found = await client.call("jam")
    assert (found.code, found.text) == (-31999, "out of paper")


async def test_a_call_that_means_nothing_is_refused(client: Client) -> None:
    """X-TOOL-19, X-TOOL-20, X-TOOL-21, A-22, A-23."""
    assert (await client.call("no_such_tool")).code == -32602
    malformed: list[dict[str, Any]] = [{"name": 5}, {"arguments": {}}, {"name": "double", "arguments": [1]}]
    for params in malformed:
        assert (await client.ask("tools/call", params))["error"]["code"] == -32602
    assert (await client.ask("tools/nothing", {}))["error"]["code"] == -32601
    unfit = await client.call("double", n="many")
    assert unfit.is_error
    assert "`n`" in unfit.text


@pytest.mark.parametrize("tool", ["greet", "greet_later"])
async def test_a_question_is_put_to_the_user(client: Client, tool: str) -> None:
    """D-21, D-22, M-MRTR-02."""
    client.user = ANN
    assert (await client.call(tool)).text == "Hello, Ann!"


@pytest.mark.parametrize("tool", ["interview", "interview_later"])
async def test_several_questions_are_put_to_the_user(client: Client, tool: str) -> None:
    """D-24."""
    client.user = ALL
    assert (await client.call(tool)).text == "Ann (30) and Bob"


async def test_questions_can_be_answered_one_after_the_other(client: Client) -> None:
    """D-24, M-TASK-52, M-TASK-53."""
    task_id = await client.begin("interview_later")
    await client.asked(task_id, "Who are you?", "How old are you?")
    assert await client.status(task_id) == "input_required"
    await client.answer(task_id, {"How old are you?": {"age": 31}})
    await client.asked(task_id, "Who are you?")
    await client.answer(task_id, ANN)
    await client.asked(task_id, "And your friend?")
    client.user = {"And your friend?": {"name": "Eve"}}
    assert (await client.finish(task_id)).text == "Ann (31) and Eve"
    assert await client.status(task_id) == "completed"


@pytest.mark.parametrize("state", ["running", "asking"])
async def test_a_task_is_cancelled_by_its_client(client: Client, tmp_path: Path, state: str) -> None:
    """D-31, D-32."""
    gate = tmp_path / "gate"
    if state == "running":
        task_id = await client.begin("wait_for_later", gate=str(gate))
        await appears(tmp_path / "gate.begun")
    else:
        task_id = await client.begin("greet_later")
        await client.asked(task_id, "Who are you?")
    await client.cancel(task_id)
    assert await client.status(task_id) == "cancelled"
    found = await client.finish(task_id)
    assert not found.ok
    assert "cancelled" in found.text.lower()
    if state == "running":
        await appears(tmp_path / "gate.stopped")


async def test_a_call_that_its_client_gives_up_is_stopped(client: Client, tmp_path: Path) -> None:
    """M-CANC-01, M-CANC-06, L-CANC-10. Clients with tasks cancel the task instead."""
    gate = tmp_path / "gate"
    if not isinstance(client, Bridged):
        await client.cancel(await client.begin("wait_for_here", gate=str(gate)))
        return
    calling = asyncio.create_task(client.call("wait_for_here", gate=str(gate)))
    await appears(tmp_path / "gate.begun")
    await client.give_up(calling)
    await appears(tmp_path / "gate.stopped")


async def test_a_task_is_gone_after_its_time(client: Client) -> None:
    """X-SEC-06, X-SEC-11, D-39."""
    task_id = await client.begin("brief")
    assert (await client.finish(task_id)).text == "remember me"
    async with asyncio.timeout(30):
        while await client.knows(task_id):
            await asyncio.sleep(0.1)
    assert not await client.knows("tsk_never")


async def test_a_task_outlives_the_front_end_that_made_it(client: Client, tmp_path: Path) -> None:
    """A-41, M-BASE-11, L-SESS-12. A wait for it breaks and is taken up again; the tool runs once."""
    gate = tmp_path / "gate"
    task_id = await client.begin("wait_for_later", gate=str(gate))
    await appears(tmp_path / "gate.begun")
    waiting = asyncio.create_task(client.finish(task_id))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await client.restart()
    assert await client.status(task_id) == "working"
    gate.touch()
    try:
        found = await waiting  # of a client that polls, and had asked nothing when it happened
    except Lost:
        found = await client.finish(task_id)
    assert found.text == "attempt 1"
    assert (tmp_path / "gate.begun").read_text() == "x"


async def test_an_open_call_outlives_the_front_end_that_took_it(client: Client, tmp_path: Path) -> None:
    """A client with tasks has the task by then; a model without looks for it, and begins no second one."""
    gate = tmp_path / "gate"
    if isinstance(client, Bridged):
        calling = asyncio.create_task(client.call("wait_for", gate=str(gate)))
        await appears(tmp_path / "gate.begun")
        await client.restart()
        with pytest.raises(Lost):
            await calling
        task_id = await client.newest("wait_for")
    else:
        task_id = await client.begin("wait_for", gate=str(gate))
        await appears(tmp_path / "gate.begun")
        await client.restart()
    gate.touch()
    assert (await client.finish(task_id)).text == "attempt 1"
    assert (tmp_path / "gate.begun").read_text() == "x"


async def test_a_question_outlives_the_front_end_that_put_it(client: Client) -> None:
    """A-26, A-41."""
    task_id = await client.begin("greet_later")
    await client.asked(task_id, "Who are you?")
    await asyncio.sleep(0.3)  # a front end that dies with a question on a stream keeps it from others for 20 s
    await client.restart()
    await client.asked(task_id, "Who are you?")
    client.user = ANN
    assert (await client.finish(task_id)).text == "Hello, Ann!"
