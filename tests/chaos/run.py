"""One run: the site, the load, the ledger, and what the faults need of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import triggers
from tests.chaos.client import View
from tests.chaos.ledger import Entry, Ledger
from tests.chaos.load import Load
from tests.chaos.site import Site

__all__ = ["FAULTS", "LEFT_OUT", "Fault", "Injection", "Run", "Wrong", "fault"]

NEVER_S = 90.0
EVERYWHERE_S = 10.0
"""What has not recovered by then counts with this time."""


class Wrong(Exception):
    """The engine did not do what it promises under this fault; the sentence goes into the table."""


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    inject: Callable[[Run], Awaitable[list[float]]]
    bar_s: float | None
    """Most seconds from the fault to the next attempt (or answer); None: there is nothing to recover."""
    about: str
    phase: str
    share: int
    """How often it is injected beside the others of its phase."""
    within: float = 1.0
    """The share of recoveries that keep the bar: all, where the promise is "at most"."""
    quiet: bool = False
    """No service and no worker goes away: whoever sleeps must be woken in time meanwhile."""
    least_length: float = 0.0
    """It is left out of a run that is shorter."""


@dataclass(frozen=True, slots=True)
class Injection:
    fault: Fault
    at_s: float
    took_s: float
    recoveries_s: tuple[float, ...]
    tasks: int
    wrong: str = ""


FAULTS: dict[str, Fault] = {}
LEFT_OUT: dict[str, str] = {}
"""Faults that cannot be injected here, and why."""


def fault(
    name: str,
    *,
    bar_s: float | None = None,
    phase: str,
    share: int = 1,
    within: float = 1.0,
    quiet: bool = False,
    least_length: float = 0.0,
) -> Callable[[Callable[[Run], Awaitable[list[float]]]], Callable[[Run], Awaitable[list[float]]]]:
    """Declare an injection. It gives the recovery times it measured, and raises Wrong."""

    def declare(inject: Callable[[Run], Awaitable[list[float]]]) -> Callable[[Run], Awaitable[list[float]]]:
        assert inject.__doc__, name
        about = " ".join(inject.__doc__.split())
        FAULTS[name] = Fault(name, inject, bar_s, about, phase, share, within, quiet, least_length)
        return inject

    return declare


@dataclass(slots=True)
class Run:
    folder: Path
    seed: int
    site: Site
    load: Load
    ledger: Ledger
    say: Callable[[str], None]
    length: float = 1.0
    """How large the faults that have a size are: 1 for those of the usual run."""
    rng: random.Random = field(init=False)
    injections: list[Injection] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    """What was done, in order; printed when a run fails."""
    unjudged: int = 0
    """Outages that took longer than they were to, so that what they cost says nothing."""
    outages: list[tuple[float, float]] = field(default_factory=list)
    """When clients may go without an answer: from, until."""

    lags_s: list[float] = field(default_factory=list)
    """By how much the harness itself woke late: how busy the machine was with other things."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def note(self, text: str) -> None:
        self.events.append(f"{time.time():.3f} {text}")

    async def watch_machine(self) -> None:
        """Runs beside everything until it is cancelled."""
        while True:
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)
            self.lags_s.append(time.monotonic() - due)

    async def inject(self, chosen: Fault) -> Injection:
        """Do it once, and put everything back into order."""
        at, before = time.time(), len(self.load.views)
        self.note(f"inject {chosen.name}")
        wrong, recoveries = "", []
        try:
            recoveries = await chosen.inject(self)
        except Wrong as error:
            wrong = str(error)
        finally:
            await self.restore()
        took = time.time() - at
        done = Injection(chosen, at, took, tuple(recoveries), len(self.load.views) - before, wrong)
        self.injections.append(done)
        shown = " ".join(f"{each:.2f}" for each in recoveries)
        self.say(f"{len(self.injections):4d} {chosen.name}: {took:.1f} s, recovered after [{shown}] {wrong}")
        self.note(f"done {chosen.name}: {shown} {wrong}")
        return done

    def sized(self, most: float, least: float) -> float:
        """The size that a fault has in a run of this length: `most` of it in the usual one, in a short one less."""
        return max(least, min(most, most * self.length))

    async def restore(self) -> None:
        for proxy in self.site.proxies.values():
            proxy.set("pass")
        await self.site.revive()

    # -- what faults are made of

    async def hold(self, tool: str, count: int, *, seconds: float = 8.0) -> list[View]:
        """So many probes that run now and will for `seconds`, unless their attempt is lost."""
        views = [self.load.view(tool, holds=1, seconds=seconds) for _ in range(count)]
        for view in views:
            self.load.spawn(self.load.play(view, self.rng))
        await self.until(lambda: all(self.first_start(view) for view in views), f"{count} {tool} start")
        return views

    async def hold_everywhere(self, tool: str, *, seconds: float = 8.0) -> dict[int, list[View]]:
        """Probes that run now, by the process id of their worker: at least one in each. Raises Wrong."""
        views = await self.hold(tool, 2 * len(self.site.workers), seconds=seconds)
        until = time.monotonic() + EVERYWHERE_S
        while time.monotonic() < until:  # one may still be held up by what came before
            held: dict[int, list[View]] = {child.pid: [] for child in self.site.workers.values()}
            for view in views:
                held.setdefault(self.worker_of(view), []).append(view)
            if all(held.values()):
                return held
            await asyncio.sleep(0.2)
            views += await self.hold(tool, 1, seconds=seconds)
        raise Wrong("a worker takes nothing")

    async def calls(self, tool: str, count: int, **arguments: object) -> list[View]:
        """So many calls, made now and seen through beside everything else."""
        views = [self.load.view(tool, **arguments) for _ in range(count)]
        for view in views:
            self.load.spawn(self.load.play(view, self.rng))
        return views

    async def until(self, reached: Callable[[], bool], what: str, timeout_s: float = 60.0) -> float:
        """Seconds until it was so. Raises Wrong."""
        started = time.monotonic()
        while True:
            self.ledger.refresh()
            if reached():
                return time.monotonic() - started
            if time.monotonic() - started > timeout_s:
                raise Wrong(f"not within {timeout_s:.0f} s: {what}")
            await asyncio.sleep(0.02)

    def starts(self, view: View) -> list[Entry]:
        self.ledger.refresh()
        return [] if view.task_id is None else self.ledger.starts(view.task_id)

    def begun(self) -> list[Entry]:
        """Every run of a function so far."""
        self.ledger.refresh()
        return [entry for entry in self.ledger.entries if entry.event == "start"]

    def first_start(self, view: View) -> Entry | None:
        return next(iter(self.starts(view)), None)

    def worker_of(self, view: View) -> int:
        """The process id of the worker that started it last."""
        return int(self.starts(view)[-1].note.split()[2])

    async def kill(self, name: str) -> float:
        """The worker is dead and collected, so that `revive` sees it. When the signal was sent, in Unix time."""
        at = time.time()
        await asyncio.to_thread(self.site.workers[name].kill)
        return at

    async def gone(self, pid: int) -> None:
        """The process of ours that had this id has ended, so that `revive` sees it."""
        ours = [*self.site.workers.values(), *self.site.front_ends.values()]
        await self.until(lambda: not any(child.running for child in ours if child.pid == pid), f"{pid} ends")

    def victim(self, views: Iterable[View]) -> tuple[str, list[View]]:
        """The worker that runs most of these, and which it runs."""
        by_worker: dict[str, list[View]] = {}
        for view in views:
            name = self.site.worker_by_pid(self.worker_of(view))
            if name is not None:
                by_worker.setdefault(name, []).append(view)
        if not by_worker:
            raise Wrong("no worker runs the probes")
        return max(by_worker.items(), key=lambda item: len(item[1]))

    async def started_again(self, views: Iterable[View], since_s: float, timeout_s: float = NEVER_S) -> list[float]:
        """For each, the seconds from `since_s` (Unix time) until its function ran again."""
        waiting, recovered = list(views), []
        until = time.monotonic() + timeout_s
        while waiting and time.monotonic() < until:
            self.ledger.refresh()
            for view in list(waiting):
                again = [entry.at_s for entry in self.starts(view) if entry.at_s > since_s]
                if again:
                    recovered.append(min(again) - since_s)
                    waiting.remove(view)
            await asyncio.sleep(0.02)
        return recovered + [timeout_s] * len(waiting)

    async def started(self, views: Iterable[View], since_s: float, timeout_s: float = NEVER_S) -> list[float]:
        """For each call, the seconds until its function ran: from `since_s`, or from its acceptance when that was
        later. A call that was answered plainly had run by then."""
        waiting, took = list(views), []
        until = time.monotonic() + timeout_s
        while waiting and time.monotonic() < until:
            self.ledger.refresh()
            for view in list(waiting):
                begun = max(since_s, view.accepted_at_s)
                if view.plain:
                    took.append(max(0.0, view.ended_at_s - since_s))
                elif first := self.first_start(view):
                    took.append(max(0.0, first.at_s - begun))
                else:
                    continue
                waiting.remove(view)
            await asyncio.sleep(0.02)
        return took + [timeout_s] * len(waiting)

    async def fired(self, name: str, armed_s: float, timeout_s: float = 15.0) -> Entry | None:
        """The entry of the process that did what the point told it that was armed then; None when nobody passed by."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            self.ledger.refresh()
            for entry in reversed(self.ledger.of[""]):
                if entry.at_s >= armed_s and entry.note.startswith(name + " "):
                    return entry
            await asyncio.sleep(0.02)
        return None if triggers.disarm(self.folder, name) else await self.fired(name, armed_s, 1.0)
