"""What holds for every command: exit codes, one line per error, no traceback, no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskengine.cli import main

SECRET = "s3cr3t-of-the-test"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("dev", "demo", "serve", "worker", "migrate", "doctor", "settings", "version"):
        assert command in out


def test_version_names_the_engine_and_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert "schema 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve"], ["migrate", "--wrong"], ["serve", "x", "--port", "70000"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["serve", "app.py"], ["worker", "app.py"], ["dev", "app.py"], ["migrate"], ["doctor"]]
)
def test_wrong_settings_end_with_2_and_a_line_each(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TASKENGINE_QUICK_WAIT", "soon")
    monkeypatch.setenv("TASKENGINE_BROKER_URL", "kafka://host")
    assert main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert any("TASKENGINE_QUICK_WAIT" in line for line in lines)
    assert any("TASKENGINE_BROKER_URL" in line for line in lines)


def test_a_misspelt_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TASKENGINE_DATABSE_URL", "postgresql://x")
    assert main(["migrate"]) == 2
    assert "TASKENGINE_DATABSE_URL is not a setting" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_target_that_is_not_there_ends_with_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path / "missing.py:engine")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("the Python file that holds the engine")


def test_a_bad_declaration_ends_with_2_and_its_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "from taskengine import TaskEngine\nengine = TaskEngine('x')\n"
        "@engine.tool(ttl='soon')\ndef tool() -> str:\n    'A tool.'\n    return ''\n"
    )
    assert main(["serve", f"{app}:engine"]) == 2
    err = capsys.readouterr().err
    assert "soon" in err
    assert "Traceback" not in err


def test_a_service_that_is_away_ends_with_1_and_no_password_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TASKENGINE_DATABASE_URL", f"postgresql://me:{SECRET}@127.0.0.1:1/none")
    monkeypatch.setenv("TASKENGINE_BROKER_URL", f"redis://me:{SECRET}@127.0.0.1:1/0")
    assert main(["migrate"]) == 1
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "the database is not available" in captured.err
    assert "TASKENGINE_DATABASE_URL" in captured.out
    assert "TASKENGINE_BROKER_URL" in captured.out
    assert SECRET not in captured.out + captured.err
    assert "Traceback" not in captured.err
