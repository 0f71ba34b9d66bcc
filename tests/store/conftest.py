"""Every test of the store runs twice: as it is, and with writes whose answers are lost and which are repeated."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.database import Database
from tests.store.doubt import Doubtful


@pytest.fixture(params=["heard", "unheard"])
async def store(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "heard":
        opened = await Store.open(settings)
    else:
        opened = Doubtful(Database(settings))
        opened.doubt(random.Random(request.node.nodeid))
    yield opened
    await opened.close()
