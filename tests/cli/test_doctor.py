from __future__ import annotations

import asyncio

import pytest

from taskengine.cli import main
from taskengine.settings import Settings
from taskengine.store import migrate
from tests.services import Services
from tests.store.sql import execute


@pytest.fixture(autouse=True)
def _environment(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKENGINE_BROKER_URL", services.broker_url)


def _use(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setenv("TASKENGINE_DATABASE_URL", settings.database_url.get_secret_value())


def test_all_is_well_and_a_missing_worker_is_only_noted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _use(monkeypatch, settings)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "PostgreSQL" in out
    assert "schema 0" in out
    assert "no worker is alive" in out
    assert "answers" in out


def test_a_database_without_schema_is_not_well(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TASKENGINE_DATABASE_URL", empty_database_url)
    assert main(["doctor"]) == 1
    assert "taskengine migrate" in capsys.readouterr().out


def test_a_database_of_a_newer_version_is_well_and_said_to_be_newer(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """During a deploy the schema comes first, and the code before it goes on."""
    _use(monkeypatch, settings)
    asyncio.run(execute(database_url, f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))
    assert main(["doctor"]) == 0
    assert f"schema 9999, newer than this version's {migrate.head()}" in capsys.readouterr().out


def test_a_database_of_an_older_version_is_not_well(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _use(monkeypatch, settings)
    asyncio.run(execute(database_url, f"UPDATE {migrate.VERSION_TABLE} SET version_num = '0001'"))
    assert main(["doctor"]) == 1
    assert "schema 0001" in capsys.readouterr().out


def test_a_broker_that_is_away_is_not_well(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _use(monkeypatch, settings)
    monkeypatch.setenv("TASKENGINE_BROKER_URL", "redis://127.0.0.1:1/0")
    assert main(["doctor"]) == 1
    assert "TASKENGINE_BROKER_URL" in capsys.readouterr().out


def test_a_machine_without_a_worker_of_its_own_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, settings)
    assert main(["doctor", "--this-worker"]) == 1


def test_rabbitmq_is_told_about_its_timeout(
    amqp_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _use(monkeypatch, amqp_settings)
    monkeypatch.setenv("TASKENGINE_BROKER_URL", amqp_settings.broker_url.get_secret_value())
    assert main(["doctor"]) == 0
    assert "consumer_timeout" in capsys.readouterr().out
