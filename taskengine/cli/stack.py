"""Everything one machine needs, as children of this process: embedded services, front end, workers.

`taskengine dev` and `taskengine demo` are this with a different face. Whatever dies is started again; what the
children log at `warning` and above is told.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from taskengine import running
from taskengine.children import Child
from taskengine.embedded import EmbeddedServices
from taskengine.errors import EngineError
from taskengine.settings import PREFIX, Settings
from taskengine.store import migrate
from taskengine.target import absolute

__all__ = ["ChildFailed", "Stack"]

READY = "taskengine ready"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_LONGEST_PAUSE_S = 30.0
_LOUD = re.compile(r"^\S+Z (WARNING|ERROR|CRITICAL)\s+(\S+?)\[\d+\] (.*)$")

Tell = Callable[[str, str], None]
"""Takes who speaks and what they say."""


class ChildFailed(EngineError):
    """A process ended before it was ready; `exit_code` is its own, `output` what it wrote."""

    def __init__(self, name: str, exit_code: int, output: str) -> None:
        super().__init__(name, exit_code, output)
        self.name, self.exit_code, self.output = name, exit_code, output

    def __str__(self) -> str:
        errors = [line.removeprefix("error: ") for line in self.output.splitlines() if line.startswith("error: ")]
        return "\n".join(errors) or f"the {self.name} ended with code {self.exit_code}:\n{self.output}"


@dataclass(slots=True)
class _Watched:
    child: Child
    ready: bool = False
    seen: int = 0
    """Characters of its output that were looked at."""
    failures: int = 0
    due: float = 0.0
    """When to start it again; 0: it runs."""
    loud: bool = field(default=False)
    """The last line was told, so a traceback that follows is too."""


class Stack:
    """As a context manager: entered, the services run and the schema is current; left, everything has stopped.

    `listens=False` leaves the front end out. What runs is announced in the data folder, for others to join.
    """

    def __init__(
        self,
        target: str,
        data_dir: Path,
        settings: Settings,
        *,
        workers: int = 1,
        listens: bool = True,
        kept: bool = False,
        tell: Tell,
    ) -> None:
        self.target = target
        self.services = EmbeddedServices(data_dir)
        self.settings = settings
        self.port = settings.port or _free_port(settings.host)
        self._workers = workers
        self._listens = listens
        self._kept = kept
        self._tell = tell
        self._children: list[_Watched] = []

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.settings.host in {"0.0.0.0", "::"} else self.settings.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{self.settings.path}"

    def __enter__(self) -> Self:
        self.services.__enter__()
        try:
            migrate.upgrade(self.services.database_url)
            self._announce(None)
        except BaseException:
            self.services.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running.withdraw(self.services.data_dir)
        self.stop_children()
        self.services.__exit__(kind, error, trace)

    def start_children(self) -> None:
        """Front end and workers are ready. Raises ChildFailed."""
        if self._listens:
            serve = ["serve", self.target, "--host", self.settings.host, "--port", str(self.port)]
            self._add("front end", "serve", serve)
        for number in range(1, self._workers + 1):
            name = "worker" if self._workers == 1 else f"worker {number}"
            self._add(name, name.replace(" ", "-"), ["worker", self.target])
        self.wait_until_ready()
        self._announce(self.url if self._listens else None)

    def wait_until_ready(self) -> None:
        """Every child has said that it does its work. Raises ChildFailed for one that ended instead."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(watched.ready for watched in self._children):
            for watched in self._children:
                self._read(watched)
                child = watched.child
                if not watched.ready and not child.running:
                    raise ChildFailed(child.name, child.exit_code or 0, child.output(30))
                if time.monotonic() > deadline:
                    raise ChildFailed(child.name, -1, f"not ready after {START_TIMEOUT_S:.0f} s\n{child.output(30)}")
            time.sleep(0.02)

    def tend(self) -> None:
        """One look at everything: tell what was logged, start again what died. Call it a few times a second."""
        for name, service in (("PostgreSQL", self.services.postgres), ("Valkey", self.services.valkey)):
            if not service.running:
                self._tell(name, "ended; it is started again")
                service.start()
        now = time.monotonic()
        for watched in self._children:
            self._read(watched)
            child = watched.child
            if watched.due:
                if now >= watched.due:
                    self._start(watched)
            elif not child.running:
                watched.failures = 0 if watched.ready else watched.failures + 1
                pause = min(_LONGEST_PAUSE_S, 2.0**watched.failures / 2)
                watched.due = now + pause
                why = str(ChildFailed(child.name, child.exit_code or 0, child.output(8)))
                self._tell(child.name, f"{why}\nit is started again in {pause:g} s")

    def restart_children(self) -> None:
        """New processes on the code as it is now. One that cannot start is told by `tend`, and tried again."""
        self._stop(self._children)
        for watched in self._children:
            watched.failures = 0
            self._start(watched)

    def stop_children(self, *, at_once: bool = False) -> None:
        """They have ended, tasks that ran go on at the next start."""
        self._stop(self._children, at_once=at_once)
        self._children.clear()

    def _announce(self, url: str | None) -> None:
        own = running.Running(
            os.getpid(),
            absolute(self.target),
            self.services.database_url,
            self.services.broker_url,
            url,
            self._kept,
        )
        running.announce(self.services.data_dir, own)

    def _add(self, name: str, log: str, arguments: list[str]) -> None:
        watched = _Watched(
            Child(
                name,
                [sys.executable, "-m", "taskengine", *arguments],
                self.services.data_dir / "logs" / f"{log}.log",
                env=self._environment(),
            )
        )
        self._start(watched)
        self._children.append(watched)

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            f"{PREFIX}DATABASE_URL": self.services.database_url,
            f"{PREFIX}BROKER_URL": self.services.broker_url,
            f"{PREFIX}DRAIN_GRACE": os.environ.get(f"{PREFIX}DRAIN_GRACE", "2s"),
            f"{PREFIX}SHUTDOWN_GRACE": os.environ.get(f"{PREFIX}SHUTDOWN_GRACE", "1s"),
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
        }

    def _start(self, watched: _Watched) -> None:
        watched.ready, watched.seen, watched.due = False, 0, 0.0
        watched.child.start()

    def _stop(self, children: list[_Watched], *, at_once: bool = False) -> None:
        for watched in children:
            if watched.child.running:
                watched.child.send(watched.child.stop_signal)
        deadline = time.monotonic() + (0 if at_once else STOP_TIMEOUT_S)
        for watched in children:
            try:
                watched.child.wait(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                watched.child.kill()

    def _read(self, watched: _Watched) -> None:
        output = watched.child.output()
        end = output.rfind("\n") + 1
        for line in output[watched.seen : end].splitlines():
            if READY in line:
                watched.ready, watched.failures = True, 0
            found = _LOUD.match(line)
            if found:
                self._tell(watched.child.name, found[3])
            elif watched.loud and line.startswith("    "):
                self._tell(watched.child.name, line)
            watched.loud = bool(found) or (watched.loud and line.startswith("    "))
        watched.seen = max(watched.seen, end)


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
