"""The same processes behind PgBouncer in transaction mode, where one is installed."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from benchmarks.load import Connection, request
from benchmarks.scale_site import Figure, Site, free_port, run

__all__ = ["pooled"]

TASKS = 300
CONNECTIONS = 16
POOL = 8
TIMEOUT_S = 60
FIRST_WITH_STATEMENTS = (1, 21)


def pooled(site: Site) -> list[Figure]:
    """Calls created, run and read through a pool of eight server connections, none of which lasts."""
    goal = "works"
    what = "front end and worker behind PgBouncer in transaction mode"
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        return [Figure(what, goal, "not tried: there is no pgbouncer here", None)]
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    keeps = tuple(int(part) for part in version.split(".")[:2]) >= FIRST_WITH_STATEMENTS
    url = site.database()
    settings = {"PRESENCE_LOCK": "false"} | ({} if keeps else {"PREPARED_STATEMENTS": "false"})
    with (
        _pgbouncer(site, binary, url, keeps=keeps) as pooler,
        site.front_end(pooler, **settings) as front,
        site.worker(pooler, **settings),
    ):
        begun = time.monotonic()
        run(_calls(front.url, site.scaled(TASKS)))
        passed = time.monotonic() - begun
    ((unfinished,),) = site.sql("SELECT count(*) FROM tasks WHERE status <> 'completed'", url=url)
    ((attempts,),) = site.sql("SELECT max(attempt) FROM tasks", url=url)
    figure = f"{site.scaled(TASKS)} tasks seen completed in {passed:.1f} s (PgBouncer {version}, {POOL} connections)"
    return [Figure(what, goal, figure, unfinished == 0 and attempts == 1)]


@contextmanager
def _pgbouncer(site: Site, binary: str, url: str, *, keeps: bool) -> Iterator[str]:
    parts = urlsplit(url)
    name = parts.path.strip("/")
    port = free_port()
    folder = site.folder / "pgbouncer"
    folder.mkdir(mode=0o755)
    ini = folder / "pgbouncer.ini"
    users = folder / "users.txt"
    users.write_text('"postgres" ""\n')
    log = folder / "log"
    log.touch()
    # It does not run as root either; the account it takes instead must reach its files.
    account = site.account
    lines = [
        "[databases]",
        f"{name} = host={site.socket_folder} port=5432 dbname={name} user=postgres",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        f"auth_file = {users}",
        "pool_mode = transaction",
        f"default_pool_size = {POOL}",
        "max_client_conn = 200",
        "ignore_startup_parameters = extra_float_digits",
        f"logfile = {log}",
        *(["max_prepared_statements = 200"] if keeps else []),
        *([f"user = {account}"] if account else []),
    ]
    ini.write_text("\n".join(lines) + "\n")
    site.open_to_account(folder)
    process = subprocess.Popen([binary, "-q", ini], stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"pgbouncer did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield parts._replace(netloc=f"postgres@127.0.0.1:{port}", query="").geturl()
    finally:
        process.terminate()
        process.wait(10)


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
