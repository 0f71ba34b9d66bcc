"""Digests in which nobody can look for guessed arguments: what equal calls and limits per argument are counted by.

They are keyed by a secret of the database's own, and not by the key ring: whoever counts calls must get the same digest
in every process and for as long as a task lives, while keys come, change their order and go. With a key ring the secret
is sealed like everything else, so it takes a key to guess; without one a reader of the database reads the arguments.

What says nothing that a plain column does not say is left as it is: the limits of a tool in total and per owner, and
the digests of idempotency keys.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import replace

from taskengine.records import NewTask, Same, Slot
from taskengine.store.keys import Keys

__all__ = ["Blinding"]

NAME = "blind"


class Blinding:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._secret: bytes | None = None
        self._first = asyncio.Lock()

    async def of(self, new: NewTask) -> NewTask:
        """The same, with every digest of its arguments keyed. The first one of a process reads the secret.

        Raises StoreUnavailable, and Unreadable when the secret is sealed under a key that is not here.
        """
        if not _tells(new):
            return new
        secret = await self._known()
        same = new.same
        if same is not None and same.window_ms is not None:
            same = Same(_keyed(secret, same.name), same.window_ms)
        return replace(
            new,
            dedupe=None if new.dedupe is None else _keyed(secret, new.dedupe),
            same=same,
            slots=tuple(
                Slot(_keyed(secret, slot.key), slot.size, of_argument=True) if slot.of_argument else slot
                for slot in new.slots
            ),
        )

    async def _known(self) -> bytes:
        async with self._first:
            if self._secret is None:
                self._secret = await self._keys.secret(NAME)
            return self._secret


def _tells(new: NewTask) -> bool:
    windowed = new.same is not None and new.same.window_ms is not None
    return windowed or new.dedupe is not None or any(slot.of_argument for slot in new.slots)


def _keyed(secret: bytes, name: str) -> str:
    return hmac.digest(secret, b"taskengine blind\0" + name.encode(), "sha256").hex()
