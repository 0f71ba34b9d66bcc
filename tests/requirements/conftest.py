"""One front end per test, which several people talk to, on either revision."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from taskengine.server import create_app
from taskengine.server.caller import VOUCHED, Caller
from taskengine.settings import Settings
from taskengine.store import Store
from tests.legacy.peer import ALL
from tests.legacy.peer import Peer as LegacyPeer
from tests.requirements.tools import engine
from tests.server.peer import QUEUES, WORKER, FrontEnd, Hands, front_end
from tests.server.peer import Peer as ModernPeer

OWNER = "x-test-owner"


class Vouching:
    """Vouches for whoever a header names, as what checks credentials will: so tests have several principals."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            owner = dict(scope["headers"]).get(OWNER.encode())
            scope = {**scope, VOUCHED: Caller(owner.decode())} if owner else scope
        await self._app(scope, receive, send)


@dataclass
class Front:
    """A front end that runs, and the people who call it."""

    running: FrontEnd
    app: Any
    _open: AsyncExitStack

    async def modern(self, owner: str = "ann") -> ModernPeer:
        return ModernPeer(self.running.url, await self._http(owner))

    async def legacy(self, owner: str = "ann", capabilities: dict[str, Any] = ALL) -> LegacyPeer:
        """In a session."""
        peer = LegacyPeer(self.running.url, await self._http(owner))
        await peer.initialize(capabilities=capabilities)
        return peer

    async def _http(self, owner: str) -> httpx2.AsyncClient:
        http = httpx2.AsyncClient(timeout=20, trust_env=False, headers={OWNER: owner})
        return await self._open.enter_async_context(http)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Waits in test time; without the engine's own tools, which stand between a call and its task."""
    short = {
        "keep_alive": timedelta(seconds=0.3),
        "shutdown_grace": timedelta(seconds=1),
        "handle_tools": "none",
    }
    return settings.model_copy(update=short)


@pytest.fixture
async def front(settings: Settings) -> AsyncIterator[Front]:
    app = create_app(engine, settings)
    async with front_end(Vouching(app), settings.path) as running, AsyncExitStack() as stack:
        yield Front(running, app, stack)


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)
