"""Calls of tools without tasks whose client comes back to another front end than the one they run in.

That one is asked for what the call comes to, so that the client need not send it again and have it done twice. What the
tool says on the way stays where it runs, and a question that was lost on the way there is not put again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from taskengine.server.errors import rpc_error
from taskengine.server.legacy.runs import Runs
from taskengine.store import Store
from taskengine.store.sessions import Notice
from taskengine.wire.jsonrpc import INTERNAL_ERROR, RpcError, dumps

__all__ = ["Elsewhere"]

HERE_S = 3.0
"""Within this time whoever has the call says so."""
AGAIN_S = 10.0
"""So often it is asked whether it still goes on."""


@dataclass(slots=True)
class _Wait:
    here: asyncio.Event = field(default_factory=asyncio.Event)
    posted: asyncio.Event = field(default_factory=asyncio.Event)


class Elsewhere:
    def __init__(self, runs: Runs, store: Callable[[], Store], tell: Callable[[Notice], Awaitable[None]]) -> None:
        self._runs = runs
        self._store = store
        self._tell = tell
        self._waits: dict[str, _Wait] = {}
        self._promised: set[str] = set()

    async def result(self, session: str, run_id: str) -> Any:
        """What a call of that session comes to. Raises its RpcError, another one when no front end knows the call, and
        StoreUnavailable."""
        letter = secrets.token_urlsafe(16)
        wait = self._waits[letter] = _Wait()
        try:
            await self._store().changes.hear()
            while True:
                wait.here.clear()
                await self._tell(Notice(session, "asks", f"{run_id} {letter}"))
                known = await _within(HERE_S, wait.here) and await _within(AGAIN_S, wait.posted)
                body = await self._store().sessions.fetch(letter)
                if body is not None:
                    return _opened(body)
                if not known and not wait.here.is_set():
                    raise RpcError(INTERNAL_ERROR, "The call has ended with its server: send it again")
        finally:
            del self._waits[letter]

    async def heard(self, notice: Notice) -> None:
        """One of the notices `asks`, `here` and `posted`."""
        if notice.kind == "asks":
            run_id, _, letter = notice.detail.partition(" ")
            await self._answer(notice.session, run_id, letter)
            return
        wait = self._waits.get(notice.detail)
        if wait is not None:
            wait.here.set()
            if notice.kind == "posted":
                wait.posted.set()

    async def _answer(self, session: str, run_id: str, letter: str) -> None:
        run = self._runs.get(run_id)
        if run is None:
            return
        await self._tell(Notice(session, "here", letter))
        if letter in self._promised:
            return
        self._promised.add(letter)
        try:
            body: dict[str, Any] = {"result": await run.outcome()}
        except Exception as raised:
            error = rpc_error(raised)
            body = {"error": {"code": error.code, "message": error.message, "data": error.data}}
        finally:
            self._promised.discard(letter)
        await self._store().sessions.post(letter, dumps(body).decode())
        await self._tell(Notice(session, "posted", letter))


async def _within(seconds: float, event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _opened(body: str) -> Any:
    outcome = json.loads(body)
    if "result" in outcome:
        return outcome["result"]
    raise RpcError(**outcome["error"])
