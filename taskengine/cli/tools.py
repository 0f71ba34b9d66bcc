"""`taskengine tools`: what a server offers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from taskengine.cli.follow import Json, print_json, report_error
from taskengine.cli.place import Data, Revision, Token, Url, Where
from taskengine.cli.screen import out
from taskengine.client import RemoteError, ServerUnreachable

__all__ = ["tools"]


def tools(
    *,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    revision: Revision = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """List the tools of a server with their parameters."""
    where = Where(url, data, token, revision)

    async def run() -> list[dict[str, Any]]:
        async with where.client() as client:
            return await client.list_tools()

    try:
        listed = asyncio.run(run())
    except (RemoteError, ServerUnreachable) as error:
        raise typer.Exit(report_error(error, as_json=as_json)) from None
    if as_json:
        print_json(listed)
        return
    for tool in listed:
        schema = tool.get("inputSchema") or {}
        out.print(Text.assemble((tool["name"], "bold"), f"  {_first_line(tool)}"))
        for name, field in (schema.get("properties") or {}).items():
            needed = "" if name in schema.get("required", ()) else f" = {field.get('default', 'optional')}"
            described = f"  {field['description']}" if "description" in field else ""
            out.print(f"    {name}: {_kind(field)}{needed}{described}", markup=False)


def _first_line(tool: Mapping[str, Any]) -> str:
    lines: list[str] = str(tool.get("description") or tool.get("title") or "").strip().splitlines()
    return lines[0] if lines else ""


def _kind(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " | ".join(str(choice) for choice in field["enum"])
    if "anyOf" in field:
        return " | ".join(_kind(option) for option in field["anyOf"])
    return str(field.get("type", "any"))
