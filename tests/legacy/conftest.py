"""One front end per test, on the test's own database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from taskengine.settings import Settings
from taskengine.store import Store
from tests.legacy.peer import ALL, Peer, serving
from tests.legacy.tools import engine
from tests.server.peer import QUEUES, WORKER, Hands


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Keep-alive, grace and the wait of bridged calls in test time."""
    short = {
        "keep_alive": timedelta(seconds=0.3),
        "shutdown_grace": timedelta(seconds=1),
        "inline_wait": timedelta(seconds=10),
    }
    return settings.model_copy(update=short)


@pytest.fixture
async def newcomer(settings: Settings) -> AsyncIterator[Peer]:
    """A client that has not begun a session."""
    async with serving(engine, settings) as connected:
        yield connected


@pytest.fixture
async def peer(newcomer: Peer) -> Peer:
    """A client in a session, who can be asked anything."""
    await newcomer.initialize(capabilities=ALL)
    return newcomer


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)
