"""`taskengine connect`: the entry that makes a host find this engine, printed or written into the host's file."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from taskengine.cli.place import web_address
from taskengine.cli.screen import err, good, note
from taskengine.errors import SettingsError
from taskengine.settings import PREFIX, Settings
from taskengine.target import absolute, load_target, source_folder

__all__ = ["connect"]

CODEX_TIMEOUT_S = 300
CODEX_START_S = 30


class Host(StrEnum):
    CLAUDE_CODE = "claude-code"
    CLAUDE_DESKTOP = "claude-desktop"
    CURSOR = "cursor"
    VSCODE = "vscode"
    CODEX = "codex"


@dataclass(frozen=True, slots=True)
class _Server:
    """How the host reaches the engine: by a program it starts, or at an address."""

    name: str
    url: str | None
    command: str = ""
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def entry(self, *, typed: bool) -> dict[str, Any]:
        """As the JSON files have it; `typed` ones say which of the two it is."""
        if self.url is not None:
            return {**({"type": "http"} if typed else {}), "url": self.url}
        entry: dict[str, Any] = {"type": "stdio"} if typed else {}
        entry |= {"command": self.command, "args": list(self.arguments)}
        return entry | ({"env": dict(self.environment)} if self.environment else {})


def connect(
    host: Annotated[Host, typer.Argument(help="The host to connect.")],
    target: Annotated[
        str | None, typer.Argument(help="The engine: file.py:engine or package.module:engine; not with --url.")
    ] = None,
    *,
    url: Annotated[str | None, typer.Option(help="Address of a running server, instead of a program.")] = None,
    name: Annotated[str | None, typer.Option(help="What the host calls it; default: the engine's name.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder; default: .taskengine beside TARGET.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write it into the host's file instead of printing it.")
    ] = False,
    file: Annotated[Path | None, typer.Option(help="The host's file, where it is not the usual one.")] = None,
) -> None:
    """Print the host's configuration for TARGET, or for the server at --url; with --write put it there."""
    server = _server(host, target, url, name, data)
    path = file if file is not None else _usual_file(host)
    if host is Host.CODEX:
        text = _toml(server)
    else:
        key = "servers" if host is Host.VSCODE else "mcpServers"
        entry = server.entry(typed=host in {Host.VSCODE, Host.CLAUDE_CODE})
        text = json.dumps({key: {server.name: entry}}, indent=2, ensure_ascii=False) + "\n"
    if not write:
        err.print(f"This belongs into {path} (or give --write):", markup=False)
        sys.stdout.write(text)
        return
    path = path.resolve()  # a link stays one
    before = _read(path)
    after = (
        _with_table(before, server, text, path) if host is Host.CODEX else _with_entry(before, json.loads(text), path)
    )
    if after == before:
        good(f"{path} has it already")
        return
    _replace(path, before, after)
    good(f"{server.name} stands in {path}; start {host.value} again")
    if any(name.startswith(PREFIX) for name, _ in server.environment):
        note("the settings of this shell stand in that file, passwords included")


def _server(host: Host, target: str | None, url: str | None, name: str | None, data: Path | None) -> _Server:
    if (target is None) == (url is None):
        raise SettingsError("give either a TARGET or --url")
    if url is not None:
        if data is not None:
            raise SettingsError("--data goes with a TARGET: the server at --url has its own")
        if host is Host.CLAUDE_DESKTOP:
            raise SettingsError(
                "Claude Desktop's file takes programs only: give a TARGET, or add the URL in its settings"
            )
        return _Server(_named(name, "taskengine"), web_address(url))
    assert target is not None
    named = _named(name, load_target(target).name)
    settings = {f"{PREFIX}{name.upper()}" for name in (*Settings.model_fields, "config")}
    environment = {key: value for key, value in os.environ.items() if key in settings}
    if config := environment.get(f"{PREFIX}CONFIG"):
        environment[f"{PREFIX}CONFIG"] = str(Path(config).resolve())  # hosts start programs in folders of their own
    arguments = ["-m", "taskengine", "stdio", absolute(target)]
    if data is not None or not environment:
        arguments += ["--data", str((data or source_folder(target) / ".taskengine").resolve())]
    if not absolute(target).startswith("/"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    return _Server(named, None, sys.executable, tuple(arguments), tuple(sorted(environment.items())))


def _named(wanted: str | None, default: str) -> str:
    """Raises SettingsError for a name that hosts refuse; the engine's own is made to fit."""
    if wanted is None:
        return re.sub(r"[^A-Za-z0-9_-]+", "-", default).strip("-") or "taskengine"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", wanted):
        raise SettingsError(f"--name {wanted}: hosts take letters, digits, - and _ only")
    return wanted


def _usual_file(host: Host) -> Path:
    home = Path.home()
    match host:
        case Host.CLAUDE_CODE:
            return Path(".mcp.json").resolve()
        case Host.CURSOR:
            return home / ".cursor" / "mcp.json"
        case Host.VSCODE:
            return Path(".vscode").resolve() / "mcp.json"
        case Host.CODEX:
            return Path(os.environ.get("CODEX_HOME") or home / ".codex") / "config.toml"
        case Host.CLAUDE_DESKTOP:
            folder = {
                "darwin": home / "Library" / "Application Support",
                "win32": Path(os.environ.get("APPDATA") or home),
            }.get(sys.platform, home / ".config")
            return folder / "Claude" / "claude_desktop_config.json"


def _with_entry(before: str, new: dict[str, Any], path: Path) -> str:
    """The file with the entry added or replaced and everything else kept."""
    try:
        whole = json.loads(before) if before.strip() else {}
    except ValueError as error:
        raise SettingsError(
            f"{path} is not plain JSON ({error}): add the entry by hand, as printed without --write"
        ) from None
    (key, entries), *_ = new.items()
    if isinstance(whole, dict) and whole.get(key, {}) is None:
        whole[key] = {}
    if not isinstance(whole, dict) or not isinstance(whole.get(key, {}), dict):
        raise SettingsError(f"{path} is not of the form that is known: add the entry by hand")
    if all(whole.get(key, {}).get(name) == entry for name, entry in entries.items()):
        return before
    whole[key] = {**whole.get(key, {}), **entries}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _with_table(before: str, server: _Server, table: str, path: Path) -> str:
    """The file with the table appended. Comments and order stay, so a table that is there is never changed."""
    try:
        whole = tomllib.loads(before)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"{path} is not TOML ({error}): add the table by hand, as printed without --write"
        ) from None
    servers = whole.setdefault("mcp_servers", {})
    if not isinstance(servers, dict):
        raise SettingsError(f"{path} is not of the form that is known: add the table by hand")
    new = tomllib.loads(table)["mcp_servers"][server.name]
    there = servers.get(server.name)
    if there == new:
        return before
    if there is not None:
        raise SettingsError(f"{path} has another mcp_servers.{server.name}: change it by hand, or give another --name")
    after = f"{before.rstrip()}\n\n{table}" if before.strip() else table
    servers[server.name] = new
    try:
        kept = tomllib.loads(after) == whole
    except tomllib.TOMLDecodeError:
        kept = False
    if not kept:  # an inline table takes no more
        raise SettingsError(f"{path} writes mcp_servers in a way that takes no table: add the entry by hand")
    return after


def _toml(server: _Server) -> str:
    lines = [f"[mcp_servers.{server.name}]"]
    if server.url is not None:
        lines.append(f"url = {_string(server.url)}")
    else:
        lines += [f"command = {_string(server.command)}", f"args = [{', '.join(map(_string, server.arguments))}]"]
        lines.append(f"startup_timeout_sec = {CODEX_START_S}")
    lines.append(f"tool_timeout_sec = {CODEX_TIMEOUT_S}")
    if server.environment:
        pairs = ", ".join(f"{_string(name)} = {_string(value)}" for name, value in server.environment)
        lines.append(f"env = {{ {pairs} }}")
    return "\n".join(lines) + "\n"


def _string(text: str) -> str:
    """A basic string of TOML: as in JSON, but DEL is escaped too and what is beyond ASCII stands as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read(path: Path) -> str:
    """What stands in the file, with its line ends; nothing where there is none. Raises SettingsError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8: add the entry by hand, as printed without --write") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None


def _replace(path: Path, before: str, after: str) -> None:
    """The file is whole at every moment; what it was is kept beside it. Raises SettingsError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        if before:
            _write(path.with_name(f"{path.name}.bak"), before, mode)
        _write(temporary, after, mode)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


def _write(path: Path, text: str, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text.encode())
    path.chmod(mode)
