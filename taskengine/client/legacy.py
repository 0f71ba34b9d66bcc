"""Revision 2025-11-25 with its core tasks, and the older ones that have none.

A task is polled; its questions come on the stream of `tasks/result` (L-TASK-68), and `asked` knows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from taskengine.client.asked import Asked, State, asked_by
from taskengine.client.handle import OnQuestion, answers_to
from taskengine.client.results import Outcome, Remote, RemoteError, ServerUnreachable
from taskengine.client.session import LATEST, Opened, Session
from taskengine.client.transport import Http, OnNotification
from taskengine.client.wire import Call, Profile, patiently, telling
from taskengine.lifecycle import Status
from taskengine.records import Question

__all__ = ["Legacy"]

INVALID_PARAMS = -32602
METHOD_NOT_FOUND = -32601
SESSION_GONE = 404
RELATED = "io.modelcontextprotocol/related-task"
ASKED_WITHIN_S = 5.0
"""How long a waiting task's questions are waited for: another stream may have them."""
SETTLED_S = 0.2
"""Questions that belong together come within this time."""


class Legacy:
    def __init__(self, http: Http, profile: Profile, version: str = LATEST) -> None:
        self.revision = version
        self._profile = profile
        self._session = Session(http, profile, version)
        self._support: dict[str, str] | None = None
        """What the tools say of tasks, by name."""
        self._asked: dict[str, Asked] = {}
        self._open_tasks: set[str] = set()

    async def connect(self) -> Opened:
        """Begin the session. Raises RemoteError and ServerUnreachable."""
        opened = await self._session.opened()
        self.revision = opened.version
        return opened

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        capabilities: Mapping[str, Any] | None = None,  # noqa: ARG002 (the session's hold)
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        on_notification: OnNotification | None = None,
    ) -> dict[str, Any]:
        whole = dict(params) if not meta else {**params, "_meta": {**params.get("_meta", {}), **meta}}
        return await self._session.request(method, whole, headers=headers, on_notification=on_notification)

    async def describe(self) -> dict[str, Any]:
        return dict((await self.connect()).result)

    async def list_tools(self) -> list[dict[str, Any]]:
        tools = await self._pages("tools/list", "tools")
        self._support = {
            tool["name"]: str((tool.get("execution") or {}).get("taskSupport", "forbidden")) for tool in tools
        }
        return tools

    async def list_tasks(self) -> list[Remote] | None:
        if not (await self.connect()).offers("tasks", "list"):
            return None
        return [self._parsed(task) for task in await self._pages("tasks/list", "tasks")]

    async def begin(self, call: Call) -> Remote | Outcome:
        fresh = self._support is None
        while True:
            augmented = await self._makes_task(call.name)
            try:
                if augmented:
                    return await self._begin_task(call)
                return await self._call_inline(call)
            except RemoteError as error:
                # Refused before it began: the tool may have changed its mind since it was listed.
                if error.code != METHOD_NOT_FOUND or fresh or not self._profile.tasks:
                    raise
            await self.list_tools()
            fresh = True
            if await self._makes_task(call.name) == augmented:
                raise RemoteError(METHOD_NOT_FOUND, f"the server refuses {call.name}")

    async def get(self, task_id: str) -> Remote:
        task = await self._read(task_id)
        if task.status is not Status.INPUT_REQUIRED:
            return task
        asked, mine = self._asked_of(task_id)
        try:
            await self._hear(task_id, asked)
            return replace(task, questions=asked.open())
        finally:
            if mine:
                await asked.leave()

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        opened = await self.connect()
        try:
            await self._respond(opened, task_id, responses)
        except ServerUnreachable as error:
            if error.status != SESSION_GONE or opened.id is None:
                raise
            # What was asked is asked again in a new session (L-SESS-13).
            await self._respond(await self._session.opened(instead_of=opened), task_id, responses)

    async def _respond(self, opened: Opened, task_id: str, responses: Mapping[str, Any]) -> None:
        asked = self._asked.get(task_id)
        if asked is not None and asked.opened is not opened:
            await asked.leave()
        if asked is None or any(key not in asked.entries for key in responses) or asked.opened is not opened:
            await self.get(task_id)  # it asks again, in this session
            asked, _ = self._asked_of(task_id)
        unknown = [key for key in responses if key not in asked.entries]
        if unknown:
            there = ", ".join(asked.entries) or "nothing now"
            raise RemoteError(INVALID_PARAMS, f"the task does not ask {', '.join(unknown)}; it asks {there}")
        for key, response in responses.items():
            entry = asked.entries[key]
            try:
                await self._session.respond(opened, entry.request_id, {"result": dict(response)})
            except RemoteError:
                entry.state = State.REFUSED
                raise
            entry.state = State.ANSWERED

    async def cancel(self, task_id: str) -> None:
        try:
            await self._session.request("tasks/cancel", {"taskId": task_id})
        except RemoteError as error:
            if error.code != INVALID_PARAMS or not (await self._poll(task_id)).terminal:
                raise  # one that has ended stays as it is, which is refused here (L-TASK-52)
        self._open_tasks.discard(task_id)

    async def changes(self, task_id: str, *, after: Remote | None = None) -> AsyncGenerator[Remote, None]:
        """By polls at the server's interval, and while the task waits by the stream that its questions come on."""
        asked, mine = self._asked_of(task_id)
        task = after
        try:
            while True:
                if task is not None and not task.terminal:
                    await asked.news_within(task.poll_interval.total_seconds())
                task = await patiently(lambda: self._read(task_id), self._profile.patience)
                if task.status is Status.INPUT_REQUIRED:
                    await self._hear(task_id, asked)
                elif mine:
                    await asked.leave()
                yield replace(task, questions=asked.open() if task.status is Status.INPUT_REQUIRED else ())
                if task.terminal:
                    return
        finally:
            if mine:
                await asked.leave()
            if task is not None and task.terminal:
                self._asked.pop(task_id, None)

    async def close(self) -> None:
        for asked in list(self._asked.values()):
            await asked.leave()
        # A session that is ended may take with it what its tasks would still ask.
        self._session.keeps = bool(self._open_tasks)
        await self._session.close()

    # calls

    async def _makes_task(self, name: str) -> bool:
        """L-TASK-67. Of a tool that may be a task or not, a task is made."""
        if not self._profile.tasks or not (await self.connect()).offers("tasks", "requests", "tools", "call"):
            return False
        if self._support is None:
            await self.list_tools()
        return (self._support or {}).get(name) in {"optional", "required"}

    async def _begin_task(self, call: Call) -> Remote | Outcome:
        params = {**_params(call), "task": {}}
        result = await self._session.request("tools/call", params, on_notification=telling(call.on_progress))
        if not isinstance(result.get("task"), Mapping):  # the augmentation was ignored (L-TASK-03)
            return Outcome(Status.COMPLETED, result)
        task = self._parsed(result["task"])
        self._open_tasks.add(task.id)
        return task

    async def _call_inline(self, call: Call) -> Outcome:
        """Its questions are put on its stream. One that nobody can answer ends the call, which is then given up."""
        asking: set[asyncio.Task[None]] = set()

        async def put(question: Question, request_id: Any, on_question: OnQuestion) -> None:
            opened = await self._session.opened()  # which may have been begun for this call (L-SESS-13)
            answers = await answers_to((question,), on_question)
            await self._session.respond(opened, request_id, {"result": answers[question.key]})

        try:
            async with asyncio.TaskGroup() as group:

                def take(message: Mapping[str, Any]) -> None:
                    question = asked_by(message)
                    if call.on_question is None:
                        raise _NobodyAnswers(question)
                    asking.add(group.create_task(put(question, message["id"], call.on_question)))

                result = await self._session.request(
                    "tools/call",
                    _params(call),
                    on_notification=telling(call.on_progress),
                    on_request=take,
                    cancels=True,
                )
                for each in asking:  # answered elsewhere, or not needed any more
                    each.cancel()
        except BaseExceptionGroup as group_error:
            first = group_error.exceptions[0]
            if isinstance(first, _NobodyAnswers):
                return Outcome(Status.INPUT_REQUIRED, {}, questions=(first.question,))
            raise first from None
        return Outcome(Status.COMPLETED, result)

    # tasks

    async def _read(self, task_id: str) -> Remote:
        """The task with what it ended with."""
        task = await self._poll(task_id)
        if not task.terminal:
            self._open_tasks.add(task_id)
            return task
        self._open_tasks.discard(task_id)
        if task.status is Status.CANCELLED:
            return task
        try:
            result = await self._session.request("tasks/result", {"taskId": task_id})
        except RemoteError as error:
            if task.status is not Status.FAILED:
                raise
            failure = {"code": error.code, "message": error.message}
            return replace(task, error=failure if error.data is None else {**failure, "data": error.data})
        # A result that says isError is a tool's own error, which is a failed task only here (L-TASK-29).
        return replace(task, status=Status.COMPLETED, result=_without_relation(result))

    async def _poll(self, task_id: str) -> Remote:
        return self._parsed(await self._session.request("tasks/get", {"taskId": task_id}))

    def _asked_of(self, task_id: str) -> tuple[Asked, bool]:
        """What the task has asked here, and whether nobody else is watching it."""
        asked = self._asked.get(task_id)
        if asked is None:
            asked = self._asked[task_id] = Asked()
        return asked, asked.stream is None

    async def _hear(self, task_id: str, asked: Asked) -> None:
        """Something is asked on the task's stream, which is opened when it is not, or nothing is for a while."""
        if asked.stream is None or asked.stream.done():
            asked.begin(await self.connect())
            asked.stream = asyncio.create_task(self._listen(task_id, asked))
        if any(entry.stream == asked.streams for entry in asked.entries.values()):
            return
        if await asked.news_within(ASKED_WITHIN_S):
            while not asked.stream.done() and await asked.news_within(SETTLED_S):
                pass

    async def _listen(self, task_id: str, asked: Asked) -> None:
        async def notified(method: str, params: Mapping[str, Any]) -> None:
            if method == "notifications/cancelled":  # it needs no answer any more
                asked.withdraw(params.get("requestId"))

        try:
            with suppress(RemoteError, ServerUnreachable):  # a poll will say
                await self._session.request(
                    "tasks/result",
                    {"taskId": task_id},
                    on_notification=notified,
                    on_request=asked.take,
                    cancels=True,
                )
        finally:
            asked.news.set()

    async def _pages(self, method: str, member: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: Any = None
        seen: list[Any] = []
        while True:
            page = await self._session.request(method, {} if cursor is None else {"cursor": cursor})
            found += page.get(member) or []
            cursor = page.get("nextCursor")
            if cursor is None or cursor == "":  # X-PAGE-05
                return found
            if cursor in seen:
                raise ServerUnreachable(self._session.url, f"{method} never ends: it gave a cursor twice")
            seen.append(cursor)

    def _parsed(self, wire: Mapping[str, Any]) -> Remote:
        try:
            return Remote.parse(wire, "pollInterval")
        except ValueError as error:
            raise ServerUnreachable(self._session.url, f"it speaks of {error}") from None


class _NobodyAnswers(Exception):
    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self.question = question


def _params(call: Call) -> dict[str, Any]:
    params: dict[str, Any] = {"name": call.name, "arguments": dict(call.arguments)}
    meta = call.meta
    return {**params, "_meta": meta} if meta else params


def _without_relation(result: Mapping[str, Any]) -> dict[str, Any]:
    meta = {name: value for name, value in (result.get("_meta") or {}).items() if name != RELATED}
    kept = {name: value for name, value in result.items() if name != "_meta"}
    return {**kept, "_meta": meta} if meta else kept
