"""A bench of hosts as they are: each ends with the tool's result in hand, and no task is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from taskengine.settings import Settings
from tests.bridge.tools import engine
from tests.server.peer import Hands, Peer, Reply, serving


@dataclass
class Host:
    """A program with a model in it: it gives each call `patience_s`, and its model does what results tell it to."""

    peer: Peer
    patience_s: float
    answers: dict[str, Any] = field(default_factory=dict)
    """What its user says to questions, by key."""
    retries: int = 0
    """How often it repeats a call by itself that took too long."""
    timeouts: int = 0
    called: list[str] = field(default_factory=list)

    async def ask(self, tool: str, arguments: dict[str, Any] | None = None) -> Reply:
        """The result of the tool, however many calls it takes."""
        reply = await self._call(tool, arguments or {})
        async with asyncio.timeout(20):
            while True:
                if reply is None:
                    reply = await self._after_losing_it(tool)
                    continue
                state = reply.result.get("structuredContent", {})
                match state.get("next"):
                    case "task_wait":
                        reply = await self._call("task_wait", {"task_id": state["task_id"]})
                    case "task_answer":
                        given = {key: self.answers[key] for key in state["questions"]}
                        reply = await self._call("task_answer", {"task_id": state["task_id"], "answers": given})
                    case _:
                        return reply

    async def _after_losing_it(self, tool: str) -> Reply | None:
        """A call took too long: its model looks for the task."""
        listed = await self._call("task_list", {})
        assert listed is not None
        found = [task for task in listed.result["structuredContent"]["tasks"] if task["tool"] == tool]
        assert len(found) == 1, found
        return await self._call("task_wait", {"task_id": found[0]["task_id"]})

    async def _call(self, tool: str, arguments: dict[str, Any]) -> Reply | None:
        for _ in range(1 + self.retries):
            self.called.append(tool)
            try:
                async with asyncio.timeout(self.patience_s):
                    return await self.peer.call(tool, arguments)
            except TimeoutError:
                self.timeouts += 1
        return None


@asynccontextmanager
async def works(hands: Hands, *, after_s: float) -> AsyncIterator[None]:
    """A worker that needs that long for each attempt at anything."""

    async def work() -> None:
        while True:
            while not await hands.rows("phase = 'queued'"):
                await asyncio.sleep(0.02)
            await asyncio.sleep(after_s)
            await hands.run(engine)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_a_host_that_times_out_later_than_the_bound_never_sees_a_timeout(peer: Peer, hands: Hands) -> None:
    host = Host(peer, patience_s=1.5)
    async with works(hands, after_s=2.5):
        assert (await host.ask("job", {"n": 4})).text == "did 4"
    assert host.timeouts == 0
    assert host.called.count("job") == 1
    assert len(await hands.rows()) == 1


async def test_a_host_that_times_out_sooner_finds_its_task_in_the_list(settings: Settings, hands: Hands) -> None:
    long = settings.model_copy(update={"inline_wait": timedelta(seconds=30)})
    async with serving(engine, long) as peer, works(hands, after_s=1.0):
        host = Host(peer, patience_s=0.5)
        assert (await host.ask("job", {"n": 5})).text == "did 5"
    assert host.timeouts >= 1
    assert [row.status for row in await hands.rows()] == ["completed"], "its absence cancels nothing"


async def test_a_host_whose_address_says_how_impatient_it_is_needs_no_list(settings: Settings, hands: Hands) -> None:
    long = settings.model_copy(update={"inline_wait": timedelta(seconds=30)})
    async with serving(engine, long) as peer, works(hands, after_s=1.0):
        peer.url += "?inline_wait=300ms"
        host = Host(peer, patience_s=1.0)
        assert (await host.ask("job", {"n": 6})).text == "did 6"
    assert host.timeouts == 0


async def test_a_host_that_repeats_what_took_too_long_joins_its_task(settings: Settings, hands: Hands) -> None:
    long = settings.model_copy(update={"inline_wait": timedelta(seconds=30)})
    async with serving(engine, long) as peer, works(hands, after_s=1.2):
        host = Host(peer, patience_s=0.5, retries=5)
        assert (await host.ask("shared", {"n": 7})).text == "shared 7"
    assert host.called.count("shared") > 1
    assert len(await hands.rows()) == 1


async def test_a_host_whose_connection_breaks_finds_its_task_again(
    peer: Peer, hands: Hands, settings: Settings
) -> None:
    patient = asyncio.create_task(peer.call("patient"))
    claim = await hands.take()
    patient.cancel()
    await asyncio.gather(patient, return_exceptions=True)
    async with serving(engine, settings) as other:
        host = Host(other, patience_s=5)
        waiting = asyncio.create_task(host._after_losing_it("patient"))
        await asyncio.sleep(0.2)
        await hands.complete(claim, "worth it")
        reply = await waiting
    assert reply is not None
    assert reply.text == "worth it"


@pytest.mark.parametrize("patience_s", [0.3, 30.0])
async def test_a_host_without_progress_tokens_is_kept_alive(peer: Peer, hands: Hands, patience_s: float) -> None:
    """Some HTTP stacks give up when nothing comes for a while: there is always something."""
    peer.http.timeout = httpx2.Timeout(5, read=0.35)
    peer.url += f"?inline_wait={patience_s}s"
    host = Host(peer, patience_s=20)
    async with works(hands, after_s=1.0):
        reply = await host.ask("job", {"n": 8})
    assert reply.text == "did 8"
    assert reply.notifications == []


async def test_a_host_without_elicitation_has_its_user_answer_by_the_model(peer: Peer, hands: Hands) -> None:
    host = Host(peer, patience_s=5, answers={"sure": {"ok": True}})
    async with works(hands, after_s=0.1):
        assert (await host.ask("confirm")).text == "accept True"
    assert host.called[:2] == ["confirm", "task_answer"]


async def test_a_host_that_is_closed_and_opened_again_still_gets_its_result(settings: Settings, hands: Hands) -> None:
    async with serving(engine, settings) as peer:
        task_id = (await peer.call("report", {"n": 9})).result["structuredContent"]["task_id"]
    async with works(hands, after_s=0.1):
        await asyncio.sleep(0.5)
    async with serving(engine, settings) as peer:
        listed = (await peer.call("task_list")).result["structuredContent"]["tasks"]
        assert [task["task_id"] for task in listed] == [task_id]
        reply = await peer.call("task_wait", {"task_id": task_id})
        assert reply.result["structuredContent"] == {"pages": 9}
