"""Behind PgBouncer in transaction mode, where a statement may meet another server connection than the last one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from pydantic import SecretStr

from benchmarks.load import Connection, request
from taskengine.settings import Settings
from tests import pooler
from tests.processes import Processes
from tests.proxy import Proxy
from tests.store.sql import execute

APP = "benchmarks/ours.py:engine"
AT_ONCE = 16


@pytest.mark.skipif(pooler.BINARY is None, reason="there is no pgbouncer here: apt-get install pgbouncer")
async def test_calls_are_created_run_and_polled_alone_and_in_batches(settings: Settings, processes: Processes) -> None:
    database_url = settings.database_url.get_secret_value()
    # By the proxy: a pooler that root starts becomes another account, which cannot pass through the tests' folders.
    async with Proxy(database_url) as direct, AsyncExitStack() as stack:
        before = stack.enter_context(pooler.pooled(direct.url))
        own = {
            "database_url": SecretStr(before.url),
            "presence_lock": False,
            "prepared_statements": before.keeps_statements,
        }
        _, url = await asyncio.to_thread(lambda: processes.serve(APP, **own))
        await asyncio.to_thread(lambda: processes.worker(APP, **own))
        connections = [await Connection.open(url) for _ in range(AT_ONCE)]
        create = request(url, "tools/call", "nothing", {"name": "nothing", "arguments": {}})

        async def call(connection: Connection) -> str:
            return str((await connection.send(create))["taskId"])

        async def until_completed(connection: Connection, task_id: str) -> None:
            poll = request(url, "tasks/get", task_id, {"taskId": task_id})
            while (await connection.send(poll))["status"] != "completed":
                await asyncio.sleep(0.02)

        async with asyncio.timeout(60):
            await until_completed(connections[0], await call(connections[0]))
            task_ids = await asyncio.gather(*map(call, connections))
            await asyncio.gather(*map(until_completed, connections, task_ids))
        for connection in connections:
            await connection.close()
        servers = await execute(
            database_url,
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        await asyncio.to_thread(processes.kill_all)
    assert 0 < servers[0][0] <= pooler.POOL, "the front end or the worker went beside the pooler"
    rows = await execute(database_url, "SELECT status, attempt FROM tasks")
    assert [tuple(row) for row in rows] == [("completed", 1)] * (AT_ONCE + 1)
