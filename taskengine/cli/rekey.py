"""`taskengine rekey`: the whole database under the newest key, while everything goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from taskengine.cli.screen import bad, good, note, out
from taskengine.errors import SettingsError, StoreUnavailable, Unreadable
from taskengine.settings import Settings, load_settings
from taskengine.store import Store
from taskengine.store.rekey import PLACES

__all__ = ["rekey"]

PAUSE_S = 0.05
PASSES = 3
"""Rows that change under a pass are found by the next; what is left after the last is written by an older process."""


def rekey(
    check: Annotated[bool, typer.Option("--check", help="Only count what is not under the newest key.")] = False,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between two batches.")] = PAUSE_S,
) -> None:
    """Seal everything stored under the newest of TASKENGINE_ENCRYPTION_KEYS: after a new key was put first, or when
    encryption has just been turned on. May run while everything serves, and be broken off and started again.

    Exit codes: 0 all is under the newest key, 1 something is not.
    """
    settings = load_settings()
    if not settings.key_ring():
        raise SettingsError(
            "there is no key to seal with: set TASKENGINE_ENCRYPTION_KEYS for every process first (docs/security.md)"
        )
    raise typer.Exit(asyncio.run(_run(settings, check=check, pause_s=pause)))


async def _run(settings: Settings, *, check: bool, pause_s: float) -> int:
    store = await Store.open(settings)
    try:
        left = await store.rekey.left()
        for _ in range(0 if check else PASSES):
            if left:
                for place in PLACES:
                    await _walk(store, place, pause_s)
                left = await store.rekey.left()
    except Unreadable as error:
        bad(str(error))
        note("nothing was lost: put that key back behind the newest, and run this again")
        return 1
    except StoreUnavailable as error:
        bad(f"{error}: run this again, it goes on where it was")
        return 1
    finally:
        await store.close()
    if left:
        note(f"{left} rows are not under the newest key ({store.sealing.newest})")
        if not check:
            note("a process that still runs with older settings writes them: restart it, then run this again")
        return 1
    good(f"everything is under the newest key ({store.sealing.newest}): older ones are needed no more")
    return 0


async def _walk(store: Store, place: Any, pause_s: float) -> None:
    after: Sequence[Any] | None = None
    total = 0
    while True:
        changed, after = await store.rekey.batch(place, after)
        total += changed
        if after is None:
            break
        await asyncio.sleep(pause_s)
    out.print(f"{place.table.name}: {total} rows sealed", markup=False)
