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
    assert main(["connect", "cursor", "--url", URL, "--data", "elsewhere"]) == 2


def test_the_settings_file_is_found_from_anywhere(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts start programs in folders of their own."""
    (elsewhere / "engine.toml").write_text("port = 9000\n")
    monkeypatch.setenv(f"{PREFIX}CONFIG", "engine.toml")
    assert main(["connect", "cursor", TARGET]) == 0
    entry = json.loads(capsys.readouterr().out)["mcpServers"]["small"]
    assert entry["env"][f"{PREFIX}CONFIG"] == str(elsewhere / "engine.toml")


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


@pytest.mark.parametrize("host", ["claude-code", "claude-desktop", "cursor", "vscode", "codex"])
@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[1", b'{"mcpServers": 7, "servers": 7}', b"mcp_servers = 7", b"{,}"]
)
def test_no_host_loses_a_file_that_is_not_understood(host: str, content: bytes, elsewhere: Path) -> None:
    file = elsewhere / "file"
    file.write_bytes(content)
    assert main(["connect", host, TARGET, "--write", "--file", str(file)]) == 2
    assert file.read_bytes() == content
    assert list(elsewhere.glob("*.bak")) == []


def test_a_place_that_cannot_be_written_is_said(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "folder").mkdir()
    assert main(["connect", "cursor", TARGET, "--write", "--file", str(elsewhere / "folder")]) == 2
    (elsewhere / "file").write_text("x")
    assert main(["connect", "cursor", TARGET, "--write", "--file", str(elsewhere / "file" / "below")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_link_and_the_rights_of_a_file_stay(elsewhere: Path) -> None:
    real = elsewhere / "real.json"
    real.write_text("{}")
    real.chmod(0o640)
    link = elsewhere / "link.json"
    link.symlink_to(real)
    assert main(["connect", "cursor", TARGET, "--write", "--file", str(link)]) == 0
    assert link.is_symlink()
    assert "small" in json.loads(real.read_text())["mcpServers"]
    assert real.stat().st_mode & 0o777 == 0o640


def test_an_inline_table_of_codex_takes_no_entry(elsewhere: Path) -> None:
    file = elsewhere / "config.toml"
    before = 'mcp_servers = { other = { command = "x" } }\n'
    file.write_text(before)
    assert main(["connect", "codex", TARGET, "--write", "--file", str(file)]) == 2
    assert file.read_text() == before
    file.write_text('[mcp_servers.other]\r\ncommand = "x"\r\n\r\n[tui]\r\n')
    assert main(["connect", "codex", TARGET, "--write", "--file", str(file)]) == 0
    after = tomllib.loads(file.read_bytes().decode())
    assert set(after["mcp_servers"]) == {"other", "small"}
    assert after["tui"] == {}


def test_every_hosts_entry_has_its_form(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(host: str) -> str:
        capsys.readouterr()
        assert main(["connect", host, "--url", URL, "--name", "mine"]) == 0
        return capsys.readouterr().out

    typed = {"type": "http", "url": URL}
    assert json.loads(printed("claude-code")) == {"mcpServers": {"mine": typed}}
    assert json.loads(printed("cursor")) == {"mcpServers": {"mine": {"url": URL}}}
    assert json.loads(printed("vscode")) == {"servers": {"mine": typed}}
    assert tomllib.loads(printed("codex")) == {"mcp_servers": {"mine": {"url": URL, "tool_timeout_sec": 300}}}


@pytest.mark.parametrize("wrong", [["--url", "ftp://x"], ["--url", "http://[::1"], ["--url", URL, "--name", "a b"]])
def test_addresses_and_names_that_no_host_takes_are_refused(wrong: list[str]) -> None:
    assert main(["connect", "cursor", *wrong]) == 2


def test_strings_of_any_kind_survive_the_way_into_toml(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 'p\u007f"\\é$😀'
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", secret)
    file = elsewhere / "config.toml"
    assert main(["connect", "codex", TARGET, "--write", "--file", str(file)]) == 0
    entry = tomllib.loads(file.read_bytes().decode())["mcp_servers"]["small"]
    assert entry["env"] == {f"{PREFIX}DATABASE_URL": secret}
