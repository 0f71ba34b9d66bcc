"""`taskengine result`: what a task ended with, on standard output or in a file."""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Annotated

import typer

from taskengine.cli.follow import Json, code_of, report, seen_to_its_end
from taskengine.cli.place import Data, Revision, Token, Url, Where
from taskengine.cli.screen import err
from taskengine.cli.watch import TaskId
from taskengine.client import Outcome
from taskengine.errors import SettingsError
from taskengine.lifecycle import Status

__all__ = ["result"]


def result(
    task_id: TaskId,
    *,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    revision: Revision = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it into this file.", dir_okay=False)
    ] = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Print the result of a task once it has ended; a task that waits for answers ends the wait. Exit codes as of
    `call`."""
    where = Where(url, data, token, revision)
    if output is not None and not output.parent.is_dir():
        raise SettingsError(f"-o {output}: there is no folder {output.parent}")

    async def run() -> int:
        async with where.open() as place:
            outcome = await place.task(task_id).wait()
            if output is None or outcome.status is not Status.COMPLETED or outcome.is_error:
                return report(outcome, where, as_json=as_json, task_id=task_id)
            content = _content(outcome, whole=as_json)
            try:
                output.write_bytes(content)
            except OSError as error:
                raise SettingsError(f"-o {output}: {error.strerror}; the result is kept") from None
            err.print(f"{output}: {len(content)} bytes", markup=False)
            return code_of(outcome)

    raise typer.Exit(seen_to_its_end(run(), where, lambda: task_id, as_json=as_json))


def _content(outcome: Outcome, *, whole: bool) -> bytes:
    """The structured content as JSON; else an image or sound that is alone, as it is; else the text."""
    blocks = outcome.blocks
    if whole:
        return json.dumps(dict(outcome.result), ensure_ascii=False, indent=2).encode()
    if outcome.structured is not None:
        return json.dumps(outcome.structured, ensure_ascii=False, indent=2).encode()
    if len(blocks) == 1 and isinstance(blocks[0].get("data"), str):
        try:
            return base64.b64decode(blocks[0]["data"], validate=True)
        except binascii.Error:
            raise SettingsError("the server sent data that is not Base64: see it by --json") from None
    return outcome.text.encode()
