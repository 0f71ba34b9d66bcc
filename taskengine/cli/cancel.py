"""`taskengine cancel`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from taskengine.cli.follow import DONE, FAILED, Json, print_json, report_error
from taskengine.cli.place import Data, Revision, Token, Url, Where
from taskengine.cli.screen import complain, good
from taskengine.cli.watch import TaskId
from taskengine.client import Remote, RemoteError, ServerUnreachable
from taskengine.lifecycle import Status

__all__ = ["cancel"]


def cancel(
    task_id: TaskId,
    *,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    revision: Revision = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Cancel a task. Exit code 0 when it is cancelled, 1 when it had ended before."""
    where = Where(url, data, token, revision)

    async def run() -> Remote:
        async with where.open() as place:
            task = place.task(task_id)
            await task.cancel()
            return await task.status()

    try:
        seen = asyncio.run(run())
    except (RemoteError, ServerUnreachable) as error:
        raise typer.Exit(report_error(error, as_json=as_json)) from None
    ended_before = seen.terminal and seen.status is not Status.CANCELLED
    if as_json:
        print_json({"taskId": task_id, "status": seen.status.value})
    elif ended_before:
        complain(f"it had ended before: {seen.status.value}")
    else:
        good("cancelled" if seen.terminal else "asked to end")
    raise typer.Exit(FAILED if ended_before else DONE)
