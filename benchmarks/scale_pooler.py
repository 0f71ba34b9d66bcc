"""The same processes behind PgBouncer in transaction mode, where one is installed."""

from __future__ import annotations

import asyncio
import time

from benchmarks.load import Connection, request
from benchmarks.scale_site import Figure, Site, run
from tests import pooler

__all__ = ["pooled"]

TASKS = 300
CONNECTIONS = 16
TIMEOUT_S = 60
GET_IT = "not shown: there is no pgbouncer here (Debian: `apt-get install pgbouncer`)"


def pooled(site: Site) -> list[Figure]:
    """Calls created, run and read through a pool of eight server connections, none of which lasts."""
    goal = "works"
    what = "front end and worker behind PgBouncer in transaction mode"
    if pooler.BINARY is None:
        return [Figure(what, goal, GET_IT, None)]
    url = site.database()
    site.folder.chmod(0o711)  # a pooler that root starts becomes another account, which must pass to the socket
    with pooler.pooled(url) as before:
        settings = {"PRESENCE_LOCK": "false", "PREPARED_STATEMENTS": str(before.keeps_statements).lower()}
        with site.front_end(before.url, **settings) as front, site.worker(before.url, **settings):
            begun = time.monotonic()
            run(_calls(front.url, site.scaled(TASKS)))
            passed = time.monotonic() - begun
    ((unfinished,),) = site.sql("SELECT count(*) FROM tasks WHERE status <> 'completed'", url=url)
    ((attempts,),) = site.sql("SELECT max(attempt) FROM tasks", url=url)
    figure = (
        f"{site.scaled(TASKS)} tasks seen completed in {passed:.1f} s"
        f" (PgBouncer {before.version}, {pooler.POOL} connections)"
    )
    return [Figure(what, goal, figure, unfinished == 0 and attempts == 1)]


async def _calls(endpoint: str, count: int) -> None:
    message = request(endpoint, "tools/call", "nothing", {"name": "nothing", "arguments": {}})

    async def share(number: int) -> None:
        connection = await Connection.open(endpoint)
        waiting = [str((await connection.send(message))["taskId"]) for _ in range(number)]
        while waiting:
            polls = [(each, request(endpoint, "tasks/get", each, {"taskId": each})) for each in waiting]
            waiting = [each for each, poll in polls if (await connection.send(poll))["status"] != "completed"]
            await asyncio.sleep(0.05)
        await connection.close()

    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*(share(len(range(n, count, CONNECTIONS))) for n in range(CONNECTIONS)))
