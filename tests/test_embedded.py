from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from taskengine.embedded import EmbeddedError, EmbeddedServices


async def _fetch(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_the_database_keeps_its_data_over_a_restart_and_valkey_starts_empty(tmp_path: Path) -> None:
    with EmbeddedServices(tmp_path) as services:
        await _fetch(services.database_url, "CREATE TABLE kept (i int)")
        with redis.Redis.from_url(services.broker_url) as valkey:
            valkey.set("lost", 1)
    with EmbeddedServices(tmp_path) as services:
        assert await _fetch(services.database_url, "SELECT count(*) FROM kept") == 0
        with redis.Redis.from_url(services.broker_url) as valkey:
            assert valkey.get("lost") is None


async def test_a_service_that_was_killed_comes_back_at_its_address(tmp_path: Path) -> None:
    with EmbeddedServices(tmp_path) as services:
        before = services.database_url, services.broker_url
        await _fetch(services.database_url, "CREATE TABLE kept (i int)")
        services.postgres.kill()
        services.valkey.kill()
        assert not services.postgres.running
        assert not services.valkey.running
        services.postgres.start()
        services.valkey.start()
        assert (services.database_url, services.broker_url) == before
        assert await _fetch(services.database_url, "SELECT count(*) FROM kept") == 0


def test_a_second_user_of_the_folder_is_told_who_has_it(tmp_path: Path) -> None:
    with (
        EmbeddedServices(tmp_path),
        pytest.raises(EmbeddedError, match=r"in use by another taskengine \(process \d+\).*--data"),
        EmbeddedServices(tmp_path),
    ):
        pass
    with EmbeddedServices(tmp_path):
        pass  # and it is free again afterwards


def test_data_of_another_postgres_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match="holds data of PostgreSQL 9"), EmbeddedServices(tmp_path):
        pass
    assert (folder / "PG_VERSION").read_text() == "9\n"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EmbeddedError, match="cannot be used as data directory"),
        EmbeddedServices(tmp_path / "file" / "x"),
    ):
        pass


async def test_what_a_power_cut_leaves_behind_is_not_taken_for_a_database_that_is_ready(tmp_path: Path) -> None:
    with EmbeddedServices(tmp_path) as services:
        note = services.postgres.folder / "postmaster.pid"
        left = note.read_bytes()
        assert b"ready" in left
    note.write_bytes(left)
    with EmbeddedServices(tmp_path) as services:
        assert await _fetch(services.database_url, "SELECT 1") == 1


def test_a_database_with_a_long_path_keeps_its_address(tmp_path: Path) -> None:
    """Other processes have it, and nobody tells them of a start."""
    folder = tmp_path / ("long" * 30)
    with EmbeddedServices(folder) as services:
        address = services.database_url
        assert str(folder) not in address
        services.postgres.kill()
    with EmbeddedServices(folder) as services:
        assert services.database_url == address
        assert services.postgres.running


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    with EmbeddedServices(tmp_path / ("long" * 30)) as services:
        assert await _fetch(services.database_url, "SELECT 1") == 1


def test_only_this_account_reaches_the_services(tmp_path: Path) -> None:
    with EmbeddedServices(tmp_path) as services:
        assert (services.postgres.folder.stat().st_mode & 0o077) == 0
        host, port = "127.0.0.1", services.valkey.port
        with redis.Redis(host=host, port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux only")
def test_services_end_with_a_killed_owner_and_the_next_start_goes_on(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from taskengine.embedded import EmbeddedServices\n"
        f"with EmbeddedServices({str(tmp_path)!r}) as services:\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner.stdout:
        assert owner.stdout.readline() == b"up\n"
        children = psutil.Process(owner.pid).children(recursive=True)
        assert children
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    deadline = time.monotonic() + 10
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, "a service outlived its owner"
        time.sleep(0.05)
    with EmbeddedServices(tmp_path):
        pass
