"""What a task of 2025-11-25 asks on the streams of its `tasks/result`.

Requests of the server have no key: theirs is made of what they ask, so that a question that is put again is known
again, by any process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from typing import Any

from taskengine.client.results import question_of
from taskengine.client.session import Opened
from taskengine.records import Question

__all__ = ["Asked", "State", "asked_by"]


class State(Enum):
    OPEN = "open"
    ANSWERED = "answered"
    REFUSED = "refused"
    """The answer did not fit: the server puts the question again."""


@dataclass(slots=True)
class Entry:
    question: Question
    request_id: Any
    stream: int
    state: State = State.OPEN


@dataclass(slots=True)
class Asked:
    """What one task asks on the streams of its `tasks/result`."""

    entries: dict[str, Entry] = field(default_factory=dict)
    opened: Opened | None = None
    stream: asyncio.Task[None] | None = None
    streams: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, opened: Opened) -> None:
        if self.opened is not opened:
            self.entries = {key: entry for key, entry in self.entries.items() if entry.state is State.ANSWERED}
            self.opened = opened
        self.streams += 1
        self.news.clear()

    def take(self, message: Mapping[str, Any]) -> None:
        """A question that is put again, on another stream or after an answer that did not fit, keeps its key; one
        that was answered and comes again is another."""
        question = asked_by(message)
        key, number = question.key, 1
        while (entry := self.entries.get(key)) is not None:
            again = entry.state is State.REFUSED or (entry.state is State.OPEN and entry.stream != self.streams)
            if again:
                break
            number += 1
            key = f"{question.key}-{number}"
        self.entries[key] = Entry(replace(question, key=key), message["id"], self.streams)
        self.news.set()

    def withdraw(self, request_id: Any) -> None:
        for entry in self.entries.values():
            if entry.request_id == request_id:
                entry.state = State.ANSWERED

    def open(self) -> tuple[Question, ...]:
        return tuple(entry.question for entry in self.entries.values() if entry.state is not State.ANSWERED)

    async def news_within(self, seconds: float) -> bool:
        """Whether anything was asked, or the stream ended, within this time."""
        try:
            async with asyncio.timeout(seconds):
                await self.news.wait()
        except TimeoutError:
            return False
        self.news.clear()
        return True

    async def leave(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)


def asked_by(message: Mapping[str, Any]) -> Question:
    """With a key made of what is asked, without what names this one request."""
    params = message.get("params")
    asked = {name: value for name, value in params.items() if name != "_meta"} if isinstance(params, Mapping) else {}
    made = sha256(json.dumps([message["method"], asked], sort_keys=True).encode()).hexdigest()[:8]
    return question_of(f"q-{made}", {"method": message["method"], "params": asked})
