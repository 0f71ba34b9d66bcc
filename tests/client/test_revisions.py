"""One client, the same calls, both revisions: against our own front end and workers, over HTTP."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from taskengine.client import REVISIONS, Client, Progress, Remote, RemoteError, ServerUnreachable
from taskengine.lifecycle import Status
from taskengine.records import Question

MODERN, LEGACY, PLAIN = "2026-07-28", "2025-11-25", "2025-06-18"

pytestmark = pytest.mark.parametrize("revision", [MODERN, LEGACY])


async def _answer(question: Question) -> dict[str, Any]:
    fields = question.params["requestedSchema"]["properties"]
    return {"action": "accept", "content": {"name": "Ada"} if "name" in fields else {"sure": True}}


async def test_a_call_comes_to_its_result(url: str, revision: str) -> None:
    async with Client(url, revision=revision) as client:
        assert await client.revision() == revision
        assert (await client.call("quick", {"text": "hi"})).text == "hi"
        outcome = await client.call("add", {"a": 1, "b": 2})
        assert outcome.structured["total"] == 3
        assert outcome.task_id is not None
        assert {"add", "greet"} <= {tool["name"] for tool in await client.list_tools()}


async def test_a_tools_own_error_is_an_outcome_and_a_protocol_error_is_raised(url: str, revision: str) -> None:
    async with Client(url, revision=revision) as client:
        outcome = await client.call("tool_error")
        assert (outcome.status, outcome.is_error) == (Status.COMPLETED, True)
        assert "no such report" in outcome.text
        with pytest.raises(RemoteError) as caught:
            await client.call("protocol_error")
        assert (caught.value.code, caught.value.data) == (-31999, {"tray": 2})
        assert caught.value.task_id is not None
        with pytest.raises(RemoteError) as caught:
            await client.get("tsk_unknown")
        assert caught.value.task_id is None


async def test_questions_of_a_task_are_answered(url: str, revision: str) -> None:
    asked: list[str] = []

    async def answer(question: Question) -> dict[str, Any]:
        asked.append(question.params["message"])
        return await _answer(question)

    async with Client(url, revision=revision) as client:
        outcome = await client.call("greet", on_question=answer)
        assert outcome.text == "Hello, Ada! (attempt 2)"
        assert asked == ["Who are you?"]
        asked.clear()
        assert (await client.call("two_questions", on_question=answer)).text == "name='Ada' sure=True"
        assert sorted(asked) == ["Sure?", "Who?"]


async def test_a_question_waits_for_an_answer_from_another_client(url: str, revision: str) -> None:
    async with Client(url, revision=revision, listen_after=timedelta(0)) as client:
        before = asyncio.all_tasks()
        outcome = await client.call("greet")
        assert asyncio.all_tasks() == before  # no stream is left open
    assert outcome.status is Status.INPUT_REQUIRED
    assert outcome.task_id is not None
    key = outcome.questions[0].key
    async with Client(url, revision=revision) as other:
        task = other.task(outcome.task_id)
        seen = await task.status()
        assert [question.key for question in seen.questions] == [key]
        with pytest.raises(RemoteError, match="name"):
            await task.answer({key: {"action": "accept", "content": {}}})
        await task.answer({key: {"action": "accept", "content": {"name": "Eve"}}})
        assert (await task.result()).text == "Hello, Eve! (attempt 2)"


async def test_what_one_revision_began_another_finishes(url: str, revision: str) -> None:
    another = LEGACY if revision == MODERN else MODERN
    async with Client(url, revision=revision) as client, Client(url, revision=another) as other:
        task = await client.submit("greet")
        assert task.id is not None
        assert (await other.wait(task.id, on_question=_answer)).text == "Hello, Ada! (attempt 2)"
        assert (await task.result()).text == "Hello, Ada! (attempt 2)"


async def test_a_task_is_cancelled_and_stays_so(url: str, revision: str) -> None:
    async with Client(url, revision=revision) as client:
        task = await client.submit("sleep", {"seconds": 60})
        await task.cancel()
        assert (await task.result()).status is Status.CANCELLED
        await client.task(str(task.id)).cancel()
        with pytest.raises(RemoteError):
            await client.cancel("tsk_unknown")


async def test_progress_and_changes_are_seen(url: str, revision: str) -> None:
    told: list[Progress] = []
    async with Client(url, revision=revision) as client:
        task = await client.submit("walk", {"steps": 15})
        seen = [change.status async for change in client.task(str(task.id))]
        assert seen[-1] is Status.COMPLETED
        await client.call("walk", {"steps": 15}, on_progress=told.append)
    assert any("walking" in (progress.message or "") for progress in told)


async def test_giving_up_leaves_the_task_and_nothing_running(url: str, revision: str) -> None:
    begun: list[Remote] = []
    async with Client(url, revision=revision, listen_after=timedelta(0)) as client:
        before = asyncio.all_tasks()
        calling = asyncio.create_task(client.call("sleep", {"seconds": 2}, on_task=begun.append))
        while not begun:
            await asyncio.sleep(0.01)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        with pytest.raises(TimeoutError):
            await client.task(begun[0].id).wait(timeout=timedelta(milliseconds=300))
        assert asyncio.all_tasks() == before
        assert (await client.wait(begun[0].id)).text == "slept"


async def test_without_tasks_a_call_is_a_plain_one(url: str, revision: str) -> None:
    async with Client(url, revision=revision, tasks=False) as client:
        outcome = await client.call("add", {"a": 2, "b": 2})
        assert outcome.task_id is None
        assert outcome.structured["total"] == 4
        assert (await client.call("greet", on_question=_answer)).text.startswith("Hello, Ada!")


async def test_the_newest_revision_is_found(url: str, revision: str) -> None:
    del revision
    async with Client(url) as client:
        assert await client.revision() == REVISIONS[0]
        assert (await client.call("quick", {"text": "x"})).text == "x"


async def test_the_revision_before_tasks_is_spoken_too(url: str, revision: str) -> None:
    del revision
    async with Client(url, revision=PLAIN) as client:
        assert (await client.call("add", {"a": 2, "b": 3})).structured["total"] == 5
        assert (await client.call("greet", on_question=_answer)).text.startswith("Hello, Ada!")


async def test_a_token_that_http_cannot_carry_is_not_repeated(url: str, revision: str) -> None:
    async with Client(url, revision=revision, auth="s3cr3t\nx") as client:
        with pytest.raises(ServerUnreachable) as caught:
            await client.list_tools()
    assert "s3cr3t" not in str(caught.value)
