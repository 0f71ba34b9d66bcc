"""Several hosts: `python -m tests.chaos.hosts`. Services, a front end and two workers, each in a network of its own.

One worker's link is cut, without a word to anybody, while it runs tasks; later it is restored. What that worker ran
must go on in the other within the lease and a sweep, it must stop its own attempts by itself, nothing it writes late
may count, and it must take part again afterwards. Needs root and `ip` (iproute2):
network namespaces joined by a bridge.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from taskengine.children import Child
from taskengine.client import Client, Outcome
from taskengine.embedded import EmbeddedServices
from taskengine.settings import Settings
from tests.processes import ROOT, environment, wait_until_ready

TARGET = "tests/apps/app.py:engine"
NETWORK = "10.77.0"
SERVICES, FRONT, WORKERS = "services", "front", ("one", "two")
ADDRESSES = {SERVICES: 1, FRONT: 2, "one": 3, "two": 4}
RECOVERY_BAR_S = 20.0
"""From the cut to another attempt running: faults.md, "Our bar", a worker that is cut off."""


def possible() -> str | None:
    """Why it cannot be done here; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip`: install iproute2"
    probe = subprocess.run(["ip", "netns", "add", f"te{os.getpid()}"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"namespaces are not allowed here: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"te{os.getpid()}"], check=True)
    return None


class Network:
    """Namespaces on one bridge, which this process is on as well (address .254)."""

    def __init__(self) -> None:
        self._mark = f"{os.getpid() % 100_000:05}"
        self._bridge = f"te{self._mark}"

    def namespace(self, host: str) -> str:
        return f"te{self._mark}-{host}"

    def _link(self, host: str) -> str:
        return f"te{self._mark}{ADDRESSES[host]}"

    def __enter__(self) -> Network:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.254/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for host, number in ADDRESSES.items():
            name, link = self.namespace(host), self._link(host)
            _ip("netns", "add", name)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", link, "master", self._bridge, "up")
            _ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in ADDRESSES:
            subprocess.run(["ip", "netns", "del", self.namespace(host)], check=False)
        subprocess.run(["ip", "link", "del", self._bridge], check=False)

    def cut(self, host: str) -> None:
        """Nothing reaches the host any more, and nobody is told: no RST, no FIN."""
        _ip("link", "set", self._link(host), "down")

    def restore(self, host: str) -> None:
        _ip("link", "set", self._link(host), "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


# -- what runs in the services' namespace: `python -m tests.chaos.hosts --services FOLDER`


async def offer(folder: Path) -> None:
    """Embedded services, offered on the namespace's own address until this process is stopped."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with EmbeddedServices(folder) as services:
        socket = str(services.postgres.socket_folder / ".s.PGSQL.5432")
        address = f"{NETWORK}.{ADDRESSES[SERVICES]}"
        broker = urlsplit(services.broker_url)

        async def to_postgres(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _relay(reader, writer, *await asyncio.open_unix_connection(socket))

        async def to_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _relay(reader, writer, *await asyncio.open_connection(broker.hostname, broker.port))

        await asyncio.start_server(to_postgres, address, 5432)
        await asyncio.start_server(to_broker, address, 6379)
        print(f"taskengine ready :{broker.password}@{address}", flush=True)
        await stop.wait()


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamReader, to: asyncio.StreamWriter
) -> None:
    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    await asyncio.gather(copy(reader, to), copy(back, writer))


# -- the run


class Hosts:
    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network = folder, network
        self.children: list[Child] = []
        self.url = f"http://{NETWORK}.{ADDRESSES[FRONT]}:8080/mcp"
        self.database_url = f"postgresql://postgres@{NETWORK}.{ADDRESSES[SERVICES]}:5432/taskengine"

    def start(self, host: str, *command: str, settings: Settings | None = None) -> Child:
        inside = ["ip", "netns", "exec", self.network.namespace(host), sys.executable, "-m", *command]
        env = dict(os.environ) if settings is None else environment(settings)
        child = Child(f"{host}-{command[0]}", inside, self.folder / f"{host}-{command[1]}.log", env=env, cwd=ROOT)
        self.children.append(child)
        child.start()
        return child

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.callback(lambda: [child.stop(10) for child in reversed(self.children)])
            services = self.start(SERVICES, "tests.chaos.hosts", "--services", str(self.folder / "data"))
            wait_until_ready(services, 60)
            at = services.output().split("taskengine ready ")[1].split()[0]
            settings = Settings(
                database_url=SecretStr(self.database_url),
                broker_url=SecretStr(f"redis://{at}:6379/0"),
                host="0.0.0.0",
                port=8080,
                allowed_hosts=[f"{NETWORK}.{ADDRESSES[FRONT]}"],
            )
            migrating = self.start(FRONT, "taskengine", "migrate", settings=settings)
            while migrating.running:
                time.sleep(0.1)
            if migrating.exit_code:
                raise SystemExit(f"`taskengine migrate` failed:\n{migrating.output()}")
            parts = [self.start(FRONT, "taskengine", "serve", TARGET, settings=settings)]
            parts += [self.start(host, "taskengine", "worker", TARGET, settings=settings) for host in WORKERS]
            for child in parts:
                wait_until_ready(child, 60)
            yield


async def trial(hosts: Hosts, *, calls: int, cut_s: float, length_s: float) -> list[str]:
    """Cut the first worker's link while it works; what was wrong."""
    ledger = hosts.folder / "ledger"
    sql = await asyncpg.connect(hosts.database_url)
    async with Client(hosts.url) as client:

        async def call(number: int, seconds: float) -> Outcome:
            arguments: dict[str, Any] = {"seconds": seconds, "ledger": str(ledger)}
            return await client.call("sleep" if number % 2 else "sleep_sync", arguments)

        # The long ones are async: each worker has room for all, so none waits for a slot when it is taken over.
        working = [asyncio.create_task(call(2 * number + 1, length_s)) for number in range(calls)]
        await asyncio.sleep(min(5.0, length_s / 2))
        host_of = "SELECT t.id, t.attempt FROM tasks t JOIN workers w ON w.id = t.worker_id WHERE w.pid = $1"
        pids = {name: int(row["pid"]) for name, row in (await _by_host(sql, hosts)).items()}
        cut_off = await sql.fetch(host_of, pids["one"])
        print(f"worker one runs {len(cut_off)} of {calls} tasks; its link is cut for {cut_s:.0f} s", flush=True)
        hosts.network.cut("one")
        cut_at = time.monotonic()
        late = [asyncio.create_task(call(number, 1.0)) for number in range(calls)]
        recovery = await _until_taken_over(sql, cut_off, cut_at)
        print(f"its tasks run elsewhere after {recovery:.1f} s", flush=True)
        await asyncio.sleep(max(0.0, cut_s - (time.monotonic() - cut_at)))
        hosts.network.restore("one")
        outcomes = await asyncio.gather(*working, *late)
        back = await _until_back(sql, hosts)
    wrong = [f"{outcome.task_id} ended {outcome.status}" for outcome in outcomes if outcome.text != "slept"]
    odd = await sql.fetch("SELECT id FROM tasks WHERE phase <> 'done' OR worker_id IS NOT NULL OR attempt > 2")
    wrong += [f"{row['id']} is not at its end" for row in odd]
    if not cut_off:
        wrong.append("the worker that was cut off ran nothing: the run shows nothing")
    if recovery > RECOVERY_BAR_S:
        wrong.append(f"its tasks waited {recovery:.1f} s, more than {RECOVERY_BAR_S:.0f} s")
    if not back:
        wrong.append("the worker did not come back after its link did")
    await sql.close()
    return wrong


async def _by_host(sql: asyncpg.Connection[Any], hosts: Hosts) -> dict[str, asyncpg.Record]:
    """The registered workers, by the host their process was started in."""
    rows = await sql.fetch("SELECT id, pid FROM workers")
    inside = {child.pid: child.name.split("-")[0] for child in hosts.children}
    return {inside[row["pid"]]: row for row in rows if row["pid"] in inside}


async def _until_taken_over(sql: asyncpg.Connection[Any], cut_off: list[asyncpg.Record], since: float) -> float:
    """Seconds until each of these attempts has ended and, if its task has not, another runs."""
    while time.monotonic() - since < 120:
        stuck = await sql.fetchval(
            "SELECT count(*) FROM unnest($1::text[], $2::int[]) AS old(id, attempt) JOIN tasks t USING (id)"
            " WHERE t.phase = 'queued' OR (t.phase = 'running' AND t.attempt = old.attempt)",
            [row["id"] for row in cut_off],
            [row["attempt"] for row in cut_off],
        )
        if not stuck:
            break
        await asyncio.sleep(0.05)
    return time.monotonic() - since


async def _until_back(sql: asyncpg.Connection[Any], hosts: Hosts) -> bool:
    for _ in range(300):
        if set(WORKERS) <= set(await _by_host(sql, hosts)):
            return True
        await asyncio.sleep(0.1)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.hosts", description=__doc__)
    parser.add_argument("--services", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=24, help="before the cut, and as many during it")
    parser.add_argument("--cut", type=float, default=60.0, help="seconds the link is cut")
    parser.add_argument("--length", type=float, default=30.0, help="seconds each of the first calls takes")
    options = parser.parse_args()
    if options.services is not None:
        asyncio.run(offer(options.services))
        return 0
    reason = possible()
    if reason is not None:
        print(f"left out: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="hosts-", ignore_cleanup_errors=True) as folder, Network() as network:
        Path(folder).chmod(0o755)
        hosts = Hosts(Path(folder), network)
        with hosts.running():
            wrong = asyncio.run(trial(hosts, calls=options.calls, cut_s=options.cut, length_s=options.length))
    print("\n".join(wrong) or "nothing lost, nothing wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
