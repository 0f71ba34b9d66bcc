from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Literal

import pytest

from taskengine import logs
from taskengine.settings import Settings


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_line_says_when_how_bad_who_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())
    logging.getLogger("taskengine.test").warning("broker away, %s", "waiting")
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING taskengine\.test\[\d+\] broker away, waiting\n", line
    )


def test_a_traceback_is_indented_below_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())
    try:
        int("no number")
    except ValueError:
        logging.getLogger("taskengine.test").exception("it failed")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith("it failed")
    assert rest[-1] == "    ValueError: invalid literal for int() with base 10: 'no number'"
    assert all(line.startswith("    ") for line in rest)


def test_configuring_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())
    logs.configure(Settings())
    logging.getLogger("taskengine.test").error("once")
    assert capsys.readouterr().err.count("once") == 1


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_level="warning"))
    logging.getLogger("taskengine.test").info("quiet")
    logging.getLogger("uvicorn.access").info("GET /")
    assert capsys.readouterr().err == ""


def test_a_line_says_what_it_is_about_and_not_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())
    with logs.bound(task="tsk_1", attempt=2, owner="ann", tool="count", traceparent=f"00-{'a' * 32}-{'b' * 16}-01"):
        with logs.bound(tool="other"):
            logging.getLogger("taskengine.test").warning("task tsk_1 is late")
        logging.getLogger("taskengine.test").warning("first\nsecond")
    logging.getLogger("taskengine.test").warning("alone")
    late, first, second, alone = capsys.readouterr().err.splitlines()
    assert late.endswith(f"task tsk_1 is late [attempt=2 owner=ann tool=other trace={'a' * 32}]")
    assert first.endswith(f"first [task=tsk_1 attempt=2 owner=ann tool=count trace={'a' * 32}]")
    assert second == "    second"
    assert alone.endswith("alone")


def test_as_json_a_line_is_one_object_with_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"))
    try:
        int("no\nnumber")
    except ValueError:
        with logs.bound(task="tsk_1", attempt=1):
            logging.getLogger("taskengine.test").exception("it \x1b[31mfailed\nbadly")
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert {name: found[name] for name in ("level", "logger", "message", "task", "attempt")} == {
        "level": "error",
        "logger": "taskengine.test",
        "message": "it \x1b[31mfailed\nbadly",
        "task": "tsk_1",
        "attempt": 1,
    }
    assert found["exception"].endswith("ValueError: invalid literal for int() with base 10: 'no\\nnumber'")
    assert "\x1b" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_message_commands_a_terminal_or_passes_for_another_line(
    capsys: pytest.CaptureFixture[str], form: Literal["text", "json"]
) -> None:
    logs.configure(Settings(log_format=form))
    forged = "2026-11-22T14:03:07.123Z ERROR   taskengine.jobs[1] the database is gone"
    hostile = f"\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202etxt.exe\u2028\u2066\n{forged}\r\n{forged}"
    try:
        {}[hostile]
    except KeyError:
        with logs.bound(owner=hostile, tool=hostile):
            logging.getLogger("taskengine.test").exception("said: %s", hostile)
    text = capsys.readouterr().err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)
    assert not any(line.startswith("2026-11-22T14:03") for line in text.splitlines())
    assert sum(not line.startswith("    ") for line in text.splitlines()) == 1


def test_a_process_for_sync_tools_logs_as_the_one_that_started_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json", log_level="warning"))
    capsys.readouterr()
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    logs.configure_child()
    logging.getLogger("taskengine.test").info("quiet")
    logging.getLogger("taskengine.test").warning("told")
    assert json.loads(capsys.readouterr().err)["message"] == "told"
