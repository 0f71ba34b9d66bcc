"""One front end per test, on the test's own database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from taskengine.settings import Settings
from taskengine.store import Store
from tests.server.peer import QUEUES, WORKER, Hands, Peer, serving
from tests.server.tools import engine


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Keep-alive and grace in test time."""
    short = {"keep_alive": timedelta(seconds=0.3), "shutdown_grace": timedelta(seconds=1)}
    return settings.model_copy(update=short)


@pytest.fixture
async def peer(settings: Settings) -> AsyncIterator[Peer]:
    async with serving(engine, settings) as connected:
        yield connected


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)
