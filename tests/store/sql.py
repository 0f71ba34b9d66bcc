"""Direct statements for tests: moving a row's clock, reading what no interface shows."""

from __future__ import annotations

from typing import Any

import asyncpg


async def execute(url: str, statement: str, *values: Any) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()
