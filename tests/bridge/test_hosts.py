"""A bench of hosts as they are: each ends with the tool's result in hand, and no task is lost or doubled.

The clock is scaled by settings: where the real engine waits 25 s, this one waits 0.4 s. What a host does is not.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from taskengine import points
from taskengine.settings import Settings
from taskengine.wire import modern
from tests.bridge.tools import engine
from tests.legacy import peer as legacy
from tests.server.peer import Hands, Peer, Reply, serving

AnyPeer = Peer | legacy.Peer
AnyReply = Reply | legacy.Reply
Hosting = Callable[[Settings], AbstractAsyncContextManager[AnyPeer]]
ALL_S = 30.0
GIVES_UP_S = 5.0
"""How much longer than the bound a host waits that times out after 30 s."""


@pytest.fixture(params=[modern.VERSION, "2025-11-25", "2025-06-18", "2025-03-26"])
def hosting(request: pytest.FixtureRequest) -> Hosting:
    """A front end, and the connection of a host without tasks and without elicitation, on each revision."""

    @asynccontextmanager
    async def on_modern(settings: Settings) -> AsyncIterator[AnyPeer]:
        async with serving(engine, settings) as peer:
            yield peer

    @asynccontextmanager
    async def on_legacy(settings: Settings) -> AsyncIterator[AnyPeer]:
        async with legacy.serving(engine, settings) as peer:
            await peer.initialize(request.param)
            yield peer

    return on_modern if request.param == modern.VERSION else on_legacy


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Calls stay open longer than the hosts of these tests wait."""
    return settings.model_copy(update={"inline_wait": timedelta(seconds=30)})


@pytest.fixture
def arrived() -> Iterator[list[str]]:
    """Grows with every call that has its task, be it its own or one that it joins."""
    calls: list[str] = []
    points.install(lambda name: calls.append(name) if name == "call.committed" else None)
    yield calls
    points.install(None)


@dataclass
class Host:
    """A program with a model in it: it gives each call `patience_s`, and its model does what the texts of results
    tell it to."""

    peer: AnyPeer
    patience_s: float
    answers: dict[str, Any] = field(default_factory=dict)
    """What its user says to questions, by key."""
    retries: int = 0
    """How often it repeats a call by itself that took too long."""
    gives_up: Counter[str] = field(default_factory=Counter)
    """On so many calls of these tools, `patience_s` after their task is there, however slow the machine; others then
    get all the time they take. Without any, `patience_s` counts from each call on."""
    arrived: Sequence[str] = ()
    """The calls that have their task."""
    timeouts: int = 0
    called: list[str] = field(default_factory=list)

    async def ask(self, tool: str, arguments: dict[str, Any] | None = None) -> AnyReply:
        """The result of the tool, however many calls it takes."""
        async with asyncio.timeout(ALL_S):
            reply = await self._call(tool, arguments or {})
            while True:
                if reply is None:
                    reply = await self.look_for(tool)
                elif "call task_answer" in reply.text:
                    given = {key: said for key, said in self.answers.items() if f"- {key}: " in reply.text}
                    reply = await self._call("task_answer", {"task_id": _named(reply), "answers": given})
                elif "call task_wait" in reply.text:
                    reply = await self._call("task_wait", {"task_id": _named(reply)})
                else:
                    return reply

    async def look_for(self, tool: str) -> AnyReply | None:
        """A call was lost: its model looks for the task, and waits for it."""
        listed = await self._call("task_list", {})
        assert listed is not None
        found = [line.split()[0] for line in listed.text.splitlines() if f" {tool}: " in line]
        assert len(found) == 1, listed.text
        return await self._call("task_wait", {"task_id": found[0]})

    async def _call(self, tool: str, arguments: dict[str, Any]) -> AnyReply | None:
        for _ in range(1 + self.retries):
            self.called.append(tool)
            calling = asyncio.ensure_future(self.peer.call(tool, arguments))
            patience = asyncio.ensure_future(self._patience(tool))
            try:
                await asyncio.wait({calling, patience}, return_when=asyncio.FIRST_COMPLETED)
                if calling.done():
                    return await calling
            finally:
                calling.cancel()
                patience.cancel()
                await asyncio.gather(calling, patience, return_exceptions=True)
            self.timeouts += 1
        return None

    async def _patience(self, tool: str) -> None:
        """Ends when it gives up on the call it has just made."""
        if self.gives_up:
            if self.called.count(tool) > self.gives_up[tool]:
                await asyncio.sleep(ALL_S)
            while len(self.arrived) < sum(not each.startswith("task_") for each in self.called):
                await asyncio.sleep(0.01)
        await asyncio.sleep(self.patience_s)


def _named(reply: AnyReply) -> str:
    found = re.search(r"task_id (tsk_[\w-]+)", reply.text)
    assert found is not None, reply.text
    return found[1]


@asynccontextmanager
async def works(hands: Hands, *, until: Callable[[], bool]) -> AsyncIterator[None]:
    """A worker that ends an attempt at anything when `until` says so."""

    async def work() -> None:
        while True:
            while not (until() and await hands.rows("phase = 'queued'")):
                await asyncio.sleep(0.02)
            await hands.run(engine)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_a_host_that_times_out_after_the_bound_never_sees_a_timeout(
    hosting: Hosting, settings: Settings, hands: Hands
) -> None:
    """As one that gives up after 30 s, and the engine's 25 s."""
    async with hosting(settings) as peer:
        host = Host(peer, patience_s=settings.inline_wait.total_seconds() + GIVES_UP_S)
        async with works(hands, until=lambda: host.called.count("task_wait") >= 3):
            assert (await host.ask("job", {"n": 4})).text == "did 4"
    assert host.timeouts == 0
    assert host.called.count("job") == 1
    assert len(await hands.rows()) == 1


async def test_a_host_that_times_out_sooner_finds_its_task_in_the_list(
    hosting: Hosting, patient: Settings, hands: Hands, arrived: list[str]
) -> None:
    async with hosting(patient) as peer:
        host = Host(peer, patience_s=0.5, gives_up=Counter(job=1, task_wait=1), arrived=arrived)
        async with works(hands, until=lambda: host.timeouts >= 2):
            assert (await host.ask("job", {"n": 5})).text == "did 5"
    assert [row.status for row in await hands.rows()] == ["completed"], "its absence cancels nothing"


async def test_a_host_whose_address_says_how_impatient_it_is_needs_no_list(
    hosting: Hosting, patient: Settings, hands: Hands
) -> None:
    async with hosting(patient) as peer:
        peer.url += "?inline_wait=300ms"
        host = Host(peer, patience_s=0.3 + GIVES_UP_S)
        async with works(hands, until=lambda: host.called.count("task_wait") >= 2):
            assert (await host.ask("job", {"n": 6})).text == "did 6"
    assert host.timeouts == 0
    assert "task_list" not in host.called


async def test_a_host_that_repeats_what_took_too_long_joins_its_task(
    hosting: Hosting, patient: Settings, hands: Hands, arrived: list[str]
) -> None:
    async with hosting(patient) as peer:
        host = Host(peer, patience_s=0.5, retries=2, gives_up=Counter(shared=2), arrived=arrived)
        async with works(hands, until=lambda: len(arrived) == 3):
            assert (await host.ask("shared", {"n": 7})).text == "shared 7"
    assert host.called == ["shared"] * 3
    assert len(await hands.rows()) == 1


async def test_a_host_whose_connection_breaks_finds_its_task_again(
    hosting: Hosting, settings: Settings, hands: Hands
) -> None:
    async with hosting(settings) as peer:
        lost = asyncio.create_task(peer.call("patient"))
        claim = await hands.take()
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
    async with hosting(settings) as other:
        finding = asyncio.create_task(Host(other, patience_s=GIVES_UP_S).look_for("patient"))
        await asyncio.sleep(0.2)
        await hands.complete(claim, "worth it")
        reply = await finding
    assert reply is not None
    assert reply.text == "worth it"


async def test_a_host_without_progress_tokens_is_kept_alive(hosting: Hosting, patient: Settings, hands: Hands) -> None:
    """Some HTTP stacks give up when nothing comes for a while: there is always something."""
    quiet = patient.model_copy(update={"keep_alive": timedelta(seconds=0.1)})
    async with hosting(quiet) as peer:
        peer.http.timeout = httpx2.Timeout(10, read=1)
        loop = asyncio.get_running_loop()
        done = loop.time() + 2.5
        async with works(hands, until=lambda: loop.time() > done):
            reply = await Host(peer, patience_s=20).ask("job", {"n": 8})
    assert reply.text == "did 8"
    assert len(reply.messages) == 1, "and nothing it did not ask for"


async def test_a_host_without_elicitation_has_its_user_answer_by_the_model(
    hosting: Hosting, settings: Settings, hands: Hands
) -> None:
    async with hosting(settings) as peer, works(hands, until=lambda: True):
        host = Host(peer, patience_s=10, answers={"sure": {"ok": True}})
        assert (await host.ask("confirm")).text == "accept True"
    assert "task_answer" in host.called


async def test_a_host_that_is_closed_and_opened_again_still_gets_its_result(
    hosting: Hosting, settings: Settings, hands: Hands
) -> None:
    async with hosting(settings) as peer:
        assert "call task_wait" in (await peer.call("report", {"n": 9})).text
    await hands.run(engine)
    async with hosting(settings) as peer:
        reply = await Host(peer, patience_s=GIVES_UP_S).look_for("report")
    assert reply is not None
    assert json.loads(reply.text) == {"pages": 9}
