"""`taskengine watch`: a task seen to its end, whoever began it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from taskengine.cli.follow import DETACHED, Json, Watching, report, report_error, tell_detached
from taskengine.cli.place import Data, Token, Url, open_place
from taskengine.client import RemoteError

__all__ = ["TaskId", "watch"]

TaskId = Annotated[str, typer.Argument(help="Id of the task.", metavar="ID")]


def watch(
    task_id: TaskId, url: Url = None, token: Token = None, data: Data = None, as_json: Annotated[bool, Json] = False
) -> None:
    """Follow a task to its end and print its result, answering what it asks. Exit codes as of `call`."""

    async def run() -> int:
        async with open_place(url, data, token) as place:
            with Watching(quiet=as_json) as watching:
                outcome = await place.task(task_id).wait(on_progress=watching.show, on_question=watching.on_question)
            return report(outcome, as_json=as_json, task_id=task_id)

    try:
        code = asyncio.run(run())
    except KeyboardInterrupt:
        tell_detached(task_id)
        code = DETACHED
    except RemoteError as error:
        code = report_error(error, as_json=as_json)
    raise typer.Exit(code)
