"""Idempotency: the same call of the same owner is one task, on every wire, whatever breaks in between."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from taskengine.client import Client, RemoteError
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.wire.meta import IDEMPOTENCY_KEY
from tests.legacy.peer import serving as connected
from tests.processes import ROOT, Processes, deployed, environment
from tests.security.guarded_app import engine
from tests.server.peer import serving
from tests.services import Services
from tests.stdio.host import Host

APP = str(ROOT / "tests" / "security" / "guarded_app.py") + ":engine"


@pytest.fixture(scope="module")
def deployment(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with deployed(services, tmp_path_factory.mktemp("repeating"), APP) as started:
        yield started


@pytest.fixture
def settings(deployment: Processes) -> Settings:
    return deployment.settings


@pytest.fixture
def payment(tmp_path: Path) -> dict[str, object]:
    return {"ledger": str(tmp_path / "ledger"), "amount": 5}


def times(payment: dict[str, object]) -> int:
    path = Path(str(payment["ledger"]))
    return len(path.read_text().splitlines()) if path.exists() else 0


async def test_a_repeated_call_with_a_key_gets_the_task_of_the_first(
    settings: Settings, payment: dict[str, object]
) -> None:
    async with serving(engine, settings) as one, serving(engine, settings) as other:
        first = await one.call("pay", payment, tasks=True, meta={IDEMPOTENCY_KEY: "order-1"})
        again = await other.call("pay", payment, tasks=True, headers={"idempotency-key": '"order-1"'})
        assert again.result.get("taskId") in {first.result["taskId"], None}  # or its result, if it has ended
        plain = await one.call("pay", payment, meta={IDEMPOTENCY_KEY: "order-1"})  # a client without tasks
        assert plain.text == "1"
        later = await other.call("pay", payment, tasks=True, meta={IDEMPOTENCY_KEY: "order-1"})
        assert (later.result["resultType"], later.text) == ("complete", "1")
    assert times(payment) == 1


async def test_a_key_with_other_arguments_is_an_error(settings: Settings, payment: dict[str, object]) -> None:
    async with serving(engine, settings) as peer:
        await peer.call("pay", payment, meta={IDEMPOTENCY_KEY: "order-2"})
        for tool, arguments in (("pay", {**payment, "amount": 6}), ("report", {"ledger": "x", "month": "May"})):
            refused = await peer.call(tool, arguments, meta={IDEMPOTENCY_KEY: "order-2"})
            assert refused.refused == (400, -32602)
            assert "used for another tool or other arguments" in refused.error["message"]
    assert times(payment) == 1


async def test_a_call_whose_client_went_away_is_not_done_again(settings: Settings, payment: dict[str, object]) -> None:
    """A synchronous call ends with its request, but not one that its client can come back to by its key."""
    gate = Path(str(payment["ledger"])).with_name("gate")
    async with serving(engine, settings.model_copy(update={"keep_alive": timedelta(seconds=0.2)})) as peer:
        arguments = {"name": "wait_for", "arguments": {"path": str(gate)}}
        store = await Store.open(settings)
        async with peer.stream("tools/call", arguments, capabilities={}, meta={IDEMPOTENCY_KEY: "order-3"}):
            while not (made := await store.inspection.list(tool="wait_for")):
                await asyncio.sleep(0.02)
        gate.write_text("")
        reply = await peer.call("wait_for", {"path": str(gate)}, tasks=True, meta={IDEMPOTENCY_KEY: "order-3"})
        task_id = reply.result.get("taskId", made[0]["id"])
        assert task_id == made[0]["id"]
        while (await store.inspection.show(task_id))["status"] == "working":
            await asyncio.sleep(0.02)
        assert (await store.inspection.show(task_id))["status"] == "completed"
        await store.close()


async def test_the_older_wire_holds_keys_for_tasks_and_for_calls(
    settings: Settings, payment: dict[str, object]
) -> None:
    async with connected(engine, settings) as peer:
        await peer.initialize()
        params = {"name": "pay", "arguments": payment, "_meta": {IDEMPOTENCY_KEY: "order-4"}}
        first = (await peer.send("tools/call", {**params, "task": {}})).result["task"]["taskId"]
        again = (await peer.send("tools/call", {**params, "task": {}})).result["task"]["taskId"]
        assert again == first
        by_header = {"name": "pay", "arguments": payment}
        inline = await peer.send("tools/call", by_header, headers={"idempotency-key": "order-4"})
        assert inline.text == "1"
        other = {**params, "arguments": {**payment, "amount": 7}}
        assert (await peer.send("tools/call", other)).error["code"] == -32602
    assert times(payment) == 1


def test_the_same_over_standard_input(deployment: Processes, tmp_path: Path, payment: dict[str, object]) -> None:
    host = Host([APP], environment(deployment.settings), tmp_path / "stdio.log")
    try:
        call = {"name": "pay", "arguments": payment}
        ids = [host.modern("tools/call", call, tasks=False, **{IDEMPOTENCY_KEY: "order-5"}) for _ in range(3)]
        texts = [host.answer_to(each)["result"]["content"][0]["text"] for each in ids]
        assert texts == ["1", "1", "1"]
    finally:
        host.kill()
    assert times(payment) == 1


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
async def test_the_python_client_takes_a_key(settings: Settings, payment: dict[str, object], revision: str) -> None:
    async with serving(engine, settings) as peer, Client(peer.url, revision=revision) as client:
        key = f"order-6-{revision}"
        assert [(await client.call("pay", payment, idempotency_key=key)).text for _ in range(2)] == ["1", "1"]
        task = await client.submit("pay", payment, idempotency_key=key)
        assert (await task.wait()).text == "1"
        with pytest.raises(RemoteError, match="other arguments"):
            await client.call("pay", {**payment, "amount": 8}, idempotency_key=key)
    assert times(payment) == 1


async def test_the_command_takes_a_key(settings: Settings, payment: dict[str, object]) -> None:
    async with serving(engine, settings) as peer:
        command = [
            *(sys.executable, "-m", "taskengine", "call", "pay", f"ledger={payment['ledger']}", "amount:=5"),
            *("--url", peer.url, "--idempotency-key", "order-7"),
        ]
        for _ in range(2):
            done = await asyncio.to_thread(
                subprocess.run, command, env=environment(settings), capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
    assert times(payment) == 1


async def test_the_same_arguments_within_the_window_are_one_call_for_every_client(
    settings: Settings, tmp_path: Path
) -> None:
    arguments: dict[str, object] = {"ledger": str(tmp_path / "ledger"), "month": "May"}
    async with serving(engine, settings) as peer, connected(engine, settings) as older:
        assert (await peer.call("report", arguments)).text == "1"
        assert (await peer.call("report", dict(reversed(arguments.items())), tasks=True)).text == "1"
        await older.initialize()
        assert (await older.call("report", arguments)).text == "1"
        task_id = await older.begin("report", arguments)
        assert (await older.result(task_id)).text == "1"
        assert (await peer.call("report", {**arguments, "month": "June"})).text == "2"


async def test_a_key_that_cannot_be_held_or_read_is_refused(settings: Settings, payment: dict[str, object]) -> None:
    async with serving(engine, settings) as peer:
        refused = await peer.call("now", {}, meta={IDEMPOTENCY_KEY: "a"})
        assert refused.refused == (400, -32602)
        assert "keeps nothing of its calls" in refused.error["message"]
        for key in ("", "x" * 256, "two\nlines", 7, None, "späte"):
            reply = await peer.call("pay", payment, meta={IDEMPOTENCY_KEY: key})
            assert reply.refused == (400, -32602), key
        differ = await peer.call("pay", payment, meta={IDEMPOTENCY_KEY: "a"}, headers={"idempotency-key": "b"})
        assert "two idempotency keys that differ" in json.dumps(differ.error)
    assert times(payment) == 0
