"""What all presentations of a module stand on: a database, a worker, and a front end that can be killed."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from taskengine.children import Child
from taskengine.settings import Settings
from tests.processes import Processes, free_port
from tests.services import Services, broken_invariants

APP = "tests/presentations/app.py:engine"


class Front:
    """`taskengine serve` on one port, by whatever process."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._port = free_port()
        self._child: Child
        self._child, self.url = processes.serve(APP, port=self._port)

    async def restart(self) -> None:
        """Killed, and another in its place: what was open there is lost."""
        self._child.send(signal.SIGKILL)
        await asyncio.to_thread(self._child.wait, 10)
        self._child, _ = await asyncio.to_thread(self._processes.serve, APP, port=self._port)


class Place:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._processes = Processes(settings, folder)
        self._front: Front | None = None
        self._processes.worker(APP)

    @property
    def front(self) -> Front:
        if self._front is None:
            self._front = Front(self._processes)
        return self._front

    def close(self) -> None:
        self._processes.kill_all()


@contextmanager
def running_place(services: Services, folder: Path) -> Iterator[Place]:
    """Afterwards the invariants of the whole database are checked."""
    url = services.create_database()
    settings = Settings(
        database_url=SecretStr(url),
        broker_url=SecretStr(services.broker_url),
        namespace=f"t{secrets.token_hex(6)}",
        keep_alive=timedelta(milliseconds=500),
        inline_wait=timedelta(seconds=2),
    )
    place = Place(settings, folder)
    try:
        yield place
    finally:
        place.close()
        broken = asyncio.run(broken_invariants(url))
        services.drop_database(url)
    assert not broken, "the tests left the database with " + "; ".join(broken)
