"""The mixed load: what is called, how its clients behave, and how many at once. Everything is drawn from one seed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.chaos.client import ENDED, Away, Refusal, View, Wire

__all__ = ["Load"]

PATIENCE_S = 600.0
"""After this a client gives up on a call, and the audit counts it as lost. A sync call may wait behind two rounds of
the longest tools there are (`faults_races.LONG_S`)."""
MIX: dict[str, int] = {
    "instant": 40,
    "doze": 14,
    "crunch": 8,
    "block": 3,
    "ask": 8,
    "ask_sync": 3,
    "tool_error": 5,
    "protocol_error": 5,
    "endless": 4,
    "endless_sync": 1,
    "race": 6,
}
KEYED = 0.5
"""The share of calls with an idempotency key."""
AGAIN = 0.2
"""The share of those that are repeated although they were answered."""
KEY = "dev.taskengine/idempotencyKey"
JOURNALED_MIX = {"steps": 8, "slumber": 4, "recall": 2, "parent": 3}


class Load:
    """`front_ends` tells the URLs that may answer now; a client chooses one of them for each request."""

    def __init__(self, seed: int, front_ends: Callable[[], list[str]], *, journaled: bool) -> None:
        self.rng = random.Random(seed)
        self.wire = Wire()
        self.views: list[View] = []
        self.stopping = False
        self.keyed = KEYED
        self._front_ends = front_ends
        self._mix = MIX | (JOURNALED_MIX if journaled else {})
        self._clients: set[asyncio.Task[None]] = set()
        self._number = 0

    def start(self, clients: int, pause_s: float) -> None:
        """So many clients, each of which calls, waits for the end and pauses for `pause_s` on average."""
        for _ in range(clients):
            self.spawn(self._live(random.Random(self.rng.random()), pause_s))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        return task

    async def stop(self) -> None:
        """No new calls; returns when every call has ended or was given up."""
        self.stopping = True
        while self._clients:
            await asyncio.gather(*self._clients)

    async def _live(self, rng: random.Random, pause_s: float) -> None:
        await asyncio.sleep(rng.random() * pause_s)
        while not self.stopping:
            await self.play(self.draw(rng), rng)
            await asyncio.sleep(rng.expovariate(1 / pause_s) if pause_s else 0)

    def draw(self, rng: random.Random) -> View:
        """A call by the mix."""
        kind = rng.choices(list(self._mix), list(self._mix.values()))[0]
        match kind:
            case "instant":
                return self.view(kind, x=rng.randrange(1000))
            case "doze":
                return self.view(kind, seconds=round(rng.uniform(0.1, 2.0), 2))
            case "race":
                return self.view("doze", mark="-race", seconds=round(rng.uniform(0.05, 0.5), 2))
            case "block":
                return self.view(kind, seconds=round(rng.uniform(0.1, 0.8), 2))
            case "crunch":
                return self.view(kind, n=rng.randrange(1000, 200_000))
            case "steps":
                return self.view(kind, n=rng.randrange(2, 6))
            case "slumber":
                # Short enough to be waited for in the attempt, or long enough to end it.
                return self.view(kind, seconds=round(rng.choice([rng.uniform(0.5, 4.0), rng.uniform(6.0, 9.0)]), 1))
            case "parent":
                return self.view(kind, children=rng.randrange(1, 6))
        return self.view(kind)

    def view(self, tool: str, *, mark: str = "", **arguments: Any) -> View:
        """A call that is to be made; it counts from now on."""
        self._number += 1
        label = f"c{self._number:05d}{mark}"
        key = f"key-{label}" if self.rng.random() < self.keyed else None
        view = View(label, tool, {"label": label, **arguments}, key=key)
        self.views.append(view)
        return view

    # -- one call

    async def play(
        self, view: View, rng: random.Random, url: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """Make the call (at `url`, or anywhere) and see it through, as a client that does not give up so soon."""
        deadline = time.monotonic() + patience_s
        await self.create(view, rng, deadline, url)
        if view.task_id is not None:
            await self.follow(view, rng, deadline)

    async def follow(self, view: View, rng: random.Random, deadline: float) -> None:
        """Poll, answer and cancel until the task has ended."""
        cancel_at = None
        if view.tool.startswith("endless"):
            cancel_at = time.monotonic() + rng.uniform(0.1, 1.5)
        elif "-race" in view.label:
            cancel_at = time.monotonic() + max(0.0, float(view.arguments["seconds"]) + rng.gauss(0.05, 0.1))
        wait_s = 0.05
        while time.monotonic() < deadline and not view.over:
            if cancel_at is not None and time.monotonic() >= cancel_at:
                if await self.cancel(view, rng):
                    cancel_at = None
                wait_s = 0.02
            await self.look(view, rng)
            if not view.over:
                left = wait_s if cancel_at is None else min(wait_s, max(0.0, cancel_at - time.monotonic()))
                await asyncio.sleep(left)
                wait_s = min(wait_s * 1.5, 0.6)

    async def create(self, view: View, rng: random.Random, deadline: float, url: str | None = None) -> None:
        """Call until a front end answers. A call with a key is repeated as it is; one without is not repeated: the
        next one is another call."""
        view.asked_at_s = time.time()
        number = 0
        while time.monotonic() < deadline:
            arguments = view.arguments
            if number:
                arguments = {**view.arguments, "label": f"{view.label}.{number}"}
            try:
                answer = await self._call(view, arguments, url or self.front_end(rng))
            except Away:
                if view.key is None:
                    view.unsure.append(arguments["label"])
                    number += 1
                await asyncio.sleep(0.1 + rng.random() * 0.4)
            except Refusal as refusal:
                view.faults.append(f"the call was refused: {refusal}")
                return
            else:
                view.label, view.arguments = arguments["label"], arguments
                view.accepted_at_s = time.time()
                if "taskId" in answer:
                    view.task_id = answer["taskId"]
                    if answer["status"] not in ENDED:  # how it ended is not in this answer (M-TASK-12): a poll tells
                        view.saw(answer["status"])
                else:
                    view.plain = True
                    view.saw("completed", _without_meta(answer))
                break
        if view.key is not None and view.task_id is not None and rng.random() < AGAIN:
            await self.call_again(view, rng)

    async def call_again(self, view: View, rng: random.Random) -> None:
        """The call once more under its key, as by a client that lost the answer: it is the same task."""
        try:
            answer = await self._call(view, view.arguments, self.front_end(rng))
        except Away:
            return
        except Refusal as refusal:
            view.faults.append(f"the repeated call was refused: {refusal}")
            return
        if answer.get("taskId", view.task_id) != view.task_id:
            view.faults.append(f"the call repeated under its key gave {answer['taskId']}, not {view.task_id}")

    async def _call(self, view: View, arguments: dict[str, Any], url: str) -> dict[str, Any]:
        params: dict[str, Any] = {"name": view.tool, "arguments": arguments}
        if view.key is not None:
            params["_meta"] = {KEY: view.key}
        return await self.wire.ask(url, "tools/call", view.tool, params)

    async def look(self, view: View, rng: random.Random, url: str | None = None) -> bool:
        """Read the task once; whether there was an answer. A question that is seen is answered."""
        try:
            seen = await self.wire.ask(
                url or self.front_end(rng), "tasks/get", view.task_id or "", {"taskId": view.task_id}
            )
        except Away:
            return False
        except Refusal as refusal:
            view.faults.append(f"tasks/get was refused: {refusal}")
            return False
        view.saw(seen["status"], _outcome(seen))
        if seen["status"] == "input_required":
            await self._answer(view, list(seen.get("inputRequests", {})), rng)
        return True

    async def _answer(self, view: View, keys: list[str], rng: random.Random) -> None:
        """Every open question gets a word; now and then two clients answer at once, with different ones."""
        times = 2 if rng.random() < 0.3 else 1
        await asyncio.gather(*(self._send_words(view, keys, rng) for _ in range(times)))

    async def _send_words(self, view: View, keys: list[str], rng: random.Random) -> None:
        words = {key: f"{key}-{rng.getrandbits(40):x}" for key in keys}
        for key, word in words.items():
            view.answers.setdefault(key, set()).add(word)
        responses = {key: {"action": "accept", "content": {"word": word}} for key, word in words.items()}
        params = {"taskId": view.task_id, "inputResponses": responses}
        for _ in range(20):
            try:
                await self.wire.ask(self.front_end(rng), "tasks/update", view.task_id or "", params)
            except Away:
                await asyncio.sleep(0.2 + rng.random() * 0.3)
            except Refusal as refusal:
                view.faults.append(f"an answer was refused: {refusal}")
                return
            else:
                return

    async def cancel(self, view: View, rng: random.Random) -> bool:
        try:
            await self.wire.ask(self.front_end(rng), "tasks/cancel", view.task_id or "", {"taskId": view.task_id})
        except Away:
            return False
        except Refusal as refusal:
            view.faults.append(f"the cancel was refused: {refusal}")
        view.cancel_acknowledged = True
        return True

    def front_end(self, rng: random.Random) -> str:
        return rng.choice(self._front_ends())


def _outcome(seen: dict[str, Any]) -> Any:
    return _without_meta(seen["result"]) if "result" in seen else seen.get("error")


def _without_meta(result: dict[str, Any]) -> dict[str, Any]:
    """What the tool gave, without what each wire message has of its own."""
    return {name: value for name, value in result.items() if name not in {"_meta", "resultType"}}
