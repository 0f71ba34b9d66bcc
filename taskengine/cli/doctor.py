"""`taskengine doctor`: is everything there that serving and working needs?"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import redis
import typer

from taskengine.cli.queues import note_paused
from taskengine.cli.screen import bad, good, note
from taskengine.errors import StoreUnavailable
from taskengine.jobs.bell import Bell, BrokerUnavailable
from taskengine.settings import Settings, load_settings, without_password
from taskengine.store import Store, migrate

__all__ = ["doctor"]


def doctor(
    this_worker: Annotated[
        bool, typer.Option("--this-worker", help="Only: is a worker of this machine alive? For health checks.")
    ] = False,
) -> None:
    """Check database, schema, broker and workers. Exit code 1 when something is missing or wrong."""
    settings = load_settings()
    if this_worker:
        raise typer.Exit(0 if asyncio.run(_has_worker(settings, socket.gethostname())) else 1)
    logging.disable()  # what the parts would log is said here, in one line each
    try:
        healthy = asyncio.run(_database(settings))
        healthy &= _broker(settings)
    finally:
        logging.disable(logging.NOTSET)
    if not healthy:
        raise typer.Exit(1)


async def _database(settings: Settings) -> bool:
    name = without_password(settings.database_url.get_secret_value())
    store = await Store.open(settings)
    try:
        started = time.monotonic()
        await store.health()
        answered_ms = (time.monotonic() - started) * 1000
        version, revision = await store.server_version(), await store.schema_revision()
        good(f"database {name}: PostgreSQL {version}, first answer after {answered_ms:.0f} ms")
        if migrate.is_behind(revision):
            found = "no schema" if revision is None else f"schema {revision}"
            bad(f"schema: the database has {found}, this version needs {migrate.head()}: run `taskengine migrate`")
            return False
        newer = "" if revision == migrate.head() else f", newer than this version's {migrate.head()}"
        good(f"schema {revision}{newer}")
        _workers(await store.workers.alive())
        await note_paused(store)
    except StoreUnavailable as error:
        bad(f"database {name}: {error.reason}: start it, or set TASKENGINE_DATABASE_URL")
        return False
    finally:
        await store.close()
    return True


async def _has_worker(settings: Settings, host: str) -> bool:
    store = await Store.open(settings)
    try:
        return any(worker["host"] == host for worker in await store.workers.alive())
    finally:
        await store.close()


def _workers(alive: Sequence[Mapping[str, Any]]) -> None:
    if not alive:
        note("no worker is alive: calls are accepted and wait until one starts (`taskengine worker`)")
        return
    names = ", ".join(f"{worker['host']}:{worker['pid']}" for worker in alive)
    good(f"{len(alive)} worker{'s' * (len(alive) != 1)} alive: {names}")


def _broker(settings: Settings) -> bool:
    url = settings.broker_url.get_secret_value()
    name = without_password(url)
    bell = Bell(settings)
    bell.start()
    try:
        bell.check(5)
    except BrokerUnavailable as error:
        bad(f"broker {name}: {error.reason}: start it, or set TASKENGINE_BROKER_URL")
        return False
    finally:
        bell.stop()
    good(f"broker {name} answers")
    if urlsplit(url).scheme.startswith("redis"):
        _eviction(url)
    else:
        note(
            "RabbitMQ: keep consumer_timeout at its default or longer; "
            "messages are acknowledged when a task is claimed, so long tasks need no more"
        )
    return True


def _eviction(url: str) -> None:
    """Redis may throw messages away when it is full; that costs time, never a task."""
    try:
        with redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as connection:
            memory: Any = connection.info("memory")
    except redis.RedisError:
        return  # managed services may refuse INFO
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and memory.get("maxmemory"):
        note(
            f"maxmemory-policy is {policy}: a full broker drops doorbells, which are then late until rung again; "
            "set noeviction"
        )
