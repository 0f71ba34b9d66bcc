"""PgBouncer in transaction mode before a database, where it is installed (Debian: `apt-get install pgbouncer`)."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["BINARY", "POOL", "Pooler", "pooled"]

BINARY = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
"""None where there is none."""
POOL = 8
"""Server connections, none of which a client keeps."""
START_S = 10.0
FIRST_WITH_STATEMENTS = (1, 21)


@dataclass(frozen=True)
class Pooler:
    url: str
    version: str
    keeps_statements: bool
    """It knows the prepared statements of its clients, on whichever server connection they come."""


@contextmanager
def pooled(url: str) -> Iterator[Pooler]:
    """One before the database of `url`, while the context lasts. AssertionError with its log if it does not start."""
    assert BINARY is not None
    said = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
    version = said.split()[1]
    keeps = tuple(int(part) for part in version.split(".")[:2]) >= FIRST_WITH_STATEMENTS
    with tempfile.TemporaryDirectory(prefix="taskengine-pooler-") as name:
        folder = Path(name)
        port = _free_port()
        users, ini, log = folder / "users.txt", folder / "pgbouncer.ini", folder / "log"
        users.write_text('"postgres" ""\n')
        ini.write_text("\n".join(_lines(url, port, users, keeps=keeps)) + "\n")
        if os.geteuid() == 0:  # the account that it takes instead must reach its files
            folder.chmod(0o755)
        with log.open("wb") as output:
            process = subprocess.Popen([BINARY, ini], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _wait(process, port, log)
            database = urlsplit(url)
            yield Pooler(
                database._replace(netloc=f"{database.username or 'postgres'}@127.0.0.1:{port}", query="").geturl(),
                version,
                keeps,
            )
        finally:
            process.terminate()
            process.wait(10)


def _lines(url: str, port: int, users: Path, *, keeps: bool) -> list[str]:
    parts = urlsplit(url)
    name = parts.path.strip("/")
    folder = parse_qs(parts.query).get("host", [None])[0]
    server = (
        f"host={folder or parts.hostname} port={parts.port or 5432} dbname={name} user={parts.username or 'postgres'}"
    )
    if parts.password:
        server += f" password={unquote(parts.password)}"
    return [
        "[databases]",
        f"{name} = {server}",
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
        *(["max_prepared_statements = 200"] if keeps else []),
        *([f"user = {_account(folder)}"] if os.geteuid() == 0 else []),
    ]


def _account(socket_folder: str | None) -> str:
    """It does not run as root; where a socket is behind a folder, it is that folder's owner who may pass."""
    return "nobody" if socket_folder is None else pwd.getpwuid(Path(socket_folder).stat().st_uid).pw_name


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, f"pgbouncer did not start:\n{log.read_text()}"
        assert time.monotonic() < until, f"pgbouncer did not start:\n{log.read_text()}"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
