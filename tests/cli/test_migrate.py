from __future__ import annotations

import asyncio

import asyncpg
import pytest

from taskengine.cli import main
from taskengine.store import migrate


async def _tables(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        found: int = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename IN ('tasks', 'inputs')")
        return found
    finally:
        await connection.close()


async def _execute(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


@pytest.fixture
def url(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TASKENGINE_DATABASE_URL", empty_database_url)
    return empty_database_url


def test_an_empty_database_gets_the_schema_and_a_second_run_changes_nothing(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate"]) == 0
    assert asyncio.run(_tables(url)) == 2
    assert f"is at schema {migrate.head()}" in capsys.readouterr().out
    assert main(["migrate"]) == 0


def test_the_way_back_takes_the_tables_along(url: str) -> None:
    assert main(["migrate"]) == 0
    assert main(["migrate", "--down", "--to", "base"]) == 0
    assert asyncio.run(_tables(url)) == 0


def test_the_printed_statements_do_the_same(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--sql"]) == 0
    asyncio.run(_execute(url, capsys.readouterr().out))
    assert asyncio.run(_tables(url)) == 2
    assert main(["migrate"]) == 0  # which takes them for its own


def test_an_unknown_revision_is_named(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--to", "9999"]) == 2
    assert "9999" in capsys.readouterr().err
