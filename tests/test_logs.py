from __future__ import annotations

import logging
import re
from collections.abc import Iterator

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
