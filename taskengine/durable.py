"""What makes a function durable: steps, sleeps, calls of other tools and values that every run gives again.

Written once, for both colours: `Context` awaits these methods, `SyncContext` drives them to their end in its thread,
where nothing they await ever suspends. What differs between the two is a `Colour`.

Each method takes the next place of its lane, looks into the history there, and does what was not done yet. Where it
has to wait, the attempt ends: at once in the function itself; in a branch once the other branches are done or wait too.
"""

from __future__ import annotations

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

from taskengine.calls import ToolResult, plain_arguments, result_of
from taskengine.colours import Colour, Raised
from taskengine.content import clean_text
from taskengine.errors import CallFailed, DeclarationError, ReplayMismatch, Signal, Suspended
from taskengine.lanes import Ended, Lane, current_lane
from taskengine.lifecycle import TERMINAL
from taskengine.port import DurablePort
from taskengine.records import ChildState, Entry, Question, Wait
from taskengine.replay import History, check_replay
from taskengine.steps import Codec, Retries, dump_failure, load_failure, parse_delay, worth_retrying

__all__ = ["Durable"]

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
        self._colour = colour
        self._version = version
        self._max_bytes = max_bytes
        self.history = History(port.journal, tool, version)
        self.root = Lane("")

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
        what = _checked_name(name)
        if not callable(function):
            raise DeclarationError(f"{what}: {function!r} is not a function: give ctx.step(name, function, *arguments)")
        step = _Step(
            partial(function, *arguments),
            inspect.iscoroutinefunction(function),
            Retries.parse(what, retries, backoff),
            None if timeout is None else parse_delay(what, timeout),
        )
        with self._place("step", name) as (lane, path, found):
            if found is not None and found.done and found.error is not None:
                raise load_failure(name, found.error)
            codec = Codec(name, function, self._max_bytes)
            if found is not None and found.value is not None:
                return codec.load(found.value)
            if found is not None and found.due is not None:
                await self._until(lane, found.due)
            entry = Entry(path, "step", name, done=False, version=self._version) if found is None else found
            return codec.load(await self._tried(lane, entry, step, codec))

    async def _tried(self, lane: Lane, entry: Entry, step: _Step, codec: Codec) -> str:
        """The function's result as it is recorded. Raises what the step comes to when it fails."""
        while True:
            entry = replace(entry, tries=entry.tries + 1, due=None)
            try:
                value = await self._colour.run(step.call, step.is_async, step.limit)
            except Exception as error:
                failure = dump_failure(error, entry.tries)
                wait = step.retries.wait_after(entry.tries) if worth_retrying(error) else None
                if wait is None:
                    await self._record(replace(entry, done=True, error=failure))
                    raise load_failure(entry.name, failure) from error
                if wait <= self._port.in_place:
                    await self._colour.sleep(wait.total_seconds())
                    continue
                due = self._port.clock() + wait
                message = f"{entry.name} failed and is tried again at {_moment(due)}"
                entry = replace(entry, error=failure, due=due)
                await self._wait(lane, Wait(due=due, message=message), entry)
            else:
                text = codec.dump(value)
                await self._record(replace(entry, done=True, value=text, error=None))
                return text

    async def sleep(self, delay: Any) -> None:
        await self._sleep(lambda: self._port.clock() + parse_delay("ctx.sleep", delay))

    async def sleep_until(self, moment: Any) -> None:
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            raise DeclarationError(f"ctx.sleep_until: {moment!r} is not a time with a zone: datetime.now(UTC) + …")
        await self._sleep(lambda: moment.astimezone(UTC))

    async def _sleep(self, end: Callable[[], datetime]) -> None:
        until = end()
        with self._place("sleep", "") as (lane, path, found):
            if found is not None and found.due is not None:
                await self._until(lane, found.due)
                return
            entry = Entry(path, "sleep", "", due=until, version=self._version)
            if until - self._port.clock() > self._port.in_place:
                await self._wait(lane, _sleeping(until), entry)
            await self._record(entry)
            await self._until(lane, until)

    async def _until(self, lane: Lane, due: datetime) -> None:
        left = due - self._port.clock()
        if left > self._port.in_place:
            await self._wait(lane, _sleeping(due))
        if left > timedelta(0):
            await self._colour.sleep(left.total_seconds())

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None) -> ToolResult:
        with self._place("call", _checked_name(name)) as (lane, path, found):
            entry = found
            if entry is None:
                plain = plain_arguments(name, arguments)
                made = Entry(path, "call", name, child_id=f"tsk_{secrets.token_urlsafe(24)}", version=self._version)
                entry = await self._port.call(made, plain)
                self.history.note(entry)
            while True:
                child = entry.child
                if child is None:
                    raise CallFailed(name, entry.child_id or "", "is gone", "its task is not there any more")
                if child.status in TERMINAL:
                    if child.asked:
                        await self._port.withdraw(child.id)
                    return result_of(child)
                await self._wait(lane, await self._waiting_for(child), linger=True)
                entry = self._port.journal[path]
                self.history.note(entry)

    async def _waiting_for(self, child: ChildState) -> Wait:
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
        return Wait(asked, children=1, message=_asking(asked) if asked else f"Waiting for {child.tool}")

    async def value(self, kind: str) -> Any:
        make, read = _VALUES[kind]
        with self._place(kind, "") as (_, path, found):
            entry = found or Entry(path, kind, "", value=json.dumps(make(self._port)), version=self._version)
            if found is None:
                await self._record(entry)
            return read(json.loads(entry.value or "null"))

    async def ask(
        self, questions: Sequence[Question], answer_by: timedelta | None
    ) -> dict[str, Mapping[str, Any] | None]:
        """The raw answers by key; None for what nobody answered by then."""
        name = ", ".join(question.key for question in questions)
        with self._place("ask", name) as (lane, path, found):
            due = None if answer_by is None else self._port.clock() + answer_by
            entry = found or Entry(path, "ask", name, done=False, due=due, version=self._version)
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
                        await self._record(replace(entry, done=True))
                    return {each.key: answers.get(each.key) for each in questions}
                if noted and entry.due is not None and self._port.clock() >= entry.due:
                    keys = [question.key for question in missing]
                    entry = replace(entry, done=True, value=json.dumps(keys))
                    await self._port.give_up(entry, keys)
                    self.history.note(entry)
                    continue
                wait = Wait(tuple(missing), due=entry.due, message=_asking(missing))
                await self._wait(lane, wait, None if noted else entry, linger=True)
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
            results = await self._colour.side_by_side(lanes, branches)
            for each in lanes:
                # A branch that is suspended and waits for nothing has lost its claim: that ends all of them.
                if each.ended is not None and not (isinstance(each.ended, Suspended) and each.waits):
                    raise each.ended
            for result in results:
                if isinstance(result, Raised) and not isinstance(result.error, Exception | Suspended):
                    raise result.error
            waits = [waiting for each in lanes if each.ended is not None for waiting in each.waits]
            if waits:
                entries = [entry for each in lanes for entry in each.entries]
                await self._wait(lane, _together(waits), *entries)
            if return_exceptions:
                return [result.error if isinstance(result, Raised) else result for result in results]
            for result in results:
                if isinstance(result, Raised):
                    raise result.error
            return results

    # -- places, records, waits

    @contextmanager
    def _place(self, kind: str, name: str) -> Iterator[Place]:
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

    async def _record(self, entry: Entry) -> None:
        await self._port.record(entry)
        self.history.note(entry)

    async def _wait(self, lane: Lane, wait: Wait, *entries: Entry | None, linger: bool = False) -> None:
        """End the attempt, or this branch of it; returns when what it waits for came while it lingered."""
        noted = [entry for entry in entries if entry is not None]
        if lane is not self.root:
            lane.waits.append((wait, lane.alone))
            lane.entries.extend(noted)
            raise Suspended
        await self._port.park(wait, noted, linger=linger)
        for entry in noted:
            self.history.note(entry)


def _together(waits: Sequence[tuple[Wait, bool]]) -> Wait:
    """What branches wait for, each by itself. Calls that are all there is to their branches count together."""
    alone = sum(wait.children or 0 for wait, is_alone in waits if is_alone)
    children = [wait.children for wait, is_alone in waits if wait.children and not is_alone] + (
        [alone] if alone else []
    )
    dues = [wait.due for wait, _ in waits if wait.due is not None]
    questions = tuple(question for wait, _ in waits for question in wait.questions)
    if questions:
        message = _asking(questions)
    elif children:
        message = (
            waits[0][0].message if len(waits) == 1 else f"Waiting for {sum(bool(w.children) for w, _ in waits)} calls"
        )
    else:
        message = waits[0][0].message
    return Wait(questions, min(dues, default=None), min(children, default=None), message)


def _asking(questions: Sequence[Question]) -> str:
    if len(questions) > 1:
        return f"Waiting for answers: {len(questions)} to go"
    message = questions[0].params.get("message")
    return f"Waiting for an answer: {message}" if isinstance(message, str) else "Waiting for an answer"


def _sleeping(until: datetime) -> Wait:
    return Wait(due=until, message=f"Sleeping until {_moment(until)}")


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or clean_text(name) != name or len(name) > MAX_NAME:
        raise DeclarationError(f"{name!r} is no name: give a text of up to {MAX_NAME} characters")
    return name
