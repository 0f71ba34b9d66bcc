"""A front end and a worker as processes, once per test module."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from taskengine.settings import Settings
from tests.processes import Processes
from tests.services import Services

APP = "tests/apps/app.py:engine"


@pytest.fixture(scope="module")
def running(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """The processes of the module."""
    url = services.create_database()
    settings = Settings(
        database_url=SecretStr(url),
        broker_url=SecretStr(services.broker_url),
        namespace=f"t{secrets.token_hex(6)}",
        linger=timedelta(0),
    )
    started = Processes(settings, tmp_path_factory.mktemp("processes"))
    try:
        yield started
    finally:
        started.kill_all()
        services.drop_database(url)


@pytest.fixture(scope="module")
def url(running: Processes) -> str:
    """The endpoint."""
    _, found = running.serve(APP)
    running.worker(APP)
    return found
