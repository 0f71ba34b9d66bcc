"""Where the tasks are that a command speaks of: a server by its URL, or the database of the local engine."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx2
import orjson
import typer
from pydantic import SecretStr

from taskengine import running
from taskengine.cli.form import CAPABILITIES
from taskengine.client import Client, Remote, RemoteError, Source, Task
from taskengine.client.results import without_secrets
from taskengine.errors import BadAnswer, SettingsError, StoreUnavailable, TaskNotFound
from taskengine.sensitive import shown_record
from taskengine.server.tasks import fitting_answers
from taskengine.settings import PREFIX, Settings, load_settings
from taskengine.store import Store
from taskengine.store.audit import OPERATOR, Deed
from taskengine.wire import modern

__all__ = [
    "Data",
    "LocalTasks",
    "Place",
    "Revision",
    "Token",
    "Url",
    "Where",
    "address",
    "configured",
    "local",
    "web_address",
]

INVALID_PARAMS = -32602
UNKNOWN = "Unknown or expired task"
DEFAULT_DATA = Path(".taskengine")
LOOK_AGAIN_S = 30.0
RETRY_S = 0.5

PATIENCE = timedelta(seconds=30)
"""How long a server or a database may be away while a task is watched."""


class Spoken(StrEnum):
    """Revisions by name, for --revision."""

    MODERN = "2026-07-28"
    LEGACY = "2025-11-25"
    BEFORE = "2025-06-18"
    OLDEST = "2025-03-26"


Url = Annotated[str | None, typer.Option(help="MCP endpoint of a server; default: what runs here.")]
Token = Annotated[
    str | None,
    typer.Option(envvar=["TASKENGINE_TOKEN", "MCP_TOKEN"], help="Bearer token for the server.", show_default=False),
]
Revision = Annotated[
    Spoken | None, typer.Option(help="Speak this revision of MCP; default: the newest that the server knows.")
]
Data = Annotated[
    Path | None, typer.Option(help="Data folder of a local engine; default: .taskengine, if none is configured.")
]


def configured() -> bool:
    """Whether the settings name the services of this machine's engine."""
    return any(f"{PREFIX}{name}" in os.environ for name in ("DATABASE_URL", "CONFIG"))


def local(data: Path | None) -> Settings | None:
    """Settings that reach the local engine's database; None when there is no local engine."""
    if data is None and configured():
        return load_settings()
    found = running.find((data or DEFAULT_DATA).resolve())
    if found is None:
        return None
    return load_settings().model_copy(
        update={"database_url": SecretStr(found.database_url), "broker_url": SecretStr(found.broker_url)}
    )


def web_address(url: str) -> str:
    """Raises SettingsError for what is none."""
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL:
        found = httpx2.URL("")
    if found.scheme not in {"http", "https"} or not found.host:
        raise SettingsError(f"--url {without_secrets(url)}: give an address such as http://127.0.0.1:8080/mcp")
    return url


def address(url: str | None, data: Path | None) -> str:
    """The endpoint to call: the one given, that of what runs over the data folder, or the one the settings say."""
    if url is not None:
        return web_address(url)
    if data is not None or not configured():
        folder = (data or DEFAULT_DATA).resolve()
        found = running.find(folder)
        if found is not None and found.url is not None:
            return found.url
        if data is not None or found is not None:
            raise SettingsError(
                f"nothing serves HTTP over {folder}: start `taskengine dev` with --data {folder}, or give --url"
            )
    settings = load_settings()
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 (compared with)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}{settings.path}"


@dataclass(frozen=True, slots=True)
class Place:
    """Tasks by id, and what is known of them beyond the protocol where their database is at hand."""

    source: Source
    store: Store | None
    client: Client | None

    def task(self, task_id: str) -> Task:
        return Task(self.source, task_id)

    def require_store(self) -> Store:
        """Raises SettingsError for a place that only speaks MCP."""
        if self.store is None:
            raise SettingsError(
                "this is kept in the engine's database, which MCP does not show: leave --url out, and name the local "
                f"engine by --data FOLDER or {PREFIX}DATABASE_URL"
            )
        return self.store


@dataclass(frozen=True, slots=True)
class Where:
    """What a command was told of the place."""

    url: str | None = None
    data: Path | None = None
    token: str | None = None
    revision: Spoken | None = None

    def client(self) -> Client:
        """A client of the server there."""
        return Client(
            address(self.url, self.data),
            auth=self.token,
            capabilities=CAPABILITIES,
            revision=self.revision,
            name="taskengine-cli",
            patience=PATIENCE,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Place]:
        """The server at `url`; else the local engine's database; else the server where the settings say."""
        settings = local(self.data) if self.url is None and self.revision is None else None
        if settings is not None:
            store = await Store.open(settings)
            try:
                yield Place(LocalTasks(store), store, None)
            finally:
                await store.close()
            return
        async with self.client() as client:
            yield Place(client, None, client)

    def command(self, *words: str) -> str:
        """A command line that means the same place."""
        said = ["taskengine", *words]
        for option, value in (("--url", self.url), ("--data", self.data), ("--revision", self.revision)):
            if value is not None:
                said += [option, str(value)]
        return shlex.join(said)


class LocalTasks:
    """A source of tasks: those of every owner, read from the database, as their operator may see them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: set[str] = set()

    async def get(self, task_id: str) -> Remote:
        owner = await self._owner(task_id)
        try:
            arguments, names = await self._store.inspection.hidden(task_id)
            record = await self._store.tasks.get(task_id, owner)
        except TaskNotFound:  # its time was over just now
            raise RemoteError(INVALID_PARAMS, UNKNOWN) from None
        if (record.result is not None or record.error is not None) and task_id not in self._read:
            self._read.add(task_id)
            await self._store.audit.by_operator(Deed(OPERATOR, "read", task_id, record.tool))
        shown = shown_record(record, arguments, names)
        return Remote.parse(orjson.loads(orjson.dumps(modern.get_task_result(shown, {}))))

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        owner = await self._owner(task_id)
        record = await self._store.tasks.get(task_id, owner)
        try:
            fitting = fitting_answers(record.open_questions, responses)
        except BadAnswer as error:
            raise RemoteError(INVALID_PARAMS, str(error)) from None
        # Nobody rings for the next attempt: the workers look for what is due every second.
        await self._store.inputs.answer(task_id, owner, fitting, actor=OPERATOR)

    async def cancel(self, task_id: str) -> None:
        await self._store.tasks.cancel(task_id, await self._owner(task_id), actor=OPERATOR)

    async def changes(self, task_id: str, *, after: Remote | None = None) -> AsyncGenerator[Remote, None]:  # noqa: ARG002
        async with self._store.changes.watch([task_id]) as watch:
            while True:
                task = await self._patiently(task_id)
                yield task
                if task.terminal:
                    return
                await watch.next(LOOK_AGAIN_S)

    async def _patiently(self, task_id: str) -> Remote:
        deadline = time.monotonic() + PATIENCE.total_seconds()
        while True:
            try:
                return await self.get(task_id)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(RETRY_S)

    async def _owner(self, task_id: str) -> str:
        try:
            return await self._store.inspection.owner(task_id)
        except TaskNotFound:
            raise RemoteError(INVALID_PARAMS, UNKNOWN) from None
