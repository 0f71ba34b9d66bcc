"""`taskengine logs`: what a task's tool has logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any, get_args

import typer
from rich.text import Text

from taskengine.cli.follow import DETACHED, Json, print_json, report_error
from taskengine.cli.ls import plain
from taskengine.cli.place import Data, Where
from taskengine.cli.screen import out
from taskengine.cli.watch import TaskId
from taskengine.client import RemoteError
from taskengine.clientlog import LEVELS, Level
from taskengine.errors import SettingsError
from taskengine.store import Store

__all__ = ["logs"]

LOOK_S = 0.5


def logs(
    task_id: TaskId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task ends.")] = False,
    level: Annotated[str, typer.Option(help=f"Least level: {', '.join(get_args(Level))}.")] = "debug",
    data: Data = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Print the log of a task of the local engine, a line each; with --json an object each."""
    if level not in LEVELS:
        raise SettingsError(f"--level {level}: give one of {', '.join(LEVELS)}")
    wanted = set(LEVELS[LEVELS.index(level) :])

    def tell(line: Mapping[str, Any]) -> None:
        if line["level"] not in wanted:
            return
        if as_json:
            print_json(plain(line))
        else:
            _print(line)

    async def run() -> int:
        async with Where(data=data).open() as place:
            store = place.require_store()
            task = place.task(task_id)
            await task.status()  # an unknown task is an error, not an empty log
            last = 0
            while True:
                ended = (await task.status()).terminal
                last = await _tell_all(store, task_id, last, tell)
                if ended or not follow:
                    return 0
                await asyncio.sleep(LOOK_S)

    try:
        code = asyncio.run(run())
    except KeyboardInterrupt:
        code = DETACHED
    except RemoteError as error:
        code = report_error(error, as_json=as_json)
    raise typer.Exit(code)


async def _tell_all(store: Store, task_id: str, last: int, tell: Any) -> int:
    while lines := await store.inspection.logs(task_id, after=last):
        for line in lines:
            tell(line)
        last = lines[-1]["id"]
    return last


def _print(line: Mapping[str, Any]) -> None:
    said = line["data"] if isinstance(line["data"], str) else json.dumps(line["data"], ensure_ascii=False)
    style = {"warning": "yellow", "error": "red", "critical": "red", "alert": "red", "emergency": "red"}
    moment = line["at"].astimezone().strftime("%Y-%m-%d %H:%M:%S")
    source = f"{line['logger']}: " if line["logger"] else ""
    said = said.replace("\n", "\n    ")  # what a tool says in several lines must not look like a line of its own
    out.print(Text.assemble(f"{moment} ", (f"{line['level']:9} ", style.get(line["level"], "")), f"{source}{said}"))
