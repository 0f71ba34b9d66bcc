"""Real `taskengine` processes for tests that kill things: started by environment, as an operator would."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, SecretStr

from taskengine.children import Child
from taskengine.durations import milliseconds
from taskengine.settings import PREFIX, Settings
from tests.forks import Forks, forks
from tests.services import Services, broken_invariants

ROOT = Path(__file__).resolve().parent.parent
READY = "taskengine ready"
"""What `serve` and `worker` log once they do their work."""


def environment(settings: Settings, root: Path = ROOT) -> dict[str, str]:
    """The variables that give another process these settings and the code of `root`, beside all it needs of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    own = {f"{PREFIX}{name.upper()}": _text(getattr(settings, name)) for name in sorted(settings.model_fields_set)}
    # Where bytecode is not written, each of hundreds of starts would compile the engine anew.
    python = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""}
    return kept | own | python | {"COLUMNS": "200", "NO_COLOR": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Quick(Child):
    """One that need not import what it runs."""

    def start(self, *, stdin: bytes | None = None) -> None:
        assert stdin is None
        running: Forks | None = forks(ROOT)
        if running is None:
            super().start()
            return
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        assert self.env is not None
        assert self.cwd is not None
        self._process = running.start(self.command[3:], self.log, self.env, self.cwd)  # type: ignore[assignment]


class Processes:
    """The processes of one test. `target` is a path (`tests/apps/app.py:engine`) or a module.

    `root` is the checkout that they run, if it is not this one.
    """

    def __init__(self, settings: Settings, folder: Path, root: Path = ROOT) -> None:
        self.settings = settings
        self.folder = folder
        self.root = root
        self.children: list[Child] = []

    def command(self, *arguments: str, **overrides: Any) -> Child:
        """A started `taskengine` command; `overrides` are settings of its own."""
        settings = Settings(
            **{name: getattr(self.settings, name) for name in self.settings.model_fields_set} | overrides
        )
        child = (_Quick if self.root == ROOT else Child)(
            f"{arguments[0]}-{len(self.children)}",
            [sys.executable, "-m", "taskengine", *arguments],
            self.folder / f"{arguments[0]}-{len(self.children)}.log",
            env=environment(settings, self.root),
            cwd=self.root,
        )
        self.children.append(child)
        child.start()
        return child

    def serve(self, target: str, *, wait: bool = True, **overrides: Any) -> tuple[Child, str]:
        """A front end that answers, and the URL of its endpoint."""
        port = overrides.setdefault("port", free_port())
        child = self.command("serve", target, **overrides)
        if wait:
            wait_until_ready(child)
        return child, f"http://127.0.0.1:{port}{self.settings.path}"

    def worker(self, target: str, *, wait: bool = True, **overrides: Any) -> Child:
        """A worker that takes tasks."""
        child = self.command("worker", target, **overrides)
        if wait:
            wait_until_ready(child)
        return child

    def kill_all(self) -> None:
        for child in self.children:
            child.kill()


@contextmanager
def deployed(services: Services, folder: Path, target: str, **settings: Any) -> Iterator[Processes]:
    """A worker over a database of its own, for the tests of a whole module: as the fixtures have it for one test."""
    url = services.create_database()
    own = Settings(
        database_url=SecretStr(url),
        broker_url=SecretStr(services.broker_url),
        namespace=f"t{secrets.token_hex(6)}",
        **{"linger": timedelta(0)} | settings,  # so that the number of attempts does not depend on the machine
    )
    started = Processes(own, folder)
    try:
        started.worker(target)
        yield started
    finally:
        started.kill_all()
        broken = asyncio.run(broken_invariants(url))
        services.drop_database(url)
    assert not broken, "the tests left the database with " + "; ".join(broken)


def wait_until_ready(child: Child, timeout_s: float = 30) -> None:
    """Its log says so. Raises AssertionError with the log when it ends, or takes longer than `timeout_s`."""
    wait_for_output(child, READY, timeout_s)


def wait_for_output(child: Child, text: str, timeout_s: float = 30) -> None:
    """`text` stands in what it has written since its last start."""
    deadline = time.monotonic() + timeout_s
    while text not in child.output():
        assert child.running, f"{child.name} ended with code {child.exit_code}:\n{child.output()}"
        assert time.monotonic() < deadline, f"{child.name} never wrote {text!r}:\n{child.output()}"
        time.sleep(0.02)


def _text(value: Any) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case timedelta():
            return f"{milliseconds(value)}ms"
        case list() | dict():
            return orjson.dumps(_plain(value)).decode()
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    match value:
        case list():
            return [_plain(each) for each in value]
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case BaseModel():
            return {name: _plain(getattr(value, name)) for name in value.model_fields_set}
        case _:
            return None if value is None else _text(value)
