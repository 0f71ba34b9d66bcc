"""`serve` and `worker` as processes."""

from __future__ import annotations

import signal
import socket
import time

import httpx2
import pytest
import uvicorn

from taskengine.cli import main
from taskengine.client import Client
from taskengine.settings import Settings
from tests.processes import Processes, environment, wait_for_output

APP = "tests/apps/small.py:engine"


async def test_a_call_goes_through_a_front_end_and_a_worker(processes: Processes) -> None:
    _, url = processes.serve(APP)
    processes.worker(APP)
    async with Client(url) as client:
        assert (await client.call("echo", {"text": "hi"})).text == "hi"
        outcome = await client.call("nap", {"seconds": 0.3})
        assert outcome.text == "attempt 1"
        assert outcome.task_id is not None
        assert (await client.call("burn", {"seconds": 0})).structured is not None


def test_a_front_end_stops_with_0_when_asked_to(processes: Processes) -> None:
    child, url = processes.serve(APP)
    assert httpx2.get(url.replace("/mcp", "/healthz")).status_code == 200
    child.send(signal.SIGTERM)
    assert child.wait(15) == 0
    assert "Traceback" not in child.output()


def test_an_idle_worker_stops_with_0_when_asked_to(processes: Processes) -> None:
    child = processes.worker(APP)
    child.send(signal.SIGTERM)
    assert child.wait(15) == 0
    assert "Traceback" not in child.output()


def test_a_port_that_is_taken_is_named(processes: Processes) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        child = processes.command("serve", APP, "--port", str(taken.getsockname()[1]))
        assert child.wait(30) == 2
        assert "give another --host or --port" in child.output()


def test_a_free_port_is_found_and_said(processes: Processes) -> None:
    child = processes.command("serve", APP, "--port", "0")
    wait_for_output(child, "taskengine ready: http://127.0.0.1:")
    url = child.output().partition("taskengine ready: ")[2].split()[0]
    assert httpx2.get(url.replace("/mcp", "/healthz")).status_code == 200


def test_a_front_end_starts_without_its_services_and_says_what_is_missing(processes: Processes) -> None:
    child, url = processes.serve(
        APP,
        database_url="postgresql://me:hidden-word@127.0.0.1:1/none",
        broker_url="redis://:hidden-word@127.0.0.1:1/0",
    )
    assert httpx2.get(url.replace("/mcp", "/healthz")).status_code == 200
    assert httpx2.get(url.replace("/mcp", "/readyz"), timeout=20).status_code == 503
    assert "hidden-word" not in child.output()


def test_doctor_sees_the_worker_of_this_machine(
    processes: Processes, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.worker(APP)
    for name, value in environment(settings).items():
        if name.startswith("TASKENGINE_"):
            monkeypatch.setenv(name, value)
    assert main(["doctor"]) == 0
    assert "1 worker alive" in capsys.readouterr().out
    assert main(["doctor", "--this-worker"]) == 0


async def test_a_task_outlives_the_front_end_that_took_it(processes: Processes) -> None:
    first, url = processes.serve(APP)
    processes.worker(APP)
    async with Client(url) as client:
        created = await client.request("tools/call", {"name": "nap", "arguments": {"seconds": 1}})
    first.kill()
    _, other = processes.serve(APP)
    async with Client(other) as client:
        assert (await client.wait(created["taskId"])).text == "attempt 1"


async def test_a_killed_worker_costs_an_attempt_and_no_task(processes: Processes) -> None:
    _, url = processes.serve(APP)
    first = processes.worker(APP, lease="1s")
    async with Client(url) as client:
        created = await client.request("tools/call", {"name": "nap", "arguments": {"seconds": 1}})
        while (await client.get(created["taskId"])).message in {None, "Waiting for a worker"}:
            time.sleep(0.05)
        first.kill()
        processes.worker(APP, lease="1s")
        assert (await client.wait(created["taskId"])).text == "attempt 2"


def test_uvicorn_still_has_what_serve_builds_on() -> None:
    assert hasattr(uvicorn.Server, "startup")
