"""What makes a function durable: steps, sleeps, calls of other tools and values that every run gives again.

Written once, for both colours: `Context` awaits these methods, `SyncContext` drives them to their end in its thread,
where nothing they await ever suspends. What differs between the two is a `Colour`.

Each method takes the next place of its lane, looks into the history there, and does what was not done yet. Where it
has to wait, the attempt ends: at once in the function itself; in a branch once the other branches are done or wait too.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from taskengine.calls import REFUSALS, ToolResult, plain_arguments, result_of
from taskengine.colours import Colour, Raised
from taskengine.content import clean_text
from taskengine.errors import CallFailed, DeclarationError, ReplayMismatch, ResultError, Signal, Suspended
from taskengine.lanes import Asked, Ended, Lane, current_lane, current_task
from taskengine.lifecycle import TERMINAL
from taskengine.port import DurablePort
from taskengine.records import ChildState, Entry, Question, Wait
from taskengine.replay import History, check_replay
from taskengine.steps import (
    Codec,
    Retries,
    dump_failure,
    dump_refusal,
    load_failure,
    parse_delay,
    worth_retrying,
)

__all__ = ["Durable", "asking", "checked_name", "has_ended"]

MAX_NAME = 200
Place = tuple[Lane, str, Entry | None]


@dataclass(frozen=True, slots=True)
class _Step:
    call: Callable[[], Any]
    is_async: bool
    retries: Retries
    limit: timedelta | None
    """How long one try may take."""


_VALUES: dict[str, tuple[Callable[[DurablePort], Any], Callable[[Any], Any]]] = {
    "now": (lambda port: port.clock().isoformat(), datetime.fromisoformat),
    "uuid": (lambda _: str(uuid.uuid4()), uuid.UUID),
    "random": (lambda _: secrets.SystemRandom().random(), float),
}
"""How each is made the first time, and read from the journal."""


class Durable:
    def __init__(self, port: DurablePort, colour: Colour, *, tool: str, version: str | None, max_bytes: int) -> None:
        self._port = port
        self.colour = colour
        self.version = version
        self._max_bytes = max_bytes
        self.history = History(port.journal, tool, version)
        self.root = Lane("")

    def clock(self) -> datetime:
        return self._port.clock()

    @property
    def ended(self) -> Ended | None:
        """What ended the function, or the branch that asks."""
        return self.root.ended or current_lane(self.root).ended

    # -- what a tool calls

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        retries: int,
        backoff: Any,
        timeout: Any,
    ) -> Any:
        what = checked_name(name)
        if not callable(function):
            raise DeclarationError(f"{what}: {function!r} is not a function: give ctx.step(name, function, *arguments)")
        step = _Step(
            partial(function, *arguments),
            inspect.iscoroutinefunction(function),
            Retries.parse(what, retries, backoff),
            None if timeout is None else parse_delay(what, timeout),
        )
        codec = Codec(name, function, self._max_bytes)  # what is refused here takes no place, in any attempt
        with self.place("step", name) as (lane, path, found):
            if found is not None and found.done and found.error is not None:
                raise load_failure(name, found.error)
            if found is not None and found.value is not None:
                try:
                    return codec.load(found.value)
                except ResultError as error:
                    raise self.history.misfit(found, str(error)) from None
            if found is not None and found.due is not None:
                await self._until(lane, found.due)
            entry = Entry(path, "step", name, done=False, version=self.version) if found is None else found
            return codec.load(await self._tried(lane, entry, step, codec))

    async def _tried(self, lane: Lane, entry: Entry, step: _Step, codec: Codec) -> str:
        """The function's result as it is recorded. Raises what the step comes to when it fails."""
        while True:
            entry = replace(entry, tries=entry.tries + 1, due=None)
            try:
                value = await self.colour.run(step.call, step.is_async, step.limit)
            except BaseException as error:
                if _ends_the_attempt(error):
                    raise
                failure = dump_failure(error, entry.tries)
                wait = step.retries.wait_after(entry.tries) if worth_retrying(error) else None
                if wait is None:
                    await self.record(replace(entry, done=True, error=failure))
                    raise load_failure(entry.name, failure) from error
                if wait <= self._port.in_place:
                    await self.colour.sleep(wait.total_seconds())
                    continue
                due = self._port.clock() + wait
                message = f"{entry.name} failed and is tried again at {_moment(due)}"
                await self.wait(lane, Wait(due=due, message=message), replace(entry, error=failure, due=due))
            else:
                try:
                    text = codec.dump(value)
                except ResultError as error:
                    await self.record(replace(entry, done=True, error=dump_refusal(error)))
                    raise
                await self.record(replace(entry, done=True, value=text, error=None))
                return text

    async def sleep(self, delay: Any) -> None:
        await self._sleep(lambda: self._port.clock() + parse_delay("ctx.sleep", delay))

    async def sleep_until(self, moment: Any) -> None:
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            raise DeclarationError(f"ctx.sleep_until: {moment!r} is not a time with a zone: datetime.now(UTC) + …")
        await self._sleep(lambda: moment.astimezone(UTC))

    async def _sleep(self, end: Callable[[], datetime]) -> None:
        until = end()
        with self.place("sleep", "") as (lane, path, found):
            if found is not None and found.due is not None:
                await self._until(lane, found.due)
                return
            entry = Entry(path, "sleep", "", due=until, version=self.version)
            if until - self._port.clock() > self._port.in_place:
                await self.wait(lane, _sleeping(until), entry)
            await self.record(entry)
            await self._until(lane, until)

    async def _until(self, lane: Lane, due: datetime) -> None:
        left = due - self._port.clock()
        if left > self._port.in_place:
            await self.wait(lane, _sleeping(due))
        if left > timedelta(0):
            await self.colour.sleep(left.total_seconds())

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None) -> ToolResult:
        plain = plain_arguments(checked_name(name), arguments)
        with self.place("call", name) as (lane, path, found):
            entry = found or await self.called(path, name, plain)
            while not has_ended(entry):
                assert entry.child is not None
                await self.wait(lane, await self.waiting_for(entry.child), linger=True)
                entry = self.fresh(path)
            return await self.given(entry)

    async def called(self, path: str, name: str, arguments: Mapping[str, Any]) -> Entry:
        """The entry of a call that is made now, or refused."""
        made = Entry(path, "call", name, child_id=f"tsk_{secrets.token_urlsafe(24)}", version=self.version)
        try:
            entry = await self._port.call(made, arguments)
        except tuple(REFUSALS.values()) as error:
            entry = replace(made, child_id=None, error=dump_refusal(error))
            await self.record(entry)
        self.history.note(entry)
        return entry

    def fresh(self, path: str) -> Entry:
        """The entry of a call after a wait, with what has become of its task."""
        entry = self._port.journal[path]
        self.history.note(entry)
        return entry

    async def given(self, entry: Entry) -> ToolResult:
        """What a call gave that has ended. Raises CallFailed, or the error with which it was refused."""
        if entry.error is not None:
            raise load_failure(entry.name, entry.error)
        child = entry.child
        if child is None:
            raise CallFailed(entry.name, entry.child_id or "", "is gone", "its task is not there any more")
        if child.asked:
            await self._port.withdraw(child.id)
        return result_of(child)

    async def waiting_for(self, child: ChildState) -> Wait:
        """What is to be waited for while the child lives: its end, and answers to what it asks."""
        known = {key: self._port.answers.get(f"{child.id}:{key}") for key in (each.key for each in child.questions)}
        given = {key: answered.response for key, answered in known.items() if answered is not None}
        if given:
            await self._port.answer_child(child.id, given)
        asked = tuple(
            Question(f"{child.id}:{each.key}", each.method, each.params)
            for each in child.questions
            if known[each.key] is None
        )
        return Wait(asked, children=1, message=asking(asked) if asked else f"Waiting for {child.tool}")

    async def value(self, kind: str) -> Any:
        make, read = _VALUES[kind]
        with self.place(kind, "") as (_, path, found):
            entry = found or Entry(path, kind, "", value=json.dumps(make(self._port)), version=self.version)
            if found is None:
                await self.record(entry)
            return read(json.loads(entry.value or "null"))

    async def ask(
        self, questions: Sequence[Question], answer_by: timedelta | None
    ) -> dict[str, Mapping[str, Any] | None]:
        """The raw answers by key; None for what nobody answered by then."""
        name = ", ".join(question.key for question in questions)
        with self.place("ask", name) as (lane, path, found):
            entry = found or Entry(path, "ask", name, done=False, version=self.version)
            noted = found is not None
            while True:
                for question in questions:
                    if question.key in self._port.answers:
                        check_replay(self._port.answers[question.key].question, question)
                given_up: list[str] = json.loads(entry.value or "[]")
                answers = {key: answered.response for key, answered in self._port.answers.items()}
                missing = [each for each in questions if each.key not in answers and each.key not in given_up]
                if not missing:
                    if not noted:  # answered before tasks had journals
                        await self.record(replace(entry, done=True))
                    return {each.key: answers.get(each.key) for each in questions}
                if noted and entry.due is not None and self._port.clock() >= entry.due:
                    keys = [question.key for question in missing]
                    entry = replace(entry, done=True, value=json.dumps(keys))
                    await self._port.give_up(entry, keys)
                    self.history.note(entry)
                    continue
                wait = Wait(tuple(missing), due=entry.due, message=asking(missing))
                if noted:
                    await self.wait(lane, wait, linger=True)
                else:
                    (entry,) = await self.wait(lane, wait, asked=[(entry, answer_by)], linger=True)
                    noted = True

    async def gather(self, branches: Sequence[Any], *, return_exceptions: bool) -> list[Any]:
        try:
            return await self._gather(branches, return_exceptions=return_exceptions)
        finally:
            for branch in branches:
                if inspect.iscoroutine(branch):  # one that was refused before it began
                    branch.close()

    async def _gather(self, branches: Sequence[Any], *, return_exceptions: bool) -> list[Any]:
        with self._fork(len(branches)) as (lane, lanes):
            results = await self.colour.side_by_side(lanes, branches)
            for each in lanes:
                # A branch that is suspended and waits for nothing has lost its claim: that ends all of them.
                if each.ended is not None and not (isinstance(each.ended, Suspended) and each.waits):
                    raise each.ended
            for result in results:
                if isinstance(result, Raised) and not isinstance(result.error, Exception | Suspended):
                    raise result.error
            waits = [waiting for each in lanes if each.ended is not None for waiting in each.waits]
            if waits:
                await self.wait(lane, _together(waits), asked=[asked for each in lanes for asked in each.asked])
            for each, result in zip(lanes, results, strict=True):
                # One with a fault that may pass is left to the end of the whole, which another attempt may reach.
                if not isinstance(result, Raised) or not worth_retrying(result.error):
                    self.history.check_end("ended the branch", each.path)
            if return_exceptions:
                return [result.error if isinstance(result, Raised) else result for result in results]
            for result in results:
                if isinstance(result, Raised):
                    raise result.error
            return results

    # -- places, records, waits: for `arrivals` as well

    @contextmanager
    def place(self, kind: str, name: str) -> Iterator[Place]:
        """The next place of this lane, with what was recorded there."""
        lane = self._lane()
        path = lane.begin()
        try:
            yield lane, path, self.history.find(path, kind, name)
        except (Signal, ReplayMismatch) as ended:
            lane.ended = ended
            raise
        finally:
            lane.finish()

    @contextmanager
    def _fork(self, branches: int) -> Iterator[tuple[Lane, list[Lane]]]:
        lane = self._lane()
        path = lane.begin()
        try:
            self.history.fork(path, branches)
            yield lane, [Lane(f"{path}.{number}", self.root) for number in range(branches)]
        except (Signal, ReplayMismatch) as ended:
            lane.ended = ended
            raise
        finally:
            lane.finish()

    def _lane(self) -> Lane:
        lane = current_lane(self.root)
        ended = self.root.ended or lane.ended
        if ended is not None:
            raise ended
        return lane

    async def record(self, entry: Entry) -> None:
        await self._port.record(entry)
        self.history.note(entry)

    async def wait(
        self, lane: Lane, wait: Wait, entry: Entry | None = None, *, asked: Sequence[Asked] = (), linger: bool = False
    ) -> list[Entry]:
        """End the attempt, or this branch of it, and record `entry` with that, in a branch at once.

        When what it waits for came while it lingered it returns the entries of what it `asked`. Those are recorded
        when the questions are put, which is when all branches wait, and the time for an answer begins then.
        """
        if lane is not self.root:
            if entry is not None:
                await self.record(entry)
            lane.waits.append((wait, lane.alone))
            lane.asked.extend(asked)
            raise Suspended
        now = self._port.clock()
        put = [each if limit is None else replace(each, due=now + limit) for each, limit in asked]
        noted = put if entry is None else [entry, *put]
        due = min((each for each in (wait.due, *(each.due for each in put)) if each is not None), default=None)
        await self._port.park(replace(wait, due=due), noted, linger=linger)
        for each in noted:
            self.history.note(each)
        return put


def _together(waits: Sequence[tuple[Wait, bool]]) -> Wait:
    """What branches wait for, each by itself. Calls that are all there is to their branches count together."""
    alone = sum(wait.children or 0 for wait, is_alone in waits if is_alone)
    children = [wait.children for wait, is_alone in waits if wait.children and not is_alone] + (
        [alone] if alone else []
    )
    dues = [wait.due for wait, _ in waits if wait.due is not None]
    questions = tuple(question for wait, _ in waits for question in wait.questions)
    if questions:
        message = asking(questions)
    elif children:
        message = (
            waits[0][0].message if len(waits) == 1 else f"Waiting for {sum(bool(w.children) for w, _ in waits)} calls"
        )
    else:
        message = waits[0][0].message
    return Wait(questions, min(dues, default=None), min(children, default=None), message)


def asking(questions: Sequence[Question]) -> str:
    if len(questions) > 1:
        return f"Waiting for answers: {len(questions)} to go"
    message = questions[0].params.get("message")
    return f"Waiting for an answer: {message}" if isinstance(message, str) else "Waiting for an answer"


def has_ended(entry: Entry) -> bool:
    """Nothing more comes of this call: it was refused, its task has ended, or is gone."""
    return entry.error is not None or entry.child is None or entry.child.status in TERMINAL


def _ends_the_attempt(error: BaseException) -> bool:
    """Raised by whoever ends the attempt, and not by the function of a step: that counts as its failure."""
    if isinstance(error, asyncio.CancelledError):
        task = current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, (Signal, GeneratorExit))


def _sleeping(until: datetime) -> Wait:
    return Wait(due=until, message=f"Sleeping until {_moment(until)}")


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or clean_text(name) != name or len(name) > MAX_NAME:
        raise DeclarationError(f"{name!r} is no name: give a text of up to {MAX_NAME} characters")
    return name
