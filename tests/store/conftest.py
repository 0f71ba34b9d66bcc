"""Every test of the store runs twice: as it is, and sealed at rest, with writes whose answers are lost and repeated."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from taskengine.settings import Settings
from taskengine.store import Store
from tests.store.doubt import Doubtful
from tests.store.staged import Stage

KEYS = [SecretStr(base64.b64encode(bytes([number] * 32)).decode()) for number in (2, 1)]


@pytest.fixture(params=["heard", "unheard"])
async def store(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "heard":
        opened = await Store.open(settings)
    else:
        opened = Doubtful(settings.model_copy(update={"encryption_keys": KEYS}))
        opened.doubt(random.Random(request.node.nodeid))
    yield opened
    await opened.close()


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    async with Stage.on(database_url) as opened:
        yield opened
