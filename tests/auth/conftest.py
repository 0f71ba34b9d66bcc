"""A front end behind an authorization server, both over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from taskengine.auth.config import Issuer
from taskengine.server import create_app
from taskengine.settings import Settings
from taskengine.store import Store
from tests.auth.authorization_server import AuthorizationServer, authorization_server
from tests.auth.tools import engine
from tests.legacy.peer import ALL
from tests.legacy.peer import Peer as LegacyPeer
from tests.server.peer import QUEUES, WORKER, FrontEnd, Hands, front_end
from tests.server.peer import Peer as ModernPeer

RESOURCE = "https://tools.example/mcp"


@dataclass
class Front:
    """A front end that runs, and its clients."""

    running: FrontEnd
    app: Any
    _open: AsyncExitStack

    async def http(self, token: str | None = None) -> httpx2.AsyncClient:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        http = httpx2.AsyncClient(timeout=20, trust_env=False, headers=headers)
        return await self._open.enter_async_context(http)

    async def modern(self, token: str | None = None) -> ModernPeer:
        return ModernPeer(self.running.url, await self.http(token))

    async def legacy(self, token: str | None = None, capabilities: Mapping[str, Any] = ALL) -> LegacyPeer:
        """In a session."""
        peer = LegacyPeer(self.running.url, await self.http(token))
        await peer.initialize(capabilities=capabilities)
        return peer

    async def status(self, token: str) -> int:
        """Of the plainest request."""
        peer = await self.modern(token)
        return (await peer.send("tools/list")).status


@pytest.fixture
async def issuer() -> AsyncIterator[AuthorizationServer]:
    async with authorization_server() as running:
        yield running


@pytest.fixture
def config() -> dict[str, Any]:
    """What the settings say of the issuer, beside its name; tests have their own."""
    return {}


@pytest.fixture
def further() -> dict[str, Any]:
    """Settings of a test's own."""
    return {}


@pytest.fixture
def settings(
    settings: Settings, issuer: AuthorizationServer, config: dict[str, Any], further: dict[str, Any]
) -> Settings:
    """Of a front end that is guarded; without the engine's own tools, which stand between a call and its task."""
    changed = {
        "keep_alive": timedelta(seconds=0.3),
        "shutdown_grace": timedelta(seconds=1),
        "handle_tools": "none",
        "auth_issuers": [Issuer(issuer=issuer.issuer, **config)],
        "auth_resource": RESOURCE,
        "auth_leeway": timedelta(0),
        **further,
    }
    return settings.model_copy(update=changed)


@pytest.fixture
async def front(settings: Settings) -> AsyncIterator[Front]:
    app = create_app(engine, settings)
    async with front_end(app, settings.path) as running, AsyncExitStack() as stack:
        yield Front(running, app, stack)


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)
