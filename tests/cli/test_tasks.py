"""The commands for people: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskengine.cli import main
from taskengine.cli.form import content_of
from taskengine.cli.pairs import read_pairs
from taskengine.errors import SettingsError
from taskengine.records import Question
from taskengine.settings import PREFIX, Settings
from tests.processes import Processes, environment

APP = "tests/apps/app.py:engine"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    processes: Processes, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command against a front end and a worker: exit code, standard output, standard error."""
    _, url = processes.serve(APP)
    processes.worker(APP)
    for name, value in environment(settings).items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"{PREFIX}PORT", url.rpartition(":")[2].partition("/")[0])

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def _id_of_the_waiting(run: Run) -> str:
    code, out, _ = run("ls", "--status", "input_required", "--json")
    assert code == 0
    found: str = json.loads(out)[0]["id"]
    return found


def test_a_call_prints_its_result_alone_on_standard_output(run: Run) -> None:
    assert run("call", "quick", "text=hi")[:2] == (0, "hi\n")
    code, out, err = run("call", "add", "a:=1", "b:=2")
    assert (code, json.loads(out)) == (0, {"total": 3, "attempt": 1})
    assert "add  tsk_" in err
    code, out, _ = run("call", "add", "a:=1", "b:=2", "--json")
    assert json.loads(out)["result"]["structuredContent"]["total"] == 3


def test_failures_end_with_1_and_say_why(run: Run) -> None:
    code, out, err = run("call", "tool_error")
    assert (code, out) == (1, "")
    assert "there is no such report" in err
    code, out, _ = run("call", "protocol_error", "--json")
    assert code == 1
    assert json.loads(out)["error"] == {"code": -31999, "message": "out of paper", "data": {"tray": 2}}
    assert run("call", "nothing_of_that_name")[0] == 1
    assert run("call", "quick", "--url", "http://127.0.0.1:1/mcp")[0] == 1
    assert run("show", "tsk_unknown")[0] == 1
    assert run("logs", "tsk_unknown")[0] == 1


def test_wrong_usage_ends_with_2(run: Run) -> None:
    for arguments in (
        ("call", "quick", "text"),
        ("call", "quick", "text:=nonsense"),
        ("call", "quick", "--url", "nowhere"),
        ("ls", "--since", "soon"),
        ("ls", "--status", "odd"),
    ):
        assert run(*arguments)[0] == 2


def test_a_question_is_shown_answered_and_the_task_goes_on(run: Run) -> None:
    code, out, err = run("call", "greet")
    assert (code, out) == (4, "")
    assert "Who are you?" in err
    task_id = _id_of_the_waiting(run)
    assert run("watch", task_id)[0] == 4
    assert run("result", task_id)[0] == 4
    assert run("answer", task_id)[0] == 4
    code, _, err = run("answer", task_id, "nme=Ada")
    assert code == 1
    assert "`name` is missing" in err
    assert run("answer", task_id, "name=Ada")[0] == 0
    code, out, _ = run("watch", task_id)
    assert (code, out) == (0, "Hello, Ada! (attempt 2)\n")
    code, out, _ = run("show", task_id)
    assert "Who are you?" in out
    assert '"name": "Ada"' in out
    assert run("answer", task_id, "name=Eve")[0] == 1


def test_one_of_several_questions_is_named_and_may_be_declined(run: Run) -> None:
    assert run("call", "two_questions")[0] == 4
    task_id = _id_of_the_waiting(run)
    assert run("answer", task_id, "sure=yes")[0] == 2
    assert run("answer", task_id, "sure=yes", "--question", "sure")[0] == 0
    assert run("answer", task_id, "--decline", "--question", "name")[0] == 0
    code, out, _ = run("result", task_id)
    assert (code, out) == (0, "None sure=True\n")


def test_a_detached_call_is_listed_cancelled_and_ends_with_3(run: Run) -> None:
    code, out, _ = run("call", "-d", "sleep", "seconds:=60")
    task_id = out.strip()
    assert code == 0
    assert task_id in run("ls", "--tool", "sleep", "--since", "1h")[1]
    assert run("ls", "--tool", "other")[1] == ""
    assert run("cancel", task_id)[0] == 0
    assert run("watch", task_id)[0] == 3
    code, out, _ = run("result", task_id, "--json")
    assert (code, json.loads(out)["status"]) == (3, "cancelled")


def test_a_result_goes_into_a_file(run: Run, tmp_path: Path) -> None:
    _, out, _ = run("call", "-d", "add", "a:=2", "b:=2")
    file = tmp_path / "result.json"
    code, printed, _ = run("result", out.strip(), "-o", str(file))
    assert (code, printed) == (0, "")
    assert json.loads(file.read_text())["total"] == 4


def test_tasks_of_a_server_need_nothing_but_its_address(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run("call", "-d", "add", "a:=2", "b:=3")
    task_id = out.strip()
    port = os.environ[f"{PREFIX}PORT"]
    there = ("--url", f"http://127.0.0.1:{port}/mcp")
    monkeypatch.delenv(f"{PREFIX}DATABASE_URL")
    assert json.loads(run("watch", task_id, *there)[1])["total"] == 5
    assert task_id in run("show", task_id, *there)[1]
    assert "add" in run("tools", *there)[1]
    assert task_id in run("ls", *there)[1]
    assert run("cancel", task_id, *there)[0] == 1  # it had ended


def test_pairs_are_text_or_json() -> None:
    assert read_pairs(["a=1", "b:=1", "c:=[1]", "d=x=y", "e="]) == {"a": "1", "b": 1, "c": [1], "d": "x=y", "e": ""}
    for wrong in (["a"], ["=x"], ["a=1", "a=2"], ["a:=x"]):
        with pytest.raises(SettingsError):
            read_pairs(wrong)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ({"type": "boolean"}, "yes", True),
        ({"type": "integer"}, "7", 7),
        ({"type": "number"}, "0.5", 0.5),
        ({"type": "string"}, "7", "7"),
        ({"type": "string", "enum": ["a", "b"]}, "a", "a"),
        ({"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}, "a, b", ["a", "b"]),
    ],
)
def test_text_is_read_as_what_its_field_is(field: dict[str, Any], text: str, value: Any) -> None:
    schema = {"type": "object", "properties": {"x": field}}
    question = Question("q", "elicitation/create", {"message": "?", "requestedSchema": schema})
    assert content_of(question, {"x": text}) == {"action": "accept", "content": {"x": value}}
