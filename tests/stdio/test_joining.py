"""What a stdio process stands on: a data folder's engine, which outlives it, and gives way to `dev`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from taskengine import running
from taskengine.children import Child
from taskengine.cli.keep import use
from tests.processes import ROOT, free_port, wait_for_output
from tests.stdio.host import WAIT_S, Host, clean_environment

APP = ROOT / "tests" / "apps" / "small.py"
TARGET = f"{APP}:engine"
STOP_S = 40

Start = Callable[..., Host]


def environment() -> dict[str, str]:
    return clean_environment() | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"}


def stop(data: Path) -> None:
    """Whatever runs over the folder has ended."""
    found = running.find(data)
    if found is not None:
        os.kill(found.pid, signal.SIGTERM)
        wait_for_end(found.pid)


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + STOP_S
    while running.is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.05)


@contextmanager
def starting(data: Path, log: Path) -> Iterator[Start]:
    hosts: list[Host] = []

    def start(*arguments: str, target: str = TARGET) -> Host:
        hosts.append(Host([target, "--data", str(data), *arguments], environment(), log))
        return hosts[-1]

    try:
        yield start
    finally:
        for host in hosts:
            host.kill()


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder of the test's own, which is empty; nothing runs over it afterwards."""
    folder = tmp_path / "data"
    yield folder
    stop(folder)


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Start]:
    with starting(data, tmp_path / "stdio.log") as start:
        yield start


def command(name: str, data: Path, log: Path, *arguments: str) -> Child:
    line = [sys.executable, "-m", "taskengine", name, TARGET, "--data", str(data), *arguments]
    return Child(name, line, log, env=environment())


def result_of(host: Host, task_id: str) -> str:
    """The text of a task's result, once it is there."""
    deadline = time.monotonic() + WAIT_S
    while (task := host.ask("tasks/get", {"taskId": task_id}))["status"] != "completed":
        assert time.monotonic() < deadline, task
        time.sleep(0.05)
    return str(task["result"]["content"][0]["text"])


def nap(host: Host, seconds: float) -> str:
    return str(host.ask("tools/call", {"name": "nap", "arguments": {"seconds": seconds}})["taskId"])


def keeper_of(data: Path) -> int:
    found = running.find(data)
    assert found is not None
    assert found.kept
    return found.pid


def test_a_killed_host_loses_nothing_and_dev_takes_over(start: Start, data: Path, tmp_path: Path) -> None:
    host = start()
    assert host.ask("tools/call", {"name": "echo", "arguments": {"text": "x"}})["content"][0]["text"] == "x"
    task_id = nap(host, 1)
    keeper = keeper_of(data)
    # As hosts do: everything that descends from it, and everything in its group.
    for descendant in psutil.Process(host.process.pid).children(recursive=True):
        descendant.kill()
    os.killpg(host.process.pid, signal.SIGKILL)

    second = start()
    assert result_of(second, task_id) == "attempt 1"
    assert keeper_of(data) == keeper

    dev = command("dev", data, tmp_path / "dev.log", "--port", str(free_port()))
    dev.start()
    try:
        wait_for_output(dev, "Ctrl-C stops everything", 60)
        assert result_of(second, nap(second, 0.2)) == "attempt 1"
        second.said(f"joins process {dev.pid}")  # its doorbells go to dev's broker from then on
        third = start()
        assert result_of(third, nap(third, 0.2)) == "attempt 1"
    finally:
        dev.send(signal.SIGINT)
        assert dev.wait(STOP_S) == 0, dev.output()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder over which three hosts have started at the same time; what they have started goes on."""
    folder = tmp_path_factory.mktemp("shared")
    with starting(folder / "data", folder / "stdio.log") as start:
        hosts = [start() for _ in range(3)]
        tasks = [nap(host, 0.1) for host in hosts]
        assert [[result_of(host, task_id) for host in hosts] for task_id in tasks] == [["attempt 1"] * 3] * 3
    yield folder / "data"
    stop(folder / "data")


def test_hosts_that_start_at_the_same_time_share_one_keeper(shared: Path) -> None:
    found = psutil.process_iter(["cmdline"])
    lines = {process.pid: process.info["cmdline"] or [] for process in found}
    assert [pid for pid, line in lines.items() if str(shared) in line and "keep" in line] == [keeper_of(shared)]


def test_what_a_killed_keeper_leaves_behind_is_no_obstacle(start: Start, data: Path) -> None:
    """Its lock, its address and its database's pid are still there; so are the tasks, which go on, and what a host
    has answered meanwhile counts."""
    app = f"{ROOT / 'tests' / 'apps' / 'app.py'}:engine"
    first = start(target=app)
    walk = str(first.ask("tools/call", {"name": "walk", "arguments": {"steps": 30}})["taskId"])
    first.initialize(elicitation={})
    greet = first.legacy("tools/call", {"name": "greet", "arguments": {}, "task": {}})["task"]["taskId"]
    first.begin("tasks/result", {"taskId": greet})
    while (asked := first.receive()).get("method") != "elicitation/create":
        pass
    killed = keeper_of(data)
    os.kill(killed, signal.SIGKILL)
    wait_for_end(killed)
    assert (data / "running.json").exists()
    first.send({"id": asked["id"], "result": {"action": "accept", "content": {"name": "Bob"}}})

    second = start(target=app)
    assert result_of(second, walk).startswith("walked")
    assert result_of(second, greet).startswith("Hello, Bob!")
    assert keeper_of(data) != killed
    assert result_of(first, walk).startswith("walked")  # who was there before goes on as well
    first.said(f"joins process {keeper_of(data)}")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "target": "x", "database_url": "", "broker_url": ""}']
)
def test_an_announcement_that_nobody_stands_behind_means_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "running.json").write_text(text)
    assert running.find(tmp_path) is None
    (tmp_path / "lock").write_text("1")  # alive, and does not hold it
    assert running.find(tmp_path) is None
    assert not running.is_taken(tmp_path)


def test_another_engine_over_the_same_folder_is_refused(shared: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("from taskengine import TaskEngine\nengine = TaskEngine('other')\n")
    with starting(shared, tmp_path / "log") as start:
        refused = start(target=f"{other}:engine")
        answer = refused.answer_to(refused.modern("tasks/get", {"taskId": "tsk_x"}))
        assert "give another --data" in answer["error"]["message"]  # the host's user sees it, and so does the log
        assert refused.process.wait(WAIT_S) == 2
    assert "give another --data" in refused.errors.read_text()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with starting(tmp_path / "file" / "data", tmp_path / "log") as start:
        host = start()
        assert host.process.wait(WAIT_S) == 2
    errors = host.errors.read_text()
    assert "cannot be used as data folder" in errors
    assert "Traceback" not in errors


def test_settings_that_name_no_database_leave_the_data_folder_beside_the_target(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.read_text())
    (tmp_path / ".taskengine").write_text("in the way")
    (tmp_path / "settings.toml").write_text('inline_wait = "5s"\n')
    variables = environment() | {"TASKENGINE_CONFIG": str(tmp_path / "settings.toml")}
    host = Host([str(tmp_path / "app.py")], variables, tmp_path / "log")
    assert host.process.wait(WAIT_S) == 2
    host.kill()
    assert f"{tmp_path / '.taskengine'} cannot be used as data folder" in host.errors.read_text()


def test_what_keeps_a_keeper_from_starting_is_told(start: Start, data: Path) -> None:
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "PG_VERSION").write_text("9\n")
    host = start()
    answer = host.answer_to(host.modern("tasks/get", {"taskId": "tsk_x"}))
    assert "holds data of PostgreSQL 9" in answer["error"]["message"]
    assert host.process.wait(WAIT_S) == 1
    assert "holds data of PostgreSQL 9" in host.errors.read_text()


def test_a_keeper_stays_while_it_is_used_and_ends_when_nobody_needs_it(
    start: Start, data: Path, tmp_path: Path
) -> None:
    keeper = command("keep", data, tmp_path / "keep.log", "--idle", "500ms")
    with asyncio.run(use(data)):
        keeper.start()
        wait_for_output(keeper, "taskengine ready", 60)
        host = start()
        nap(host, 0)
    assert result_of(host, nap(host, 2)) == "attempt 1"
    assert keeper.running
    task_id = nap(host, 2)
    host.kill()
    assert keeper.wait(60) == 0, keeper.output()  # not before the task had ended:
    assert "nothing to do" in keeper.output()
    second = start()
    assert second.ask("tasks/get", {"taskId": task_id})["status"] == "completed"
    assert result_of(second, task_id) == "attempt 1"
