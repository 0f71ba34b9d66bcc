"""How many calls of a tool may run at once: in total, for each owner, for each value of an argument.

    @app.tool(limits=[per("owner", 2), total(20)])
    async def render(scene: str) -> str: ...

    @app.tool(limits=[per("arg:customer", 1)])
    def book(customer: str, amount: int) -> str: ...

A call past a limit is accepted and waits. Only what runs counts: a task that waits for an answer holds nothing. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskengine.errors import DeclarationError
from taskengine.records import Slot

__all__ = ["HIGHEST_PRIORITY", "LOWEST_PRIORITY", "Limit", "check_limits", "check_priority", "per", "slots_of", "total"]

ARGUMENT = "arg:"
MOST_LIMITS = 8
LOWEST_PRIORITY, HIGHEST_PRIORITY = -100, 100


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `size` at once of those that have the same of `what`; made by `per` and `total`."""

    what: str
    """`total`, `owner`, or `arg:` and the name of an argument as clients send it."""
    size: int


def per(what: str, size: int) -> Limit:
    """At most `size` calls at once for each `"owner"`, or for each value of an argument: `per("arg:customer", 2)`."""
    return Limit(what, size)


def total(size: int) -> Limit:
    """At most `size` calls of the tool at once."""
    return Limit("total", size)


def check_limits(what: str, limits: Any, arguments: Iterable[str] | None) -> tuple[Limit, ...]:
    """The limits as declared on the tool `what`, whose arguments have these names; None where any may come.

    Raises DeclarationError.
    """
    if not isinstance(limits, Sequence) or not all(isinstance(limit, Limit) for limit in limits):
        raise DeclarationError(f'{what}: limits is {limits!r}: give a list such as [per("owner", 2), total(20)]')
    if len(limits) > MOST_LIMITS:
        raise DeclarationError(f"{what}: {len(limits)} limits are more than {MOST_LIMITS}: leave some out")
    known = None if arguments is None else set(arguments)
    for limit in limits:
        if isinstance(limit.size, bool) or not isinstance(limit.size, int) or not 1 <= limit.size <= 1_000_000:
            raise DeclarationError(f"{what}: a limit of {limit.size!r} at once is none: give 1 or more")
        name = limit.what.removeprefix(ARGUMENT)
        if limit.what not in {"total", "owner"} and not (limit.what.startswith(ARGUMENT) and name):
            raise DeclarationError(f'{what}: per({limit.what!r}, …): write "owner", or "arg:" and an argument\'s name')
        if limit.what.startswith(ARGUMENT) and known is not None and name not in known:
            raise DeclarationError(
                f"{what}: per({limit.what!r}, …): there is no argument {name!r}; there are {', '.join(sorted(known))}"
            )
    if len({limit.what for limit in limits}) < len(limits):
        raise DeclarationError(f"{what}: two of its limits are of the same kind: leave one out")
    return tuple(limits)


def check_priority(what: str, priority: Any, highest: Any) -> tuple[int, int]:
    """The priority of a tool's calls, and the highest that a call may ask for. Raises DeclarationError."""
    highest = priority if highest is None else highest
    for name, value in (("priority", priority), ("max_priority", highest)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not LOWEST_PRIORITY <= value <= HIGHEST_PRIORITY:
            raise DeclarationError(
                f"{what}: {name} is {value!r}: give a whole number from {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}"
            )
    if highest < priority:
        raise DeclarationError(f"{what}: max_priority is lower than priority: raise it, or leave it out")
    return priority, highest


def slots_of(tool: str, limits: Iterable[Limit], owner: str, arguments: Mapping[str, Any]) -> tuple[Slot, ...]:
    """What a call counts against; of what its client sent there are digests only."""
    return tuple(
        Slot(_key(tool, limit, owner, arguments), limit.size, of_argument=limit.what.startswith(ARGUMENT))
        for limit in limits
    )


def _key(tool: str, limit: Limit, owner: str, arguments: Mapping[str, Any]) -> str:
    if limit.what == "total":
        return f"{tool}:total"
    value = owner if limit.what == "owner" else arguments.get(limit.what.removeprefix(ARGUMENT))
    text = json.dumps([limit.what, value], sort_keys=True, default=dict)
    return f"{tool}:{limit.what.partition(':')[0]}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
