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
        ("answer", "tsk_x", "--decline", "--dismiss"),
        ("answer", "tsk_x", "--decline", "a=b"),
        ("call", "quick", "--url", "http://[::1"),
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


def test_every_command_has_json_for_programs(run: Run) -> None:
    there = ("--url", f"http://127.0.0.1:{os.environ[f'{PREFIX}PORT']}/mcp")
    task_id = str(json.loads(run("call", "-d", "greet", "--json")[1])["taskId"])
    while json.loads(run("show", task_id, "--json")[1])["status"] != "input_required":
        pass
    code, out, _ = run("watch", task_id, "--json")
    assert code == 4
    assert set(json.loads(out)["inputRequests"]) == {"name"}
    code, out, _ = run("answer", task_id, "--json")
    assert (code, json.loads(out)["status"]) == (4, "input_required")
    code, out, _ = run("answer", task_id, "nme=Ada", "--json")
    assert code == 1
    assert "`name` is missing" in json.loads(out)["error"]["message"]
    assert json.loads(run("answer", task_id, "name=Ada", "--json")[1]) == {"taskId": task_id, "answered": ["name"]}
    code, out, _ = run("result", task_id, "--json")
    assert (code, json.loads(out)["status"]) == (0, "completed")
    code, out, _ = run("cancel", task_id, "--json")
    assert (code, json.loads(out)["status"]) == (1, "completed")
    assert isinstance(json.loads(run("tools", "--json")[1]), list)
    for line in run("logs", task_id, "--json")[1].splitlines():
        json.loads(line)
    assert task_id in {row["id"] for row in json.loads(run("ls", "--json")[1])}
    rows = json.loads(run("ls", "--json", "--tool", "greet", "--status", "completed", *there)[1])
    assert [row["task_id"] for row in rows] == [task_id]
    assert json.loads(run("ls", "--json", "--tool", "other", *there)[1]) == []
    assert json.loads(run("show", task_id, "--json", *there)[1])["result"]["content"]


def test_errors_are_json_too_and_claim_no_status_that_is_not_known(run: Run) -> None:
    code, out, err = run("watch", "tsk_unknown", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out) == {"error": {"code": -32602, "message": "Unknown or expired task"}}
    code, out, _ = run("call", "quick", "text=x", "--json", "--url", "http://127.0.0.1:1/mcp")
    assert code == 1
    assert "gave no answer" in json.loads(out)["error"]["message"]
    failed = json.loads(run("call", "protocol_error", "--json")[1])
    assert failed["status"] == "failed"
    assert failed["taskId"].startswith("tsk_")


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_a_server_is_spoken_to_by_either_revision(run: Run, revision: str) -> None:
    spoken = ("--url", f"http://127.0.0.1:{os.environ[f'{PREFIX}PORT']}/mcp", "--revision", revision)
    code, out, _ = run("call", "add", "a:=1", "b:=2", *spoken)
    assert (code, json.loads(out)["total"]) == (0, 3)
    code, _, err = run("call", "greet", *spoken)
    assert code == 4
    command = err.partition("Answer with: taskengine ")[2].split()
    assert command[:1] + command[2:-1] == ["answer", *spoken]
    assert run(*command[:-1], "name=Ada")[0] == 0
    assert run("watch", command[1], *spoken)[:2] == (0, "Hello, Ada! (attempt 2)\n")
    assert run("show", command[1], *spoken)[0] == 0
    assert "add" in run("tools", *spoken)[1]
    assert command[1] in run("ls", *spoken)[1]
    assert run("call", "tool_error", *spoken)[0] == 1
    assert run("call", "quick", "text=x", "--revision", "1999-01-01")[0] == 2


def test_a_place_for_the_result_is_looked_at_before_the_wait(run: Run, tmp_path: Path) -> None:
    task_id = run("call", "-d", "tool_error")[1].strip()
    assert run("result", task_id, "-o", str(tmp_path / "none" / "x"))[0] == 2
    assert run("result", task_id, "-o", str(tmp_path))[0] == 2
    file = tmp_path / "x"
    code, _, err = run("result", task_id, "-o", str(file))
    assert code == 1
    assert "there is no such report" in err
    assert not file.exists()


def test_nothing_is_coloured_where_there_is_no_terminal(run: Run) -> None:
    for arguments in (("tools",), ("ls",), ("call", "tool_error"), ("show", "tsk_x"), ("--help",)):
        _, out, err = run(*arguments)
        assert "\x1b" not in out + err


def test_progress_without_a_terminal_is_plain_lines_on_standard_error(run: Run) -> None:
    code, out, err = run("call", "walk", "steps:=60")
    assert (code, out) == (0, "walked in attempt 1\n")
    lines = [line for line in err.splitlines() if "walking" in line]
    assert lines
    assert all("\r" not in line and "\x1b" not in line for line in lines)


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
        ({"type": "array", "items": {"anyOf": [{"const": "a", "title": "First"}]}}, "first", ["a"]),
        ({"type": "string", "oneOf": [{"const": "a", "title": "First"}, {"const": "1"}]}, "2", "1"),
        ({"type": "string", "enum": ["2", "1"]}, "1", "1"),
    ],
)
def test_text_is_read_as_what_its_field_is(field: dict[str, Any], text: str, value: Any) -> None:
    schema = {"type": "object", "properties": {"x": field}}
    question = Question("q", "elicitation/create", {"message": "?", "requestedSchema": schema})
    assert content_of(question, {"x": text}) == {"action": "accept", "content": {"x": value}}


@pytest.mark.parametrize("text", ["seven", "", "9" * 400])
def test_what_is_no_number_is_told(text: str) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    with pytest.raises(ValueError, match="is not a whole number"):
        content_of(Question("q", "elicitation/create", {"message": "?", "requestedSchema": schema}), {"x": text})
