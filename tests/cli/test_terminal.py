"""Commands at a real pseudo terminal: questions by their schema, progress, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import Terminal
from tests.client.conftest import running  # noqa: F401 (a fixture)
from tests.processes import Processes, environment

APP = "tests/apps/asking.py:engine"
Open = Callable[..., Terminal]


@pytest.fixture(scope="module")
def here(running: Processes) -> list[str]:  # noqa: F811
    """The option that names the front end."""
    _, found = running.serve(APP)
    running.worker(APP)
    return ["--url", found]


@pytest.fixture
def at_terminal(running: Processes, here: list[str]) -> Iterator[Open]:  # noqa: F811
    opened: list[Terminal] = []
    env = {name: value for name, value in environment(running.settings).items() if name != "NO_COLOR"}

    def open_terminal(*arguments: str, stdout: Any = None, **more: str) -> Terminal:
        opened.append(Terminal([*arguments, *here], {**env, **more}, stdout))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_a_form_is_filled_in_field_by_field(at_terminal: Open, revision: str) -> None:
    terminal = at_terminal("call", "order", "--revision", revision)
    terminal.wait_for("order  tsk_")
    terminal.wait_for("The tool asks: Your [bold]order[/]?")
    terminal.answer("accept, decline or dismiss [accept]", "")
    terminal.wait_for("Your name  (As it is [written])")
    terminal.answer("text", "")
    terminal.wait_for("this is needed")
    terminal.answer("text", "A")
    terminal.answer("text", "Ada")
    terminal.answer("a whole number", "many")
    terminal.wait_for("'many' is not a whole number")
    terminal.answer("a whole number", "12")
    terminal.answer("a whole number", "7")
    terminal.answer("a number", "nan")
    terminal.wait_for("'nan' is not a number")
    terminal.answer("a number", "0.5")
    terminal.answer("yes or no", "maybe")
    terminal.answer("yes or no", "y")
    terminal.wait_for("2  full")
    terminal.answer("one of these", "long")
    terminal.wait_for("'long' is none of short, full")
    terminal.answer("one of these", "2")
    terminal.answer("some of these, with commas", "a, 3")
    terminal.answer("text, or nothing", "")
    terminal.answer("a whole number [2]", "")
    assert terminal.end() == 0
    assert json.loads(terminal.shown[terminal.shown.rindex("{") :]) == {
        "name": "Ada",
        "pages": 7,
        "weight": 0.5,
        "urgent": True,
        "style": "full",
        "parts": ["a", "c"],
        "note": None,
        "copies": 2,
    }


def test_a_question_may_be_declined_or_dismissed(at_terminal: Open) -> None:
    terminal = at_terminal("call", "order")
    terminal.answer("accept, decline or dismiss", "what")
    terminal.wait_for("write accept, decline or dismiss")
    terminal.answer("accept, decline or dismiss", "decline")
    assert terminal.end() == 0
    assert "You said decline." in terminal.shown
    terminal = at_terminal("call", "order")
    terminal.answer("accept, decline or dismiss", "dismiss")
    assert terminal.end() == 0
    assert "You said cancel." in terminal.shown


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_a_page_is_shown_and_agreed_to(at_terminal: Open, revision: str) -> None:
    terminal = at_terminal("call", "visit", "--revision", revision)
    terminal.wait_for("open this address: https://pay.example.org/1")
    terminal.answer("accept, decline or dismiss", "")
    assert terminal.end() == 0
    assert terminal.shown.endswith("accept\n")


def test_ctrl_c_at_a_question_detaches_at_once_and_it_is_answered_later(at_terminal: Open) -> None:
    terminal = at_terminal("call", "visit")
    terminal.wait_for("tsk_")
    terminal.wait_for("accept, decline or dismiss")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Detached; the task goes on." in terminal.shown
    again = terminal.shown.partition("follow  taskengine ")[2].splitlines()[0].split()
    assert again[0] == "watch"
    assert again[2] == "--url"
    terminal = at_terminal(*again[:2])
    terminal.answer("accept, decline or dismiss", "")
    assert terminal.end() == 0


def test_ctrl_d_leaves_a_question_unanswered_with_code_4(at_terminal: Open) -> None:
    terminal = at_terminal("call", "order")
    terminal.wait_for("accept, decline or dismiss")
    terminal.type("\x04")
    assert terminal.end() == 4
    assert "answer it later: taskengine answer tsk_" in terminal.shown
    task_id = terminal.shown.partition("taskengine answer ")[2].split()[0]
    terminal = at_terminal("answer", task_id)
    terminal.answer("accept, decline or dismiss", "d")
    assert terminal.end() == 0
    assert "answered; follow it with: taskengine watch" in terminal.shown
    terminal = at_terminal("watch", task_id)
    assert terminal.end() == 0
    assert "You said decline." in terminal.shown


def test_progress_is_a_bar_in_colour_and_the_result_alone_goes_to_a_file(at_terminal: Open, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        terminal = at_terminal("call", "work", "steps:=50", stdout=file)
        terminal.wait_for("at [work]")
        terminal.wait_for("%")
        assert terminal.end() == 0
    assert (tmp_path / "out").read_text() == "worked\n"
    assert "━" in terminal.shown
    assert "\x1b[" in terminal.raw


def test_ctrl_c_while_it_works_detaches(at_terminal: Open, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        terminal = at_terminal("call", "work", "steps:=6000", stdout=file)
        terminal.wait_for("at [work]")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "taskengine cancel tsk_" in terminal.shown
    assert "Traceback" not in terminal.shown
    task_id = terminal.shown.partition("taskengine cancel ")[2].split()[0]
    assert at_terminal("cancel", task_id).end() == 0
    assert at_terminal("watch", task_id).end() == 3


def test_what_a_server_says_does_not_command_the_terminal(at_terminal: Open) -> None:
    terminal = at_terminal("call", "work", "steps:=0", 'say:="\\u001b]0;owned\\u0007"')
    assert terminal.end() == 0
    assert "]0;owned" in terminal.raw
    assert "\x1b]0;" not in terminal.raw


def test_no_colour_where_the_user_wants_none(at_terminal: Open) -> None:
    terminal = at_terminal("ls", NO_COLOR="1")
    assert terminal.end() == 0
    assert "\x1b[3" not in terminal.raw
