"""Fixtures for every test. A test that touches the database gets one of its own, copied from a migrated template."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Generator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from kombu import Connection
from pydantic import SecretStr

from taskengine.settings import Settings
from taskengine.store import Store
from tests.planted import MARK, found_in
from tests.processes import Processes
from tests.services import AMQP_VARIABLE, Services, broken_invariants, running_services


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports travel between processes as UTF-8, and some tests are about text that is none."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    if report.failed and (text := _encodable(report.longreprtext)) != report.longreprtext:
        report.longrepr = text
    return report


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class _Overheard(logging.Handler):
    """Lines of this process that hold a planted secret, as `logs` would write them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter("%(name)s: %(message)s").format(record)
        if MARK in text:
            self.found.append(text)


@pytest.fixture(scope="session", autouse=True)
def no_secret_in_any_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests planted (database password, keys, tokens, sensitive arguments) is in none of the logs of a run.

    Every process that a test starts writes to a file in its folder; all of them are read when the run is over.
    """
    overheard = _Overheard()
    logging.getLogger("taskengine").addHandler(overheard)
    yield
    logging.getLogger("taskengine").removeHandler(overheard)
    found = [*found_in(tmp_path_factory.getbasetemp()), *overheard.found]
    assert not found, "secrets in the logs:\n" + "\n".join(found)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Postgres and a broker, one set per pytest process."""
    with running_services(tmp_path_factory.mktemp("services")) as running:
        yield running


@pytest.fixture
def database_url(services: Services) -> Iterator[str]:
    """A migrated database of the test's own. Afterwards the invariants of the whole database are checked."""
    url = services.create_database()
    yield url
    try:
        broken = asyncio.run(broken_invariants(url))
    finally:
        services.drop_database(url)
    assert not broken, "the test left the database with " + "; ".join(broken)


@pytest.fixture
def empty_database_url(services: Services) -> Iterator[str]:
    """A database without any table."""
    url = services.create_database(migrated=False)
    yield url
    services.drop_database(url)


@pytest.fixture
def settings(database_url: str, services: Services) -> Settings:
    """A fresh database, and queues and keys on the broker that no other test has.

    A question ends its attempt at once, so that a test need not be slow to see the next; tests of `linger` set it.
    """
    return Settings(
        linger=timedelta(0),
        database_url=SecretStr(database_url),
        broker_url=SecretStr(services.broker_url),
        namespace=f"t{secrets.token_hex(6)}",
    )


@pytest.fixture
def amqp_settings(settings: Settings, services: Services) -> Iterator[Settings]:
    """The same with RabbitMQ as broker; the test is skipped where none is given."""
    if services.amqp_url is None:
        pytest.skip(f"set {AMQP_VARIABLE} to run this on RabbitMQ")
    yield settings.model_copy(update={"broker_url": SecretStr(services.amqp_url)})
    with Connection(services.amqp_url) as connection, connection.channel() as channel:
        for route in ("default", "default.sync"):  # a RabbitMQ outlives the tests
            channel.queue_delete(f"{settings.namespace}.{route}")
        channel.exchange_delete(settings.namespace)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    opened = await Store.open(settings)
    yield opened
    await opened.close()


@pytest.fixture
def processes(settings: Settings, tmp_path: Path) -> Iterator[Processes]:
    """Starts real `taskengine` processes on the test's settings; none is left afterwards."""
    started = Processes(settings, tmp_path)
    yield started
    started.kill_all()
