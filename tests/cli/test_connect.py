"""`taskengine connect`: each host's entry, printed or merged into its file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from taskengine.cli import main
from taskengine.settings import PREFIX
from tests.processes import ROOT

TARGET = str(ROOT / "tests" / "apps" / "small.py")
URL = "http://127.0.0.1:8080/mcp"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DATABASE_URL", "BROKER_URL", "CONFIG"):
        monkeypatch.delenv(f"{PREFIX}{name}", raising=False)
    return tmp_path


@pytest.mark.parametrize("host", ["claude-code", "claude-desktop", "cursor", "vscode"])
def test_the_entry_starts_this_engine_from_anywhere(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", host, TARGET]) == 0
    (servers,) = json.loads(capsys.readouterr().out).values()
    entry = servers["small"]
    assert Path(entry["command"]).is_absolute()
    assert entry["args"][:4] == ["-m", "taskengine", "stdio", f"{TARGET}:engine"]
    assert Path(entry["args"][5]).is_absolute()


def test_an_address_takes_the_place_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "vscode", "--url", URL, "--name", "mine"]) == 0
    assert json.loads(capsys.readouterr().out) == {"servers": {"mine": {"type": "http", "url": URL}}}
    assert main(["connect", "claude-desktop", "--url", URL]) == 2
    assert main(["connect", "cursor"]) == 2
    assert main(["connect", "cursor", TARGET, "--url", URL]) == 2


def test_what_stands_in_the_file_is_kept(elsewhere: Path) -> None:
    file = elsewhere / ".mcp.json"
    before = json.dumps({"mcpServers": {"other": {"command": "x"}}, "more": 1})
    file.write_text(before)
    assert main(["connect", "claude-code", TARGET, "--write"]) == 0
    after = json.loads(file.read_text())
    assert set(after["mcpServers"]) == {"other", "small"}
    assert after["more"] == 1
    assert (elsewhere / ".mcp.json.bak").read_text() == before
    unchanged = file.stat().st_mtime_ns
    assert main(["connect", "claude-code", TARGET, "--write"]) == 0
    assert file.stat().st_mtime_ns == unchanged


def test_a_file_that_is_not_understood_is_not_touched(elsewhere: Path) -> None:
    file = elsewhere / ".mcp.json"
    file.write_text("// comment\n{}")
    assert main(["connect", "claude-code", TARGET, "--write"]) == 2
    assert file.read_text() == "// comment\n{}"


def test_codex_gets_a_table_and_keeps_its_comments(elsewhere: Path) -> None:
    file = elsewhere / "config.toml"
    file.write_text('# mine\nmodel = "x"\n')
    arguments = ["connect", "codex", TARGET, "--write", "--file", str(file)]
    assert main(arguments) == 0
    assert file.read_text().startswith("# mine\n")
    table = tomllib.loads(file.read_text())["mcp_servers"]["small"]
    assert table["args"][2] == "stdio"
    assert table["tool_timeout_sec"] == 300
    assert main(arguments) == 0
    assert main([*arguments, "--data", "elsewhere"]) == 2


def test_configured_services_travel_with_the_entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", "postgresql://db/x")
    assert main(["connect", "cursor", TARGET]) == 0
    entry = json.loads(capsys.readouterr().out)["mcpServers"]["small"]
    assert entry["env"] == {f"{PREFIX}DATABASE_URL": "postgresql://db/x"}
    assert "--data" not in entry["args"]
