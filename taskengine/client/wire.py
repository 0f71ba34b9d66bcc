"""What a client needs of a revision of the protocol: each is one module that only translates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from taskengine.client.handle import OnProgress, OnQuestion, Source, tell
from taskengine.client.results import Outcome, Progress, Remote, RemoteError, ServerUnreachable
from taskengine.client.transport import OnNotification
from taskengine.wire.meta import IDEMPOTENCY_KEY

__all__ = ["Call", "Profile", "Wire", "patiently", "telling"]

INTERNAL_ERROR = -32603
"""What a front end answers while its database is away."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Profile:
    """How a client presents itself, and how long it waits."""

    info: Mapping[str, str]
    capabilities: Mapping[str, Any]
    """What may be asked, now or later."""
    tasks: bool
    patience: timedelta
    listen_after: timedelta


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: Mapping[str, Any]
    on_progress: OnProgress | None
    on_question: OnQuestion | None
    key: str | None = None
    """Makes its repetition the same call."""

    @property
    def meta(self) -> dict[str, Any]:
        """The `_meta` that asks for progress, where it is wanted, and holds the key, where there is one."""
        meta = {} if self.on_progress is None else {"progressToken": f"{self.name}-{time.monotonic_ns()}"}
        return meta if self.key is None else {**meta, IDEMPOTENCY_KEY: self.key}


class Wire(Source, Protocol):
    """One server by one revision."""

    revision: str

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        capabilities: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        on_notification: OnNotification | None = None,
    ) -> dict[str, Any]:
        """The result of any request. Raises RemoteError and ServerUnreachable."""
        ...

    async def describe(self) -> dict[str, Any]:
        """What the server says of itself."""
        ...

    async def list_tools(self) -> list[dict[str, Any]]:
        """Every tool, of all pages."""
        ...

    async def list_tasks(self) -> list[Remote] | None:
        """The caller's tasks; None where the protocol has no way to ask."""
        ...

    async def begin(self, call: Call) -> Remote | Outcome:
        """The task that the call became, or its outcome."""
        ...

    async def close(self) -> None:
        """Nothing more will be asked."""
        ...


async def patiently(ask: Callable[[], Awaitable[T]], patience: timedelta) -> T:
    """What `ask` gives, asked again while the server is away for up to `patience`; for what may be asked twice."""
    deadline = time.monotonic() + patience.total_seconds()
    pause_s = 0.1
    while True:
        try:
            return await ask()
        except ServerUnreachable as error:
            refused = error.status is not None and 400 <= error.status < 500 and error.status not in {408, 425, 429}
            if refused or time.monotonic() + pause_s > deadline:
                raise
        except RemoteError as error:
            if error.code != INTERNAL_ERROR or error.task_id is not None or time.monotonic() + pause_s > deadline:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 2.0)


def telling(on_progress: OnProgress | None) -> OnNotification:
    """Passes on the progress among the notifications of a call."""

    async def notified(method: str, params: Mapping[str, Any]) -> None:
        done, total = params.get("progress"), params.get("total")
        if method == "notifications/progress" and isinstance(done, (int, float)):
            whole = total if isinstance(total, (int, float)) else None
            await tell(on_progress, Progress(params.get("message"), done, whole))

    return notified
