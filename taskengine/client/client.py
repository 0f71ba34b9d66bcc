"""Calls, whatever shape their answer takes: at once, after questions, or as a task that is followed to its end."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Self

import httpx2

from taskengine.client.handle import OnProgress, OnQuestion, Task, answers_to, follow, tell
from taskengine.client.listening import Listener
from taskengine.client.results import (
    Outcome,
    Progress,
    QuestionFirst,
    Remote,
    RemoteError,
    ServerUnreachable,
    questions_of,
)
from taskengine.client.transport import OnNotification, Transport, header_value
from taskengine.lifecycle import Status

__all__ = ["Auth", "Client"]

TASKS = "io.modelcontextprotocol/tasks"
HEADER_MISMATCH = -32020
INTERNAL_ERROR = -32603
"""What a front end answers while its database is away."""

Auth = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or what gives one; it is asked before each request, so it may renew the token."""


class Client:
    """One server. `capabilities` is what questions may be asked; default: form elicitation for calls that have an
    `on_question`, and for those handed in with `submit`. With `tasks=False` the client does not declare the tasks
    extension.

    While a task is watched the server may be away for `patience` (a restart, a deploy): the watching goes on. A task
    that is at work for longer than `listen_after` is followed by a stream where the server has one, and polled at
    the interval it suggests where not.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: Auth | None = None,
        capabilities: Mapping[str, Any] | None = None,
        tasks: bool = True,
        headers: Mapping[str, str] | None = None,
        http: httpx2.AsyncClient | None = None,
        name: str = "taskengine",
        version: str = "0",
        patience: timedelta = timedelta(minutes=1),
        listen_after: timedelta = timedelta(seconds=1),
    ) -> None:
        self.url = url
        self._auth = auth
        self._capabilities = capabilities
        self._tasks = tasks
        self._headers = dict(headers or {})
        self._patience = patience
        # A call may be answered hours later on its own stream; keep-alives bound the silence.
        http = http or httpx2.AsyncClient(timeout=httpx2.Timeout(10, read=120))
        self._transport = Transport(url, http, {"name": name, "version": version})
        self._parameters: dict[str, dict[tuple[str, ...], str]] | None = None
        self._listener = Listener(self.request, listen_after)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._transport.__aexit__(*exception)

    async def discover(self) -> dict[str, Any]:
        """`DiscoverResult`: versions, capabilities, instructions."""
        return await self.request("server/discover", {})

    async def list_tools(self) -> list[dict[str, Any]]:
        """Every tool, of all pages, as listed."""
        tools: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self.request("tools/list", {} if cursor is None else {"cursor": cursor})
            tools += page["tools"]
            cursor = page.get("nextCursor")
            if cursor is None:  # an empty cursor is one too (M-PAGE-04)
                break
        self._parameters = {tool["name"]: _header_parameters(tool.get("inputSchema") or {}) for tool in tools}
        return tools

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        on_question: OnQuestion | None = None,
        on_task: Callable[[Remote], None] | None = None,
    ) -> Outcome:
        """Call the tool and see it to its end; `on_task` is told at once when the call became a task.

        Without `on_question` a call that asks something comes back as `input_required` with its questions. A tool's
        own error is an outcome with `is_error`. Raises RemoteError and ServerUnreachable. Giving up on the coroutine
        does not cancel a task: see `cancel`.
        """
        asking: dict[str, Any] = {"elicitation": {}} if on_question is not None else {}
        begun = await self._begin(name, arguments, asking, on_progress, on_question)
        if isinstance(begun, Outcome):
            return begun
        if on_task is not None:
            on_task(begun)
        return await self.wait(begun.id, after=begun, on_progress=on_progress, on_question=on_question)

    async def submit(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        on_question: OnQuestion | None = None,
    ) -> Task:
        """Hand the call in; the task, which goes on by itself. A call that was quick is a task that has ended, and
        has no id. `on_question` answers what the tool asks before it begins. Raises QuestionFirst without it,
        RemoteError and ServerUnreachable.
        """
        begun = await self._begin(name, arguments, {"elicitation": {}}, on_progress, on_question)
        if isinstance(begun, Remote):
            return Task(self, begun.id, begun)
        if begun.questions:
            raise QuestionFirst(name, begun.questions)
        return Task(self, None, Remote.ended(begun))

    def task(self, task_id: str) -> Task:
        """The task of that id, which any process of the same caller may have begun. Nothing is asked yet."""
        return Task(self, task_id)

    async def wait(
        self,
        task_id: str,
        *,
        after: Remote | None = None,
        on_progress: OnProgress | None = None,
        on_question: OnQuestion | None = None,
    ) -> Outcome:
        """See the task to its end, answering what it asks (M-TASK-78).

        Raises RemoteError when the task failed or is not known.
        """
        return await follow(self, self.changes(task_id, after=after), on_progress, on_question)

    async def changes(self, task_id: str, *, after: Remote | None = None) -> AsyncIterator[Remote]:
        """The task as often as it may have changed, ending with its last state: by a stream where there is one, and
        else by polls at the server's interval (M-TASK-76). Raises RemoteError and ServerUnreachable."""
        task = after
        began = time.monotonic()
        while task is None or not task.terminal:
            if task is not None:
                pause_s, due_in_s = task.poll_interval.total_seconds(), self._listener.due_in_s(began)
                heard = False
                if due_in_s <= pause_s:
                    await asyncio.sleep(due_in_s)
                    async for task in self._listener.hear(task_id):
                        heard = True
                        yield task
                        if task.terminal:
                            return
                if not heard:
                    await asyncio.sleep(pause_s)
            task = await self._patiently(task_id)
            yield task

    async def get(self, task_id: str) -> Remote:
        """The task now. Raises RemoteError when it is unknown or has expired."""
        return Remote.parse(await self.request("tasks/get", {"taskId": task_id}))

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Answer some of the task's questions, by key. Raises RemoteError when one does not fit."""
        await self.request("tasks/update", {"taskId": task_id, "inputResponses": dict(responses)})

    async def cancel(self, task_id: str) -> None:
        """Ask for the task's end; one that has ended stays as it is."""
        await self.request("tasks/cancel", {"taskId": task_id})

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
        declared = dict(self._capabilities or {} if capabilities is None else capabilities)
        if self._tasks:
            declared["extensions"] = {**declared.get("extensions", {}), TASKS: {}}
        result = await self._transport.request(
            method,
            params,
            capabilities=declared,
            meta=meta,
            headers=self._headers | await self._authorization() | dict(headers or {}),
            on_notification=on_notification,
        )
        if result.get("resultType") == "task" and method != "tools/call":
            raise ServerUnreachable(self.url, f"a task is no answer to {method}")  # M-TASK-75
        return result

    async def _authorization(self) -> dict[str, str]:
        if self._auth is None:
            return {}
        token = self._auth if isinstance(self._auth, str) else self._auth()
        return {"Authorization": f"Bearer {await token if inspect.isawaitable(token) else token}"}

    async def _begin(
        self,
        name: str,
        arguments: Mapping[str, Any] | None,
        asking: Mapping[str, Any],
        on_progress: OnProgress | None,
        on_question: OnQuestion | None,
    ) -> Remote | Outcome:
        """The task that the call became, or its outcome; all rounds of questions before it are behind it."""
        params: dict[str, Any] = {"name": name, "arguments": dict(arguments or {})}
        answers: dict[str, Any] = {}
        while True:
            result = await self._call_once(name, params | answers, asking, on_progress)
            match result.get("resultType", "complete"):
                case "task":
                    return Remote.parse(result)
                case "input_required":
                    questions = questions_of(result)
                    if questions and on_question is None:
                        return Outcome(Status.INPUT_REQUIRED, {}, questions=questions)
                    if not questions:  # the server only asks for a little time (M-MRTR-21)
                        await asyncio.sleep(1)
                    answers = {}
                    if on_question is not None:
                        answers = {"inputResponses": await answers_to(questions, on_question)}
                    if "requestState" in result:  # M-MRTR-22: as it came, and only on the retry
                        answers["requestState"] = result["requestState"]
                case _:
                    return Outcome(Status.COMPLETED, result)

    async def _call_once(
        self, name: str, params: Mapping[str, Any], asking: Mapping[str, Any], on_progress: OnProgress | None
    ) -> dict[str, Any]:
        async def notified(method: str, notification: Mapping[str, Any]) -> None:
            if method == "notifications/progress":
                progress = Progress(notification.get("message"), notification["progress"], notification.get("total"))
                await tell(on_progress, progress)

        capabilities = asking if self._capabilities is None else self._capabilities
        meta = {"progressToken": f"{name}-{time.monotonic_ns()}"} if on_progress is not None else None

        async def send() -> dict[str, Any]:
            mirrored = _mirrored((self._parameters or {}).get(name, {}), params["arguments"])
            return await self.request(
                "tools/call", params, capabilities=capabilities, meta=meta, headers=mirrored, on_notification=notified
            )

        try:
            return await send()
        except RemoteError as error:
            if error.code != HEADER_MISMATCH or self._parameters is not None:
                raise
        await self.list_tools()  # the tool's schema says which arguments are to be repeated as headers (M-HDR-13)
        return await send()

    async def _patiently(self, task_id: str) -> Remote:
        deadline = time.monotonic() + self._patience.total_seconds()
        pause_s = 0.1
        while True:
            try:
                return await self.get(task_id)
            except ServerUnreachable:
                if time.monotonic() + pause_s > deadline:
                    raise
            except RemoteError as error:
                if error.code != INTERNAL_ERROR or time.monotonic() + pause_s > deadline:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)


def _header_parameters(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Where the arguments lie that are repeated as `Mcp-Param-<name>`, with that name."""
    found: dict[tuple[str, ...], str] = {}
    for name, subschema in (schema.get("properties") or {}).items():
        if not isinstance(subschema, Mapping):
            continue
        if "x-mcp-header" in subschema:
            found[*path, name] = subschema["x-mcp-header"]
        found |= _header_parameters(subschema, (*path, name))
    return found


def _mirrored(parameters: Mapping[tuple[str, ...], str], arguments: Mapping[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for path, name in parameters.items():
        value: Any = arguments
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:  # absent and null arguments have no header (M-HDR-19)
            text = str(value).lower() if isinstance(value, bool) else str(value)
            headers[f"Mcp-Param-{name}"] = header_value(text)
    return headers
