"""`taskengine audit`: who did what to which task."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from taskengine.cli.follow import Json, print_json
from taskengine.cli.ls import plain
from taskengine.cli.place import Data, Where
from taskengine.cli.screen import err, out
from taskengine.durations import parse_duration
from taskengine.errors import SettingsError
from taskengine.store.audit import ACTIONS

__all__ = ["audit"]


def audit(
    *,
    owner: Annotated[str | None, typer.Option(help="Only what this caller did, or was done to its tasks.")] = None,
    task: Annotated[str | None, typer.Option(help="Only what was done to this task.")] = None,
    action: Annotated[str | None, typer.Option(help=f"Only one of: {', '.join(ACTIONS)}.")] = None,
    since: Annotated[str | None, typer.Option(help="Only within this time, such as 2h.")] = None,
    before: Annotated[int | None, typer.Option(help="Only entries before the one of this number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 100,
    data: Data = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Show the audit log, newest first: who created, read, answered, cancelled, listed, or was refused."""
    try:
        within = None if since is None else parse_duration(since)
    except ValueError as error:
        raise SettingsError(f"--since: {error}") from None
    if action is not None and action not in ACTIONS:
        raise SettingsError(f"--action: there is no action {action}; there are {', '.join(ACTIONS)}")

    async def run() -> None:
        async with Where(data=data).open() as place:
            rows = await place.require_store().audit.find(
                actor=owner, task_id=task, action=action, since=within, before=before, limit=limit
            )
        if as_json:
            print_json([plain(row) for row in rows])
            return
        if not rows:
            err.print("no entries", markup=False)
        for row in rows:
            moment = row["at"].astimezone().strftime("%Y-%m-%d %H:%M:%S")
            times = f"x{row['times']}" if row["times"] > 1 else None
            whose = row["owner"] if row["owner"] != row["actor"] else None
            of = None if whose is None else f"of {whose}"
            said = (row["actor"], row["action"], row["task_id"], row["tool"], of, row["detail"], times)
            shown = "  ".join(" ".join(str(each).split()) for each in said if each)  # one line, whatever they hold
            out.print(f"{row['id']:>8}  {moment}  {shown}", markup=False)

    asyncio.run(run())
