"""What the commands write: results on standard output, complaints on standard error."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

__all__ = ["Host", "Port", "Target", "bad", "complain", "err", "good", "harmless", "harmless_json", "note", "out"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """What a server says, without the characters that command a terminal or turn the direction of its text."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def harmless_json(text: str) -> str:
    """JSON for a terminal: the same value, with these characters as escapes."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Screen(Console):
    """Nothing that is printed commands the terminal. A pipe gets everything as it is."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(self._harmless(each) for each in objects), **options)

    def _harmless(self, printed: Any) -> Any:
        if not self.is_terminal:
            return printed
        if isinstance(printed, Text):
            printed.plain = harmless(printed.plain)
        return harmless(printed) if isinstance(printed, str) else printed


out = _Screen(highlight=False, soft_wrap=True, emoji=False)
err = _Screen(stderr=True, highlight=False, soft_wrap=True, emoji=False)

Target = Annotated[
    str,
    typer.Argument(
        help="The engine: file.py:engine or package.module:engine.", envvar="TASKENGINE_TARGET", show_default=False
    ),
]
Host = Annotated[str | None, typer.Option(help="Address to listen on; default: the setting `host`.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on, 0 for a free one; default: the setting `port`.")
]


def complain(text: str) -> None:
    """Each line of `text` as an error."""
    for line in text.splitlines():
        err.print(Text.assemble(("error: ", "bold red"), line))


def good(text: str) -> None:
    out.print(Text.assemble(("✓ ", "green"), text))


def bad(text: str) -> None:
    out.print(Text.assemble(("✗ ", "bold red"), text))


def note(text: str) -> None:
    """Something worth knowing that is not wrong."""
    out.print(Text.assemble(("! ", "yellow"), text))
