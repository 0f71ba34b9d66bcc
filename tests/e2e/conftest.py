from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskengine.settings import Settings
from tests.processes import Processes

APP = "tests/apps/app.py:engine"


@pytest.fixture
def url(processes: Processes) -> str:
    """A front end and a worker, as an operator starts them; the address of the endpoint."""
    _, address = processes.serve(APP)
    processes.worker(APP)
    return address


@pytest.fixture(params=["redis", "rabbitmq"])
def on_each_broker(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Processes]:
    """The test runs once per broker; the one on RabbitMQ is skipped where none is given."""
    chosen = request.getfixturevalue("amqp_settings") if request.param == "rabbitmq" else settings
    started = Processes(chosen, tmp_path)
    yield started
    started.kill_all()
