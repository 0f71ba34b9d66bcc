"""Following a task by `subscriptions/listen`: one stream per task, for as long as it lasts."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from taskengine.client.results import Remote, RemoteError, ServerUnreachable

__all__ = ["Listener"]

MOST_STREAMS = 50
"""Of one client; the tasks beyond are polled, so that connections are left for everything else."""
SHORTEST_STREAM_S = 2.0
"""A stream that ends sooner is not worth opening again at once."""
LONGEST_PAUSE_S = 60.0
"""Between two tries where streams have told nothing."""
FIRST_S = 10.0
"""A stream that has not begun by then is kept back somewhere on its way."""
LOOK_AGAIN_S = 30.0
"""However quiet a stream is, the task is looked at so often."""
METHOD_NOT_FOUND = -32601


class Listener:
    """Whether the server of a client can be listened to, and the streams that do."""

    def __init__(self, request: Callable[..., Awaitable[dict[str, Any]]], after: timedelta) -> None:
        self._request = request
        self._after_s = after.total_seconds()
        self._streams = 0
        self._not_before = 0.0
        self._pause_s = SHORTEST_STREAM_S

    def due_in_s(self, began: float) -> float:
        """Seconds until a task that is watched since `began` (monotonic) should have a stream; infinite for never."""
        if self._streams >= MOST_STREAMS:
            return math.inf
        return max(0.0, max(began + self._after_s, self._not_before) - time.monotonic())

    async def hear(self, task_id: str) -> AsyncGenerator[Remote, None]:
        """The task as it is when the stream has begun, and each change of it; ends when the stream does or is silent
        for long, and at once where there is none. Raises nothing: what was missed is for a poll to find (M-SUB-14)."""
        heard: asyncio.Queue[Remote | None] = asyncio.Queue()
        opened = time.monotonic()
        streaming = asyncio.create_task(self._stream(task_id, heard))
        self._streams += 1
        told = 0
        try:
            with suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(LOOK_AGAIN_S if told else FIRST_S):
                        task = await heard.get()
                    if task is None:
                        break
                    told += 1
                    yield task
        finally:
            self._streams -= 1
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
            if time.monotonic() - opened < SHORTEST_STREAM_S or not told:
                self._not_before = max(self._not_before, opened + self._pause_s)
            self._pause_s = SHORTEST_STREAM_S if told > 1 else min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _stream(self, task_id: str, heard: asyncio.Queue[Remote | None]) -> None:
        async def notified(method: str, params: Mapping[str, Any]) -> None:
            if method == "notifications/subscriptions/acknowledged":
                if task_id not in (params.get("notifications") or {}).get("taskIds", ()):
                    raise _NotHonoured
                # What happened before the stream is not on it.
                heard.put_nowait(Remote.parse(await self._request("tasks/get", {"taskId": task_id})))
            elif method == "notifications/tasks" and params.get("taskId") == task_id:
                heard.put_nowait(Remote.parse(params))

        try:
            # What is not understood on a stream is for a poll to complain of.
            with suppress(ServerUnreachable, ValueError, _NotHonoured):
                await self._request(
                    "subscriptions/listen", {"notifications": {"taskIds": [task_id]}}, on_notification=notified
                )
        except RemoteError as error:
            if error.code == METHOD_NOT_FOUND:
                self._not_before = math.inf
        finally:
            heard.put_nowait(None)


class _NotHonoured(Exception):
    """The server does not report on this task."""
