"""`taskengine pause` and `taskengine resume`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from taskengine.cli.place import Data, Where
from taskengine.cli.screen import good, note
from taskengine.errors import SettingsError
from taskengine.store import Store

__all__ = ["note_paused", "pause", "resume"]

Queue = Annotated[str, typer.Argument(help="The queue, as its tools name it (`queue=`).", metavar="QUEUE")]


def pause(
    queue: Queue,
    *,
    reason: Annotated[str | None, typer.Option(help="Shown to operators.")] = None,
    data: Data = None,
) -> None:
    """Run no more tasks of a queue: calls are accepted and wait; what runs already goes on."""

    async def run() -> None:
        async with Where(None, data, None, None).open() as place:
            store = place.require_store()
            if queue not in {each["name"] for each in await store.queues.waiting()}:
                note(f"nothing waits in {queue} now: check the name if that is a surprise")
            await store.queues.pause(queue, reason)

    asyncio.run(run())
    good(f"{queue} is paused: `taskengine resume {queue}` lets it run again")


def resume(queue: Queue, *, data: Data = None) -> None:
    """Run the tasks of a paused queue again."""

    async def run() -> bool:
        async with Where(None, data, None, None).open() as place:
            return await place.require_store().queues.resume(queue)

    if not asyncio.run(run()):
        raise SettingsError(f"{queue} is not paused: `taskengine doctor` names the queues that are")
    good(f"{queue} is run again")


async def note_paused(store: Store) -> None:
    """A line for each paused queue."""
    waiting = {each["name"]: each["waiting"] for each in await store.queues.waiting()}
    for queue in await store.queues.paused():
        why = f" ({queue['reason']})" if queue["reason"] else ""
        note(
            f"queue {queue['name']} is paused{why}, {waiting.get(queue['name'], 0)} tasks wait in it: "
            f"`taskengine resume {queue['name']}`"
        )
