"""Calls, whatever shape their answer takes: at once, after questions, or as a task that is polled to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Self

import httpx2

from taskengine.client.results import Outcome, Progress, Remote, RemoteError, ServerUnreachable, questions_of
from taskengine.client.transport import OnNotification, Transport, header_value
from taskengine.lifecycle import Status
from taskengine.records import Question

__all__ = ["Client", "OnProgress", "OnQuestion"]

TASKS = "io.modelcontextprotocol/tasks"
HEADER_MISMATCH = -32020
INTERNAL_ERROR = -32603
"""What a front end answers while its database is away."""

OnProgress = Callable[[Progress], Awaitable[None] | None]
OnQuestion = Callable[[Question], Awaitable[Mapping[str, Any]] | Mapping[str, Any]]
"""Answers with an `ElicitResult` ({"action": "accept", "content": {…}}), `CreateMessageResult` or `ListRootsResult`.
"""


class Client:
    """One server. `capabilities` is what questions may be asked; default: form elicitation for calls that have an
    `on_question`. With `tasks=False` the client does not declare the tasks extension.

    While a task is watched the server may be away for `patience` (a restart, a deploy): polling goes on.
    """

    def __init__(
        self,
        url: str,
        *,
        capabilities: Mapping[str, Any] | None = None,
        tasks: bool = True,
        headers: Mapping[str, str] | None = None,
        http: httpx2.AsyncClient | None = None,
        name: str = "taskengine",
        version: str = "0",
        patience: timedelta = timedelta(minutes=1),
    ) -> None:
        self.url = url
        self._capabilities = capabilities
        self._tasks = tasks
        self._headers = dict(headers or {})
        self._patience = patience
        # A call may be answered hours later on its own stream; keep-alives bound the silence.
        http = http or httpx2.AsyncClient(timeout=httpx2.Timeout(10, read=120))
        self._transport = Transport(url, http, {"name": name, "version": version})
        self._parameters: dict[str, dict[tuple[str, ...], str]] | None = None

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
        params: dict[str, Any] = {"name": name, "arguments": dict(arguments or {})}
        answers: dict[str, Any] = {}
        while True:
            result = await self._call_once(name, params | answers, on_progress, on_question)
            match result.get("resultType", "complete"):
                case "task":
                    task = Remote.parse(result)
                    if on_task is not None:
                        on_task(task)
                    return await self.wait(task.id, after=task, on_progress=on_progress, on_question=on_question)
                case "input_required":
                    questions = questions_of(result)
                    if questions and on_question is None:
                        return Outcome(Status.INPUT_REQUIRED, {}, questions=questions)
                    if not questions:  # the server only asks for a little time (M-MRTR-21)
                        await asyncio.sleep(1)
                    answers = {} if on_question is None else {"inputResponses": await _answers(questions, on_question)}
                    if "requestState" in result:  # M-MRTR-22: as it came, and only on the retry
                        answers["requestState"] = result["requestState"]
                case _:
                    return Outcome(Status.COMPLETED, result)

    async def wait(
        self,
        task_id: str,
        *,
        after: Remote | None = None,
        on_progress: OnProgress | None = None,
        on_question: OnQuestion | None = None,
    ) -> Outcome:
        """Poll at the server's interval until the task ends, answering what it asks (M-TASK-76, M-TASK-78).

        Raises RemoteError when the task failed or is not known.
        """
        task = after
        answered: set[str] = set()
        while task is None or not task.terminal:
            if task is not None:
                await asyncio.sleep(task.poll_interval.total_seconds())
            task = await self._patiently(task_id)
            if task.message is not None and task.status is Status.WORKING:
                await _tell(on_progress, Progress(task.message))
            open_questions = [question for question in task.questions if question.key not in answered]
            if open_questions and on_question is None:
                return Outcome(Status.INPUT_REQUIRED, {}, task_id, task.questions)
            for question in open_questions:
                assert on_question is not None
                await self.answer(task_id, await _answers((question,), on_question))
                answered.add(question.key)
        if task.error is not None:
            raise RemoteError(task.error["code"], task.error["message"], task.error.get("data"), task_id)
        return Outcome(task.status, task.result or {}, task_id)

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
        return await self._transport.request(
            method,
            params,
            capabilities=declared,
            meta=meta,
            headers=self._headers | dict(headers or {}),
            on_notification=on_notification,
        )

    async def _call_once(
        self,
        name: str,
        params: Mapping[str, Any],
        on_progress: OnProgress | None,
        on_question: OnQuestion | None,
    ) -> dict[str, Any]:
        async def notified(method: str, notification: Mapping[str, Any]) -> None:
            if method == "notifications/progress":
                progress = Progress(notification.get("message"), notification["progress"], notification.get("total"))
                await _tell(on_progress, progress)

        asking: dict[str, Any] = {"elicitation": {}} if on_question is not None else {}
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


async def _answers(questions: tuple[Question, ...], on_question: OnQuestion) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for question in questions:
        answer = on_question(question)
        answers[question.key] = dict(answer if isinstance(answer, Mapping) else await answer)
    return answers


async def _tell(on_progress: OnProgress | None, progress: Progress) -> None:
    if on_progress is not None:
        told = on_progress(progress)
        if told is not None:
            await told


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
