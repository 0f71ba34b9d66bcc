"""Writes that commit and are then reported as timed out: what the engine makes of a lost answer, for every write.

Postgres may commit a statement and the connection break before the answer. The caller cannot know, so it writes again
(`Attempt._persistently`, a client that sends its request again, the next round of a janitor). `Doubtful` does that to a
store: each write of `REPEATED` is done, its answer is kept from the caller's second self at random, and the write is
done again. The test gets the first answer and looks at the database after both, so every test of the store becomes one
of repetition. Idea: Temporal's `ExecuteAndTimeout`.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from functools import wraps
from typing import Any

from taskengine.errors import ClaimLost, StoreUnavailable, TaskNotFound
from taskengine.store import Store

NOUNS = (
    "tasks",
    "attempts",
    "journal",
    "waits",
    "children",
    "stops",
    "inputs",
    "workers",
    "upkeep",
    "keys",
    "sessions",
    "audit",
    "rekey",
    "limits",
    "queues",
)

REPEATED = {
    "tasks": {"create", "cancel"},
    "attempts": {"claim", "suspend", "complete", "fail", "release", "lose", "hand_back", "progress", "keep_token"},
    "journal": {"record"},
    "waits": {"park", "give_up", "withdraw", "forget_questions"},
    "children": {"cancel_orphans"},
    "stops": {"begin"},
    "inputs": {"answer", "offer", "renew", "take_back"},
    "workers": {"renew", "leave", "resign"},
    "upkeep": {"extend", "expire"},
    "keys": {"secret"},
    "sessions": {"end", "set_level", "post"},
    "queues": {"pause", "resume"},
    "rekey": {"batch"},
}
"""What somebody writes again when its answer was lost."""

NOT_REPEATED = {
    "attempts.claim_next": "it would take another task; the heartbeat hands back the one whose answer was lost",
    "limits.claim": "the same, for a task with limits",
    "limits.free": "the doorbells of a lost answer are rung by the relay",
    "limits.free_all": "the same",
    "attempts.log": "a report is lost rather than told twice",
    "waits.take_back": "an attempt that did not hear of it ends, and the heartbeat hands the task back",
    "waits.wake_due": "each round wakes who is due then; the doorbells of a lost answer are rung by the relay",
    "waits.wake_parents": "the same",
    "waits.wake_parent": "the same",
    "stops.note": "a note that was not heard of is looked for and found written",
    "stops.take": "what was taken and not heard of is taken again when the patience is over",
    "upkeep.ring_again": "the janitor goes on with its next round; what was not rung is found again by its time",
    "upkeep.sweep": "each round takes another batch",
    "workers.register": "the next try is another worker, and the first is buried with its lease",
    "workers.reap": "each round buries who is dead then; the doorbells of a lost answer are rung by the relay",
    "upkeep.look": "it notes who is suspected, and looking twice notes the same",
    "sessions.tell": "a notice; who misses it finds the letter at its next look",
    "sessions.sweep": "each round takes what is there",
    "audit.add": "a front end writes again what it does not know to be stored: rather an entry twice than none",
    "audit.by_operator": "the same",
    "audit.sweep": "each round takes another batch",
}
"""Writes that nobody repeats, and why that is right."""

READS = {
    "tasks": {"get", "get_many", "heads", "lines", "of_session", "page", "recent", "same_call"},
    "attempts": {"logged"},
    "journal": {"load"},
    "children": {"depth"},
    "waits": {"answers", "due_in_s"},
    "workers": {"alive"},
    "upkeep": {"due"},
    "queues": {"paused", "waiting"},
    "sessions": {"fetch", "state"},
    "audit": {"find"},
    "rekey": {"left"},
}


class Doubtful(Store):
    """A store whose callers often do not hear that they wrote, and write again."""

    def doubt(self, chance: random.Random) -> None:
        self.repeated: list[str] = []
        for noun, names in REPEATED.items():
            methods = getattr(self, noun)
            for name in names:
                setattr(methods, name, self._twice(getattr(methods, name), f"{noun}.{name}", chance))

    def _twice(self, write: Callable[..., Any], name: str, chance: random.Random) -> Callable[..., Any]:
        @wraps(write)
        async def doubted(*args: Any, **kwargs: Any) -> Any:
            answer = await write(*args, **kwargs)
            while chance.random() < 0.6:
                self.repeated.append(name)
                try:
                    await write(*args, **kwargs)
                except (ClaimLost, TaskNotFound):
                    pass  # refused, because it is done: the end for whoever repeats it
                except StoreUnavailable as error:  # pragma: no cover - the services of the tests are there
                    raise AssertionError("the database was really away") from error
            return answer

        return doubted


def writes_of(store: Store) -> set[str]:
    """Every public coroutine of the nouns, as `noun.name`."""
    return {
        f"{noun}.{name}"
        for noun in NOUNS
        for name, _ in inspect.getmembers(type(getattr(store, noun)), inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
