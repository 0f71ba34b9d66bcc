"""`taskengine watch`: a task seen to its end, whoever began it."""

from __future__ import annotations

from typing import Annotated

import typer

from taskengine.cli.follow import Json, Watching, report, seen_to_its_end
from taskengine.cli.place import Data, Revision, Token, Url, Where

__all__ = ["TaskId", "watch"]

TaskId = Annotated[str, typer.Argument(help="Id of the task.", metavar="ID")]


def watch(
    task_id: TaskId,
    *,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    revision: Revision = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Follow a task to its end and print its result, answering what it asks. Exit codes as of `call`."""
    where = Where(url, data, token, revision)

    async def run() -> int:
        async with where.open() as place:
            with Watching(quiet=as_json) as watching:
                outcome = await place.task(task_id).wait(on_progress=watching.show, on_question=watching.on_question)
            return report(outcome, where, as_json=as_json, task_id=task_id)

    raise typer.Exit(seen_to_its_end(run(), where, lambda: task_id, as_json=as_json))
