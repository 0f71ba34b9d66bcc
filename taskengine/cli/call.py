"""`taskengine call`: a tool from the command line, with its progress and its questions."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from taskengine.cli.follow import (
    DETACHED,
    DONE,
    Json,
    Watching,
    print_json,
    report,
    report_error,
    tell_detached,
)
from taskengine.cli.form import CAPABILITIES
from taskengine.cli.pairs import read_pairs
from taskengine.cli.place import Data, Token, Url, address
from taskengine.cli.screen import err, out
from taskengine.client import Client, Outcome, QuestionFirst, Remote, RemoteError
from taskengine.lifecycle import Status

__all__ = ["call"]


def call(
    tool: Annotated[str, typer.Argument(help="Name of the tool.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="name=text, or name:=json.", metavar="[NAME=TEXT|NAME:=JSON]...")
    ] = None,
    *,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the task's id and leave it alone.")] = False,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Call TOOL and see it to its end. Ctrl-C leaves the task alone, which goes on.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 cancelled, 4 waiting for answers that nobody here can give.
    """
    values = read_pairs(arguments or ())
    seen: list[str] = []

    async def run() -> int:
        client = Client(address(url, data), auth=token, capabilities=CAPABILITIES, name="taskengine-cli")
        async with client:
            with Watching(quiet=as_json) as watching:
                if detach:
                    return await _hand_in(client, watching)

                def begun(task: Remote) -> None:
                    seen.append(task.id)
                    if not as_json:
                        err.print(f"{tool}  {task.id}", markup=False)

                outcome = await client.call(
                    tool, values, on_progress=watching.show, on_question=watching.on_question, on_task=begun
                )
            return report(outcome, as_json=as_json)

    async def _hand_in(client: Client, watching: Watching) -> int:
        try:
            task = await client.submit(tool, values, on_question=watching.on_question)
        except QuestionFirst as asks:
            return report(Outcome(Status.INPUT_REQUIRED, {}, questions=asks.questions), as_json=as_json)
        if task.id is None:  # it was quick
            return report(await task.wait(), as_json=as_json)
        if as_json:
            print_json({"taskId": task.id, "status": (await task.status()).status.value})
        else:
            out.print(task.id, markup=False)
        return DONE

    try:
        code = asyncio.run(run())
    except KeyboardInterrupt:
        tell_detached(seen[0] if seen else None)
        code = DETACHED
    except RemoteError as error:
        code = report_error(error, as_json=as_json)
    raise typer.Exit(code)
