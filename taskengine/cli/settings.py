"""`taskengine settings`: the table of settings, for the terminal and for docs/settings.md."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from rich.table import Table

from taskengine.cli.screen import out
from taskengine.durations import describe
from taskengine.settings import PREFIX, Settings, without_password

__all__ = ["settings", "settings_page"]

_COMPUTED = {"sync_slots": "number of cores", "queues": "all"}
"""Defaults that depend on the machine or the target."""


def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md.")] = False,
) -> None:
    """List every setting: variable, default, meaning."""
    if markdown:
        typer.echo(settings_page(), nl=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("Variable", "Default", "Meaning"):
        table.add_column(heading, overflow="fold")
    for variable, default, meaning in _rows():
        table.add_row(variable, default, meaning)
    out.print(table)


def settings_page() -> str:
    """docs/settings.md, whole."""
    lines = [
        "# Settings",
        "",
        "What a machine or an operator decides; what a tool needs is declared with the tool.",
        "",
        "Every setting is an environment variable, or a line of the TOML file that",
        f"`{PREFIX}CONFIG` names: without the prefix, in lower case (`port = 9000`). A variable wins over the",
        "file. A name that is no setting, or a value that does not fit, ends the command with exit code 2",
        "and one line that says which.",
        "",
        'Durations are written like `90s`, `15m`, `6h`, `7d`. Lists are JSON: `["reports", "mail"]`.',
        "",
        "This page is made by `taskengine settings --markdown`.",
        "",
        "| Variable | Default | Meaning |",
        "| --- | --- | --- |",
    ]
    for variable, default, meaning in _rows():
        lines.append(f"| `{variable}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def _rows() -> list[tuple[str, str, str]]:
    return [
        (f"{PREFIX}{name.upper()}", _COMPUTED.get(name) or _default(field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    match value:
        case None:
            return ""
        case SecretStr():
            return without_password(value.get_secret_value())
        case timedelta():
            return describe(value).replace(" ", "")
        case bool() | list() | dict():
            return json.dumps(value)
        case _:
            return str(value)
