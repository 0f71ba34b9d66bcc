"""`taskengine show`: everything that is known of one task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.text import Text

from taskengine.cli.follow import Json, print_json, report_error
from taskengine.cli.ls import STYLES, plain
from taskengine.cli.place import Data, Place, Revision, Token, Url, Where
from taskengine.cli.screen import out
from taskengine.cli.watch import TaskId
from taskengine.client import RemoteError, ServerUnreachable
from taskengine.durations import describe
from taskengine.errors import TaskNotFound
from taskengine.losses import Loss, describe_loss
from taskengine.store.audit import OPERATOR, Deed

__all__ = ["show"]

LAST_LINES = 10


def show(
    task_id: TaskId,
    *,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    revision: Revision = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Show a task: how it stands, what it was asked, what it said last, and why it ended."""
    where = Where(url, data, token, revision)

    async def run() -> None:
        async with where.open() as place:
            if place.store is None:
                await _show_remote(place, task_id, as_json)
                return
            row = await place.store.inspection.show(task_id)
            await place.store.audit.by_operator(Deed(OPERATOR, "read", task_id, row["tool"]))
            lines = await place.store.inspection.logs(task_id, last=LAST_LINES)
        if as_json:
            row = {**row, **{name: [plain(each) for each in row[name]] for name in ("questions", "journal", "losses")}}
            print_json({**plain(row), "logs": [plain(line) for line in lines]})
        else:
            _print(row, lines)

    try:
        asyncio.run(run())
    except (RemoteError, ServerUnreachable) as error:
        raise typer.Exit(report_error(error, as_json=as_json)) from None
    except TaskNotFound:
        unknown = RemoteError(-32602, "Unknown or expired task")
        raise typer.Exit(report_error(unknown, as_json=as_json)) from None


async def _show_remote(place: Place, task_id: str, as_json: bool) -> None:
    seen = await place.source.get(task_id)
    if as_json:
        whole = {name: value for name, value in seen.wire.items() if name not in {"resultType", "_meta"}}
        asked = {each.key: {"method": each.method, "params": dict(each.params)} for each in seen.questions}
        found = {
            "status": seen.status.value,
            "inputRequests": asked or None,
            "result": seen.result,
            "error": seen.error,
        }
        print_json(whole | {name: value for name, value in found.items() if value is not None})
        return
    _head(seen.id, seen.status.value, False)
    _line("message", seen.message)
    _line("begun", seen.wire.get("createdAt"))
    _line("changed", seen.wire.get("lastUpdatedAt"))
    for question in seen.questions:
        _line("question", f"{question.key}: {question.params.get('message', question.method)}")
    _line("result", seen.result)
    _line("error", seen.error)


def _print(row: Mapping[str, Any], lines: Any) -> None:
    _head(row["id"], row["status"], row["is_error"])
    _line("tool", row["tool"])
    _line("arguments", row["arguments"])
    _line("owner", row["owner"])
    _line("message", row["status_message"])
    _line("begun", row["created_at"])
    if row["ended_at"] is not None:
        _line("ended", f"{_moment(row['ended_at'])}, after {describe(row['ended_at'] - row['created_at'])}")
    _line("ran", describe(timedelta(milliseconds=row["ran_ms"])))
    _line("kept until", row["expires_at"])
    _line("attempts", f"{row['attempt']}, {row['crashes']} lost" if row["crashes"] else row["attempt"])
    for lost in row["losses"]:
        loss = Loss(**lost)
        _line("lost", f"attempt {loss.attempt}, {_moment(lost['at'])}, on {loss.worker}: {describe_loss(loss)}")
    _line("worker", row["worker_id"])
    for question in row["questions"]:
        response = question["response"]
        _line("question", f"{question['key']}: {question['params'].get('message', question['method'])}")
        _line("answer", "waited for" if response is None else response)
    for entry in row["journal"]:
        _line(entry["kind"], f"{entry['path']} {_kept(entry)}")
    _line("result", row["result"])
    _line("error", row["error"])
    if row["traceback"]:
        _line("traceback", "\n" + row["traceback"])
    if lines:
        _line("last lines", "")
    for line in lines:
        said = line["data"] if isinstance(line["data"], str) else json.dumps(line["data"], ensure_ascii=False)
        said = said.replace("\n", "\n      ")
        out.print(f"  {_moment(line['at'])} {line['level']:9} {said}", markup=False)


def _kept(entry: Mapping[str, Any]) -> str:
    """One line of the journal: what it was, and how it stands."""
    said = [entry["name"]] if entry["name"] else []
    if entry["child_id"] is not None:
        said.append(f"as {entry['child_id']}")
    if entry["tries"] > 1 or not entry["done"]:
        said.append(f"{entry['tries']} tries" if entry["tries"] != 1 else "1 try")
    if entry["error"] is not None:
        said.append("failed" if entry["done"] else f"tried again at {_moment(entry['due'])}")
    elif entry["kind"] == "sleep" and entry["due"] is not None:
        said.append(f"until {_moment(entry['due'])}")
    return ", ".join(said)


def _head(task_id: str, status: str, is_error: bool) -> None:
    sign, style = STYLES[status]
    out.print(Text.assemble((task_id, "bold"), "  ", (f"{sign} {status}{' (error)' if is_error else ''}", style)))


def _line(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, datetime):
        value = _moment(value)
    text = value if isinstance(value, (str, int)) else json.dumps(value, ensure_ascii=False)
    # What a tool or a client says in several lines stays below its own name.
    out.print(f"{name + ':':12} {str(text).replace(chr(10), chr(10) + '    ')}", markup=False)


def _moment(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
