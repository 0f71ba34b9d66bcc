"""A call that was handed in: asked, followed, answered and cancelled by whoever holds its id, in any process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Protocol

from taskengine.client.results import Outcome, Progress, Remote, error_of
from taskengine.lifecycle import Status
from taskengine.records import Question

__all__ = ["OnProgress", "OnQuestion", "Source", "Task", "answers_to", "follow", "tell"]

OnProgress = Callable[[Progress], Awaitable[None] | None]
OnQuestion = Callable[[Question], Awaitable[Mapping[str, Any]] | Mapping[str, Any]]
"""Answers with an `ElicitResult` ({"action": "accept", "content": {…}}), `CreateMessageResult` or `ListRootsResult`.
"""


class Source(Protocol):
    """Where tasks are: a server, or a database at hand."""

    async def get(self, task_id: str) -> Remote:
        """The task now. Raises RemoteError when it is unknown or has expired."""
        ...

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Answer some of its questions, by key. Raises RemoteError when one does not fit."""
        ...

    async def cancel(self, task_id: str) -> None:
        """Ask for its end; one that has ended stays as it is."""
        ...

    def changes(self, task_id: str, *, after: Remote | None = None) -> AsyncGenerator[Remote, None]:
        """The task as often as it may have changed, ending with its last state."""
        ...


class Task:
    """One task. `id` is all that another process needs; it is None when the call ended without becoming a task."""

    def __init__(self, source: Source, task_id: str | None, last: Remote | None = None) -> None:
        self._source = source
        self.id = task_id
        self.last = last
        """As it was seen last; None before the first look."""

    def __repr__(self) -> str:
        return f"<Task {self.id or 'that was none'} {self.last.status if self.last is not None else 'not seen yet'}>"

    async def status(self) -> Remote:
        """The task now. Raises RemoteError when it is unknown or has expired, and ServerUnreachable."""
        if self.id is not None and not (self.last is not None and self.last.terminal):
            self.last = await self._source.get(self.id)
        assert self.last is not None, "a call without a task has ended"
        return self.last

    async def wait(
        self,
        *,
        on_progress: OnProgress | None = None,
        on_question: OnQuestion | None = None,
        timeout: timedelta | None = None,
    ) -> Outcome:
        """The end of the task, its questions answered on the way. Without `on_question` an open question ends the
        wait as `input_required`.

        Raises RemoteError for a failed task, TimeoutError after `timeout`, and ServerUnreachable. However the wait
        ends, the task goes on.
        """
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            async with aclosing(self._changes()) as changes:
                return await follow(self._source, changes, on_progress, on_question)

    async def result(self, *, timeout: timedelta | None = None) -> Outcome:
        """The end of the task, whoever answers its questions meanwhile. Raises as `wait` does."""
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            async with aclosing(self._changes()) as changes:
                async for task in changes:
                    if task.terminal:
                        return outcome_of(task)
        raise AssertionError("changes end with an end")

    async def answer(self, responses: Mapping[str, Any]) -> None:
        """Answer some of its questions, by key. Raises RemoteError when one does not fit; then none was taken."""
        if self.id is not None:
            await self._source.answer(self.id, responses)

    async def cancel(self) -> None:
        """Ask for its end; one that has ended stays as it is."""
        if self.id is not None:
            await self._source.cancel(self.id)

    async def __aiter__(self) -> AsyncGenerator[Remote, None]:
        """Each change from now on, the present state first and the end last; nothing is given twice."""
        seen: object = None
        async with aclosing(self._changes()) as changes:
            async for task in changes:
                mark = (task.status, task.message, task.wire.get("lastUpdatedAt"), tuple(q.key for q in task.questions))
                if mark != seen:
                    seen = mark
                    yield task

    async def _changes(self) -> AsyncGenerator[Remote, None]:
        if self.id is None or (self.last is not None and self.last.terminal):
            assert self.last is not None, "a call without a task has ended"
            yield self.last
            return
        async with aclosing(self._source.changes(self.id, after=self.last)) as changes:
            async for task in changes:
                self.last = task
                yield task


async def follow(
    source: Source,
    changes: AsyncIterator[Remote],
    on_progress: OnProgress | None,
    on_question: OnQuestion | None,
) -> Outcome:
    """The outcome of the task whose changes these are; each of its questions is answered once (M-TASK-78)."""
    answered: set[str] = set()
    async for task in changes:
        if task.terminal:
            return outcome_of(task)
        if task.message is not None and task.status is Status.WORKING:
            await tell(on_progress, Progress(task.message))
        open_questions = [question for question in task.questions if question.key not in answered]
        if task.status is Status.INPUT_REQUIRED and on_question is None:
            return Outcome(Status.INPUT_REQUIRED, {}, task.id, task.questions)
        for question in open_questions:
            assert on_question is not None
            await source.answer(task.id, await answers_to((question,), on_question))
            answered.add(question.key)
    raise AssertionError("changes end with an end")


def outcome_of(task: Remote) -> Outcome:
    """Of a task that has ended. Raises the error it failed with."""
    if task.error is not None:
        raise error_of(task.error, task.id)
    if task.status is Status.FAILED:
        raise error_of({"message": task.message or "the task failed without saying why"}, task.id)
    return Outcome(task.status, task.result or {}, task.id or None)


async def answers_to(questions: tuple[Question, ...], on_question: OnQuestion) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for question in questions:
        answer = on_question(question)
        answers[question.key] = dict(answer if isinstance(answer, Mapping) else await answer)
    return answers


async def tell(on_progress: OnProgress | None, progress: Progress) -> None:
    if on_progress is not None:
        told = on_progress(progress)
        if told is not None:
            await told
