"""The commands in the order in which `taskengine --help` lists them.

Each is loaded when it is asked for: a worker need not wait for what the client commands import.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["app"]

ENGINE = (
    *("dev", "demo", "serve", "stdio", "connect", "worker", "pause", "resume", "migrate", "rekey", "doctor"),
    *("settings", "version"),
)
TASKS = ("tools", "call", "watch", "ls", "show", "logs", "result", "answer", "cancel", "audit")
HIDDEN = ("keep",)
TOGETHER = {"pause": "queues", "resume": "queues"}
"""Commands of one module."""
NAMES = (*ENGINE, *TASKS, *HIDDEN)


class _Commands(MutableMapping[str, Any]):
    """By name; `taskengine.cli.<name>` holds the function of the same name, if no other module does."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            if name not in NAMES:
                raise KeyError(name)
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            function = getattr(import_module(f"taskengine.cli.{TOGETHER.get(name, name)}"), name)
            alone.command(name, hidden=name in HIDDEN)(function)
            self._loaded[name] = typer.main.get_command(alone)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()


app = typer.Typer(
    name="taskengine",
    cls=_Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _taskengine() -> None:
    """Durable tasks for MCP: tool calls that run for hours, survive anything and wait for people."""
