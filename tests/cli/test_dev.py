"""`taskengine dev` and `taskengine demo`, as somebody at a terminal runs them."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from taskengine.children import Child
from taskengine.client import Client, Remote
from taskengine.settings import PREFIX
from tests.processes import ROOT, free_port, wait_for_output

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command with its data in the test's folder; whatever still runs afterwards is killed."""
    children: list[Child] = []

    def start(*arguments: str, data: Path | None = None) -> Child:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        child = Child(
            arguments[0],
            [sys.executable, "-m", "taskengine", *arguments, "--data", str(data or tmp_path / "data")],
            tmp_path / f"{arguments[0]}-{len(children)}.out",
            env=kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
            cwd=tmp_path,
        )
        children.append(child)
        child.start()
        return child

    yield start
    for child in children:
        if child.running:
            child.stop(30)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    file = tmp_path / "app.py"
    file.write_text((ROOT / "tests" / "apps" / "small.py").read_text())
    return file


def _interrupt(child: Child) -> str:
    child.send(signal.SIGINT)
    assert child.wait(40) == 0, child.output()
    return child.output()


async def test_everything_starts_stops_with_ctrl_c_and_goes_on_with_every_task(start: Start, app: Path) -> None:
    port = free_port()
    first = start("dev", f"{app}:engine", "--port", str(port))
    wait_for_output(first, "Ctrl-C stops everything", 60)
    assert "3 tools: nap, burn, echo" in first.output()
    url = f"http://127.0.0.1:{port}/mcp"
    async with Client(url) as client:
        created = Remote.parse(await client.request("tools/call", {"name": "nap", "arguments": {"seconds": 4}}))
        while (await client.get(created.id)).message == "Waiting for a worker":
            time.sleep(0.05)
    family = psutil.Process(first.pid).children(recursive=True)
    assert "go on at the next start" in _interrupt(first)
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    second = start("dev", f"{app}:engine", "--port", str(port))
    wait_for_output(second, "Ctrl-C stops everything", 60)
    async with Client(url) as client:
        assert (await client.wait(created.id)).text == "attempt 2"
    _interrupt(second)


async def test_a_child_that_dies_is_started_again_with_a_notice(start: Start, app: Path) -> None:
    port = free_port()
    dev = start("dev", f"{app}:engine", "--port", str(port))
    wait_for_output(dev, "Ctrl-C stops everything", 60)
    children = psutil.Process(dev.pid).children()
    for word in ("worker", "serve"):
        next(child for child in children if word in child.cmdline()).kill()
    wait_for_output(dev, "worker │ it is started again")
    wait_for_output(dev, "front end │ it is started again")
    async with Client(f"http://127.0.0.1:{port}/mcp") as client:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                outcome = await client.call("nap", {"seconds": 0.1})
                break
            except Exception:
                time.sleep(0.2)
        assert outcome.text == "attempt 1"
    _interrupt(dev)


def test_a_second_dev_on_the_same_folder_is_told(start: Start, app: Path) -> None:
    first = start("dev", f"{app}:engine", "--port", "0")
    wait_for_output(first, "Ctrl-C stops everything", 60)
    second = start("dev", f"{app}:engine", "--port", "0")
    assert second.wait(30) == 1
    assert "in use by another taskengine" in second.output()
    _interrupt(first)


def test_a_target_with_a_mistake_ends_dev_with_its_sentence(start: Start, app: Path) -> None:
    app.write_text("from taskengine import TaskEngine\nengine = TaskEngine('x')\n1 / 0\n")
    dev = start("dev", f"{app}:engine", "--port", "0")
    assert dev.wait(60) == 2
    assert re.search(r"error: .*ZeroDivisionError.*app\.py, line 3", dev.output())
    assert "Traceback" not in dev.output()


async def test_reload_takes_up_changed_code_and_survives_a_mistake(start: Start, app: Path) -> None:
    port = free_port()
    dev = start("dev", f"{app}:engine", "--port", str(port), "--reload")
    wait_for_output(dev, "Ctrl-C stops everything", 60)
    time.sleep(1)  # the watcher has no sign of being ready
    source = app.read_text()
    app.write_text(source + "\n1 / 0\n")
    wait_for_output(dev, "ZeroDivisionError")
    app.write_text(source.replace("Return the text.", "Return the text as it came."))
    async with Client(f"http://127.0.0.1:{port}/mcp") as client:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                tools = {tool["name"]: tool["description"] for tool in await client.list_tools()}
                if tools["echo"] == "Return the text as it came.":
                    break
            except Exception:
                pass
            time.sleep(0.2)
        assert tools["echo"] == "Return the text as it came."
    _interrupt(dev)


def test_the_demo_runs_a_real_task_to_its_end_and_answers_for_itself(start: Start, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "shop" / "tests").mkdir(parents=True)
    (tree / "shop" / "stock.py").write_text("def take(n):\n    return n if n else 0\n")
    (tree / "shop" / "tests" / "test_stock.py").write_text("def test():\n    pass\n")
    demo = start("demo", "--path", str(tree), "--json", str(tmp_path / "out.json"))
    assert demo.wait(90) == 0, demo.output()
    out = demo.output()
    assert "no terminal, so the demo answers for itself: include_tests = True" in out
    assert "2 files" in out
    assert re.fullmatch(r"tsk_\S+ completed in \S+", out.strip().splitlines()[-1])
    assert '"tests_included": true' in (tmp_path / "out.json").read_text()


def test_the_demo_on_a_bad_path_fails_with_the_tools_own_words(start: Start, tmp_path: Path) -> None:
    demo = start("demo", "--path", "/etc")
    assert demo.wait(90) == 1
    assert "outside of what this server may read" in demo.output()
