"""Rounds of claims: what those that ask at the same time share, and who is left out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Phase
from taskengine.records import Slot
from taskengine.store import Store, claims
from tests.store.calls import OWNER, stored, worker


@pytest.fixture
async def sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements of a worker `w1`, by what they are for."""
    await worker(store, "w1")
    names = {claims._CLAIM_NEXT.sql: "claim", claims._BY_TURN.look.sql: "look"}
    seen: list[str] = []
    database = store._database
    run = database.run

    async def noted(statement: Any, values: Any = None) -> Any:
        seen.append(names.get(getattr(statement, "sql", ""), "another"))
        return await run(statement, values)

    monkeypatch.setattr(database, "run", noted)
    return seen


async def _ask(store: Store) -> str | None:
    claim = await store.attempts.claim_next(["default"], "w1")
    return None if claim is None else claim.task_id


async def test_those_who_get_nothing_look_once_together(store: Store, sent: list[str]) -> None:
    bells = [await stored(store) for _ in range(2)]
    sent.clear()
    found = await asyncio.gather(*(_ask(store) for _ in range(8)))
    assert sorted(filter(None, found)) == sorted(bell.task_id for bell in bells)
    assert sent == ["claim", "look"]


async def test_those_who_get_all_do_not_look(store: Store, sent: list[str]) -> None:
    for _ in range(3):
        await stored(store)
    sent.clear()
    assert None not in await asyncio.gather(*(_ask(store) for _ in range(3)))
    assert sent == ["claim"]


async def test_who_asked_and_has_gone_gets_no_task(store: Store, sent: list[str]) -> None:
    bell = await stored(store)
    sent.clear()
    asking = asyncio.ensure_future(_ask(store))
    asyncio.get_running_loop().call_soon(asking.cancel)  # before its round begins
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
    while store.attempts._claims._rounds:
        await asyncio.sleep(0)
    assert sent == []
    assert (await store.tasks.get(bell.task_id, OWNER)).phase is Phase.QUEUED
    assert await _ask(store) == bell.task_id


async def test_of_those_who_ask_together_as_many_get_a_task_as_its_limit_allows(store: Store, sent: list[str]) -> None:
    for _ in range(4):
        await stored(store, slots=(Slot("k", 2),))
    free = await stored(store, tool="other")
    found = await asyncio.gather(*(_ask(store) for _ in range(5)))
    claimed = [task_id for task_id in found if task_id is not None]
    assert len(claimed) == len(set(claimed)) == 3
    assert free.task_id in claimed


async def test_those_who_wait_for_a_round_that_is_stopped_hear_of_it(store: Store, sent: list[str]) -> None:
    await stored(store)
    asking = [asyncio.ensure_future(_ask(store)) for _ in range(2)]
    rounds = store.attempts._claims._rounds
    while not rounds:
        await asyncio.sleep(0)
    next(iter(rounds.values())).cancel()  # before it begins
    outcomes = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 20)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
    assert await _ask(store) is not None
