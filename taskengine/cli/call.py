"""`taskengine call`: a tool from the command line, with its progress and its questions."""

from __future__ import annotations

from typing import Annotated

import typer

from taskengine.cli.follow import DONE, Json, Watching, print_json, report, seen_to_its_end
from taskengine.cli.pairs import read_pairs
from taskengine.cli.place import Data, Revision, Token, Url, Where
from taskengine.cli.screen import err, out
from taskengine.client import Client, Outcome, QuestionFirst, Remote
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
    revision: Revision = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the task's id and leave it alone.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Makes a repetition of this call, with the same key, the same call.")
    ] = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Call TOOL and see it to its end. Ctrl-C leaves its task alone, which goes on.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 cancelled, 4 waiting for answers that nobody here gives,
    130 Ctrl-C.
    """
    values = read_pairs(arguments or ())
    where = Where(url, data, token, revision)
    seen: list[str] = []

    async def run() -> int:
        async with where.client() as client:
            with Watching(quiet=as_json) as watching:
                if detach:
                    return await _hand_in(client, watching)

                def begun(task: Remote) -> None:
                    seen.append(task.id)
                    if not as_json:
                        err.print(f"{tool}  {task.id}", markup=False)

                outcome = await client.call(
                    tool,
                    values,
                    on_progress=watching.show,
                    on_question=watching.on_question,
                    on_task=begun,
                    idempotency_key=idempotency_key,
                )
            return report(outcome, where, as_json=as_json)

    async def _hand_in(client: Client, watching: Watching) -> int:
        try:
            task = await client.submit(tool, values, on_question=watching.on_question, idempotency_key=idempotency_key)
        except QuestionFirst as asks:
            return report(Outcome(Status.INPUT_REQUIRED, {}, questions=asks.questions), where, as_json=as_json)
        if task.id is None or task.last is None:  # it was quick
            return report(await task.wait(), where, as_json=as_json)
        if as_json:
            print_json({"taskId": task.id, "status": task.last.status.value})
        else:
            out.print(task.id, markup=False)
        return DONE

    raise typer.Exit(seen_to_its_end(run(), where, lambda: seen[-1] if seen else None, as_json=as_json))
