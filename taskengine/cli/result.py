"""`taskengine result`: what a task ended with, on standard output or in a file."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Annotated

import typer

from taskengine.cli.follow import DETACHED, Json, code_of, report, report_error, tell_detached
from taskengine.cli.place import Data, Token, Url, open_place
from taskengine.cli.screen import err
from taskengine.cli.watch import TaskId
from taskengine.client import Outcome, RemoteError
from taskengine.lifecycle import Status

__all__ = ["result"]


def result(
    task_id: TaskId,
    *,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it into this file.")] = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Print the result of a task once it has ended; a task that waits for answers ends the wait. Exit codes as of
    `call`."""

    async def run() -> int:
        async with open_place(url, data, token) as place:
            outcome = await place.task(task_id).wait()
            if output is None or outcome.status is not Status.COMPLETED:
                return report(outcome, as_json=as_json, task_id=task_id)
            output.write_bytes(_content(outcome, whole=as_json))
            err.print(f"{output}: {output.stat().st_size} bytes", markup=False)
            return code_of(outcome)

    try:
        code = asyncio.run(run())
    except KeyboardInterrupt:
        tell_detached(task_id)
        code = DETACHED
    except RemoteError as error:
        code = report_error(error, as_json=as_json)
    raise typer.Exit(code)


def _content(outcome: Outcome, *, whole: bool) -> bytes:
    """The structured content as JSON; else an image or sound that is alone, as it is; else the text."""
    blocks = outcome.result.get("content", ())
    if whole:
        return json.dumps(dict(outcome.result), ensure_ascii=False, indent=2).encode()
    if outcome.structured is not None:
        return json.dumps(outcome.structured, ensure_ascii=False, indent=2).encode()
    if len(blocks) == 1 and "data" in blocks[0]:
        return base64.b64decode(blocks[0]["data"])
    return outcome.text.encode()
