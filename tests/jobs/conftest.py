from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskengine.settings import Settings
from tests.jobs.calls import Calls, calls_on


@pytest.fixture
async def calls(settings: Settings) -> AsyncIterator[Calls]:
    async with calls_on(settings) as opened:
        yield opened
