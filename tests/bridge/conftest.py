"""A front end with the bridge, whose waits are in test time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from taskengine.settings import Settings
from taskengine.store import Store
from tests.bridge.tools import engine
from tests.server.peer import QUEUES, WORKER, Hands, Peer, serving


@pytest.fixture
def settings(settings: Settings) -> Settings:
    short = {"keep_alive": timedelta(seconds=0.2), "inline_wait": timedelta(seconds=0.4)}
    return settings.model_copy(update=short | {"shutdown_grace": timedelta(seconds=1)})


@pytest.fixture
async def peer(settings: Settings) -> AsyncIterator[Peer]:
    """Speaks 2026-07-28 without the tasks extension, unless a test says otherwise."""
    async with serving(engine, settings) as connected:
        yield connected


@pytest.fixture
async def hands(store: Store) -> Hands:
    await store.workers.register(WORKER, host="test", pid=1, queues=QUEUES, presence_key=None, lease_s=600)
    return Hands(store)
