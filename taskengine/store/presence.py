"""The presence lock of a worker: a session advisory lock that falls when its session ends, however it ends."""

from __future__ import annotations

from typing import Any

__all__ = ["hold_presence"]


async def hold_presence(connection: Any, key: int) -> None:
    """Take the lock on this session.

    `client_connection_check_interval` makes Postgres notice a dead client also in the middle of a statement.
    """
    await connection.execute("SET client_connection_check_interval = '1s'")
    await connection.execute("SELECT pg_advisory_lock($1)", key)
