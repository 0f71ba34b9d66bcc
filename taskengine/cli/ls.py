"""`taskengine ls`: the tasks there are, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from taskengine.cli.follow import Json, print_json, report_error
from taskengine.cli.place import Data, Revision, Token, Url, Where
from taskengine.cli.screen import err, harmless, out
from taskengine.client import Client, RemoteError, ServerUnreachable
from taskengine.durations import describe, parse_duration
from taskengine.errors import SettingsError
from taskengine.lifecycle import Status

__all__ = ["STYLES", "ls", "plain"]

LIST_TOOL = "task_list"
"""The ordinary tool by which a server shows a caller's own tasks."""

STYLES = {
    "working": ("◐", "blue"),
    "input_required": ("●", "yellow"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("⊘", "bright_black"),
}


def ls(
    *,
    status: Annotated[list[Status] | None, typer.Option(help="Only tasks of this status; may be repeated.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only tasks of this tool.")] = None,
    since: Annotated[str | None, typer.Option(help="Only tasks begun within this time, such as 2h.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    revision: Revision = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """List tasks, newest first: all of the local engine, or with --url your own that the server shows."""
    where = Where(url, data, token, revision)
    try:
        within = None if since is None else parse_duration(since)
    except ValueError as error:
        raise SettingsError(f"--since: {error}") from None

    async def run() -> None:
        async with where.open() as place:
            if place.client is not None:
                if within is not None:
                    raise SettingsError("--since is for the local engine: a server does not say when tasks began")
                _print_remote((await _remote(place.client, status or (), tool))[:limit], as_json)
                return
            rows = await place.require_store().inspection.list(
                statuses=status or (), tool=tool, since=within, limit=limit
            )
            if as_json:
                print_json([plain(row) for row in rows])
            else:
                _print(rows)

    try:
        asyncio.run(run())
    except (RemoteError, ServerUnreachable) as error:
        raise typer.Exit(report_error(error, as_json=as_json)) from None


async def _remote(client: Client, statuses: Sequence[Status], tool: str | None) -> list[dict[str, Any]]:
    """What the server's tool for it says, else its `tasks/list`, which does not name tools."""
    if LIST_TOOL in {each["name"] for each in await client.list_tools()}:
        structured = (await client.call(LIST_TOOL)).structured
        found = structured.get("tasks") if isinstance(structured, Mapping) else None
        rows = [dict(row) for row in found or () if isinstance(row, Mapping)]
    elif tool is None and (tasks := await client.list_tasks()) is not None:
        rows = [{"task_id": task.id, "status": task.status.value, "status_message": task.message} for task in tasks]
    else:
        raise SettingsError(f"this server does not list tasks that way: it has no tool {LIST_TOOL}")
    wanted = {status.value for status in statuses}
    return [
        row for row in rows if (not wanted or row.get("status") in wanted) and (tool is None or row.get("tool") == tool)
    ]


def _print_remote(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        err.print("no tasks", markup=False)
    for row in rows:
        cells = (row.get("task_id"), row.get("status"), row.get("tool"), row.get("status_message"))
        out.print("\t".join(" ".join(str(cell or "").split()) for cell in cells).rstrip(), markup=False)


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as JSON has it: moments as text."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        err.print("no tasks: begin one with `taskengine call TOOL`", markup=False)
        return
    titles = ("id", "status", "tool", "age", "owner", "message")
    now = datetime.now(UTC)
    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    table.columns[0].min_width = max(len(row["id"]) for row in rows)
    for row in rows:
        sign, style = STYLES[row["status"]]
        word = f"{sign} {row['status']}" + (" (error)" if row["is_error"] else "")
        # A line break or tab in what others chose must not make another row or column.
        tool, owner, message = (" ".join((row[name] or "").split()) for name in ("tool", "owner", "status_message"))
        cells = (row["id"], word, tool, describe(now - row["created_at"]), owner)
        if out.is_terminal:
            table.add_row(cells[0], Text(word, style), *(Text(harmless(cell)) for cell in (*cells[2:], message)))
        else:
            out.print("\t".join((*cells, message)), markup=False)
    if out.is_terminal:
        out.print(table)
