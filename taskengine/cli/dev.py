"""`taskengine dev`: the whole engine on one machine, from nothing, for writing tools."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from taskengine.bridge import HANDLE_TOOLS
from taskengine.cli.keep import take_over
from taskengine.cli.process import Interrupts, watch_code
from taskengine.cli.screen import Host, Port, Target, complain, good, note, out
from taskengine.cli.stack import ChildFailed, Stack
from taskengine.client import Client
from taskengine.client.results import ServerUnreachable
from taskengine.settings import PREFIX, load_settings
from taskengine.store import migrate
from taskengine.target import source_folder

__all__ = ["dev"]

Data = Annotated[Path, typer.Option(help="Folder for the database and the logs.", file_okay=False)]
_SERVICES = (f"{PREFIX}DATABASE_URL", f"{PREFIX}BROKER_URL")


def dev(
    target: Target,
    host: Host = None,
    port: Port = None,
    data: Data = Path(".taskengine"),
    reload: Annotated[
        bool, typer.Option("--reload", help="Start front end and worker again when code changes.")
    ] = False,
) -> None:
    """Run TARGET with an embedded PostgreSQL and Valkey, a front end and a worker. Tasks outlive Ctrl-C."""
    given = {"host": host, "port": port}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    for variable in _SERVICES:
        if variable in os.environ:
            note(f"{variable} is set; dev uses its own services. Use `taskengine serve` and `worker` for those named.")
    interrupts = Interrupts()
    if take_over(data):
        note("what kept the tasks of stdio hosts going has given way; they are served from here now")
    with Stack(target, data, settings, tell=_tell) as stack:
        try:
            stack.start_children()
        except ChildFailed as failure:
            complain(str(failure))
            raise typer.Exit(2 if failure.exit_code == 2 else 1) from None
        _show(stack, reload=reload)
        changed = watch_code(source_folder(target)) if reload else threading.Event()
        while not interrupts.count:
            time.sleep(0.2)
            stack.tend()
            if changed.is_set():
                changed.clear()
                note("code changed: front end and worker start again")
                stack.restart_children()
        out.print("Stopping …")
        interrupts.second = lambda: stack.stop_children(at_once=True)
        stack.stop_children()
    good("stopped; the tasks are kept and go on at the next start")


def _tell(who: str, what: str) -> None:
    for line in what.splitlines():
        out.print(Text.assemble((f"{who:>9} │ ", "yellow"), line))


def _show(stack: Stack, *, reload: bool) -> None:
    data = stack.services.data_dir
    tools = _tools(stack.url)
    good(f"PostgreSQL and Valkey, embedded, in {data}")
    good(f"schema {migrate.head()}")
    if tools is None:
        good("callers need a token (docs/security.md)")
    else:
        good(f"{len(tools)} tool{'s' * (len(tools) != 1)}: {', '.join(tools) or 'none yet'}")
    out.print(f"\n  MCP     {stack.url}\n  logs    {data / 'logs'}\n  reload  {'on' if reload else 'off'}\n")
    out.print("Ctrl-C stops everything; tasks go on at the next start.\n")


def _tools(url: str) -> list[str] | None:
    """The names of the tools, without the engine's own: the user declared the others. None where it takes a token that
    is not in the environment."""
    try:
        return asyncio.run(_listed(url, os.environ.get(f"{PREFIX}TOKEN")))
    except ServerUnreachable as error:
        if error.status not in {401, 403}:
            raise
        return None


async def _listed(url: str, token: str | None) -> list[str]:
    async with Client(url, auth=token) as client:
        return [tool["name"] for tool in await client.list_tools() if tool["name"] not in HANDLE_TOOLS]
