"""One front end and one worker per module; each kind of client lives as long as its tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.presentations.clients import Client
from tests.presentations.kinds import KINDS
from tests.presentations.place import Place, running_place
from tests.presentations.transports import Http, Stdio, Transport
from tests.services import Services

TRANSPORTS = ["http", "stdio"]


@pytest.fixture(scope="module")
def place(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with running_place(services, tmp_path_factory.mktemp("place")) as running:
        yield running


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[(kind, transport) for transport in TRANSPORTS for kind in KINDS],
    ids="-".join,
)
async def client(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Client]:
    """Every kind of client, on both transports."""
    kind, transport = request.param
    opened = await connected(place, kind, transport)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def clients(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[dict[str, Client]]:
    """All kinds of clients of one owner, by name."""
    async with AsyncExitStack() as stack:
        found: dict[str, Client] = {}
        for kind in KINDS:
            found[kind] = await connected(place, kind, request.param)
            stack.push_async_callback(found[kind].close)
        yield found


async def connected(place: Place, kind: str, transport: str) -> Client:
    line: Transport = Http(place.front) if transport == "http" else Stdio(place.settings)
    client = KINDS[kind](line)
    await client.open()
    return client
