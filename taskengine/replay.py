"""Whether a later attempt does what earlier ones did. Pure.

Everything a function does through its context has a place: `1`, `2`, `3` in the order of the calls, and within
branches that run side by side `3.0.1`, `3.1.1`. The journal is compared place by place, by kind and name; what departs
from it ends the task, for a result that belongs to something else must never be used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from taskengine.errors import ReplayMismatch
from taskengine.records import Entry, Question

__all__ = ["History", "asked_otherwise", "check_replay", "lane_of"]

_ASK_THE_SAME = "ask the same in every attempt, or give questions keys of their own"
_KEEP_THE_ORDER = (
    "a tool that waits must do the same in the same order when it goes on; give changed code another name, "
    "and leave the old one until its tasks have ended"
)
_DOES = {
    "step": "ran the step {}",
    "sleep": "slept ({})",
    "call": "called the tool {}",
    "calls": "called tools to take what they give as it comes (number of calls: {})",
    "arrived": "took what tools had given by then",
    "ask": "asked (question {})",
    "now": "took the time",
    "uuid": "made a UUID",
    "random": "drew a random number",
}


def check_replay(before: Question, now: Question) -> None:
    """Raises ReplayMismatch unless both ask exactly the same: consent to one sentence is not consent to another."""
    if before.method != now.method or _as_json(before.params) != _as_json(now.params):
        raise ReplayMismatch(
            f"question {now.key!r}", f"had asked {_wording(before)}", f"asked {_wording(now)}", _ASK_THE_SAME
        )


def asked_otherwise(now: Question) -> ReplayMismatch:
    """The error for a question whose key stood for another one, of which only that much is known."""
    return ReplayMismatch(f"question {now.key!r}", "had asked something else", f"asked {_wording(now)}", _ASK_THE_SAME)


def lane_of(path: str) -> str:
    """The sequence a place belongs to: `` for the function itself, `3.0` for a branch."""
    return path.rpartition(".")[0]


class History:
    """The journal of one task while an attempt goes through it."""

    def __init__(self, entries: Mapping[str, Entry], tool: str, version: str | None) -> None:
        self._entries = dict(entries)
        self._tool = tool
        self._version = version
        self._left = set(self._entries)
        """Places that this attempt has not come to yet."""
        self._widest: dict[str, tuple[int, str]] = {}
        """For each gather the highest number of a branch that did something, and a place within that."""
        self._last: dict[str, int] = {}
        """For each lane, the last position that was used in it."""
        for path in self._entries:
            self._count(path)

    def find(self, path: str, kind: str, name: str) -> Entry | None:
        """What was recorded at this place; None where nothing was. Raises ReplayMismatch when it was another thing."""
        entry = self._entries.get(path)
        if entry is not None:
            if (entry.kind, entry.name) != (kind, name):
                raise self._mismatch(path, _deed(entry.kind, entry.name), entry, _deed(kind, name))
            self._left.discard(path)
            return entry
        if path in self._widest:
            within = self._entries[self._widest[path][1]]
            raise self._mismatch(path, "ran branches side by side", within, _deed(kind, name))
        if self._followed(path):
            raise self._mismatch(path, "did nothing that was recorded", None, _deed(kind, name))
        return None

    def fork(self, path: str, branches: int) -> None:
        """Branches begin at this place. Raises ReplayMismatch when something else, or more of them, were there."""
        entry = self._entries.get(path)
        now = f"ran {branches} branches side by side"
        if entry is not None:
            raise self._mismatch(path, _deed(entry.kind, entry.name), entry, now)
        number, within = self._widest.get(path, (-1, ""))
        if number >= branches:
            raise self._mismatch(path, "ran more of them", self._entries[within], now)

    def misfit(self, entry: Entry, reason: str) -> ReplayMismatch:
        """The error for a result that the code of today cannot take."""
        deed = _deed(entry.kind, entry.name)
        return self._mismatch(entry.path, deed, entry, f"{deed} with another type of result ({reason})")

    def note(self, entry: Entry) -> None:
        """It is recorded now."""
        self._entries[entry.path] = entry
        self._left.discard(entry.path)
        self._count(entry.path)

    def check_end(self, now: str = "returned", lane: str = "") -> None:
        """The function has ended, or the branch whose lane it is. Raises ReplayMismatch when the journal goes on."""
        left = [path for path in self._left if not lane or path.startswith(f"{lane}.")]
        if left:
            first = self._entries[min(left, key=_sortable)]
            raise self._mismatch(first.path, _deed(first.kind, first.name), first, now)

    def loose_failures(self) -> list[str]:
        """Places of failures that nothing was done after: another attempt at the whole tries them again."""
        return [
            path
            for path, entry in self._entries.items()
            if not self._followed(path)
            and ((entry.kind == "step" and entry.value is None) or (entry.kind == "call" and _failed(entry)))
        ]

    def _followed(self, path: str) -> bool:
        """Something was recorded after this place, in its lane or in one around: what is not there was never done."""
        while path:
            lane = lane_of(path)
            if self._last.get(lane, 0) > _position(path):
                return True
            path = lane_of(lane)
        return False

    def _count(self, path: str) -> None:
        inner = path
        while True:
            lane = lane_of(inner)
            self._last[lane] = max(self._last.get(lane, 0), _position(inner))
            if not lane:
                return
            inner = lane_of(lane)
            number = _position(lane)
            if number > self._widest.get(inner, (-1, ""))[0]:
                self._widest[inner] = (number, path)

    def _mismatch(self, path: str, before: str, entry: Entry | None, now: str) -> ReplayMismatch:
        place = f"place {path} of {self._tool}; its code is {_of(self._version)} now"
        if entry is not None:
            place += f", and was {_of(entry.version)} when this was recorded"
        return ReplayMismatch(place, before, now, _KEEP_THE_ORDER)


def _of(version: str | None) -> str:
    return "of no declared version" if version is None else f"version {version}"


def _failed(entry: Entry) -> bool:
    if entry.error is not None:  # refused
        return True
    return entry.child is not None and (entry.child.is_error or entry.child.status in {"failed", "cancelled"})


def _position(path: str) -> int:
    return int(path.rpartition(".")[2])


def _sortable(path: str) -> list[int]:
    return [int(part) for part in path.split(".")]


def _deed(kind: str, name: str) -> str:
    return _DOES[kind].format(repr(name))


def _as_json(params: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(params, default=dict))


def _wording(question: Question) -> str:
    message = question.params.get("message")
    return f"{message!r}" if isinstance(message, str) else question.method
