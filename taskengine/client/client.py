"""Calls, whatever shape their answer takes: at once, after questions, or as a task that is followed to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Self

import httpx2

from taskengine.client.handle import OnProgress, OnQuestion, Task, follow
from taskengine.client.results import Outcome, QuestionFirst, Remote
from taskengine.client.revisions import negotiate, wire_of
from taskengine.client.transport import Auth, Http, OnNotification
from taskengine.client.wire import Call, Profile, Wire, patiently

__all__ = ["Client"]


class Client:
    """One server, whichever revision it speaks; `revision` names one instead of finding out.

    `capabilities` is what questions may be asked; default: forms. Give {} where nobody will ever answer: tools that
    ask then fail at once. With `tasks=False` calls are plain ones.

    While a task is watched the server may be away for `patience` (a restart, a deploy): the watching goes on. A task
    that is at work for longer than `listen_after` is followed by a stream where the server has one, and polled at
    the interval it suggests where not. An `http` client that is given is not closed.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: Auth | None = None,
        capabilities: Mapping[str, Any] | None = None,
        tasks: bool = True,
        revision: str | None = None,
        headers: Mapping[str, str] | None = None,
        http: httpx2.AsyncClient | None = None,
        name: str = "taskengine",
        version: str = "0",
        patience: timedelta = timedelta(minutes=1),
        listen_after: timedelta = timedelta(seconds=1),
    ) -> None:
        self.url = url
        self._http = Http(url, auth, headers or {}, http)
        asked = {"elicitation": {}} if capabilities is None else capabilities
        self._profile = Profile({"name": name, "version": version}, asked, tasks, patience, listen_after)
        self._known: Wire | None = None if revision is None else wire_of(revision, self._http, self._profile)
        self._finding_out = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the session, if there is one that no task needs, and the connections."""
        try:
            if self._known is not None:
                await self._known.close()
        finally:
            await self._http.close()

    async def revision(self) -> str:
        """The revision that is spoken. Raises RemoteError and ServerUnreachable."""
        return (await self._wire()).revision

    async def discover(self) -> dict[str, Any]:
        """What the server says of itself: `DiscoverResult`, or `InitializeResult` of the older revisions."""
        return await (await self._wire()).describe()

    async def list_tools(self) -> list[dict[str, Any]]:
        """Every tool, of all pages, as listed."""
        return await (await self._wire()).list_tools()

    async def list_tasks(self) -> list[Remote] | None:
        """The caller's tasks, without their results; None where the server has no such list, as on 2026-07-28."""
        return await (await self._wire()).list_tasks()

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        on_question: OnQuestion | None = None,
        on_task: Callable[[Remote], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Outcome:
        """Call the tool and see it to its end; `on_task` is told at once when the call became a task.

        Without `on_question` a call that asks something comes back as `input_required` with its questions. A tool's
        own error is an outcome with `is_error`. Raises RemoteError and ServerUnreachable. Giving up on the coroutine
        does not cancel a task: see `cancel`. A call is not sent again by itself once it may have begun; with an
        `idempotency_key` of its own it may be, by its caller: the server then gives the task of the first.
        """
        call = Call(name, dict(arguments or {}), on_progress, on_question, idempotency_key)
        begun = await (await self._wire()).begin(call)
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
        idempotency_key: str | None = None,
    ) -> Task:
        """Hand the call in; the task, which goes on by itself. A call that was quick is a task that has ended, and
        has no id. `on_question` answers what the tool asks before it begins, and `idempotency_key` is as for `call`.
        Raises QuestionFirst without somebody to answer, RemoteError and ServerUnreachable.
        """
        call = Call(name, dict(arguments or {}), on_progress, on_question, idempotency_key)
        begun = await (await self._wire()).begin(call)
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
        async with aclosing(self.changes(task_id, after=after)) as changes:
            return await follow(self, changes, on_progress, on_question)

    async def changes(self, task_id: str, *, after: Remote | None = None) -> AsyncGenerator[Remote, None]:
        """The task as often as it may have changed, ending with its last state. Raises RemoteError and
        ServerUnreachable."""
        wire = await patiently(self._wire, self._profile.patience)
        async with aclosing(wire.changes(task_id, after=after)) as changes:
            async for task in changes:
                yield task

    async def get(self, task_id: str) -> Remote:
        """The task now. Raises RemoteError when it is unknown or has expired."""
        return await (await self._wire()).get(task_id)

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Answer some of the task's questions, by key; waits for a server that is away. Raises RemoteError when one
        does not fit."""

        async def send() -> None:
            await (await self._wire()).answer(task_id, responses)

        await patiently(send, self._profile.patience)  # the first answer counts: it may be sent twice

    async def cancel(self, task_id: str) -> None:
        """Ask for the task's end; one that has ended stays as it is."""
        await (await self._wire()).cancel(task_id)

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
        """The result of any request, as the revision has it. Raises RemoteError and ServerUnreachable."""
        return await (await self._wire()).request(
            method, params, capabilities=capabilities, meta=meta, headers=headers, on_notification=on_notification
        )

    async def _wire(self) -> Wire:
        """Found out once; a server that was away is asked again."""
        if self._known is None:
            async with self._finding_out:
                if self._known is None:
                    self._known = await negotiate(self._http, self._profile)
        return self._known
