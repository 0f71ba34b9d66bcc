"""Connections are lent to one at a time, and one of unknown state to nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskengine.store.pool import Pool


class _Connection:
    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True

    async def close(self, timeout: float) -> None:
        self.closed = True


class _Server:
    def __init__(self) -> None:
        self.made: list[_Connection] = []
        self.away = False

    async def connect(self) -> Any:
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError("away")
        self.made.append(_Connection())
        return self.made[-1]


async def test_a_connection_that_was_given_back_is_lent_again() -> None:
    server = _Server()
    pool = Pool(server.connect, 2, 1)
    first = await pool.take()
    pool.give_back(first)
    assert await pool.take() is first
    assert len(server.made) == 1


async def test_whoever_comes_while_all_are_lent_gets_the_next_that_is_given_back() -> None:
    pool = Pool(_Server().connect, 1, 5)
    first = await pool.take()
    waiting = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0)
    pool.give_back(first)
    assert await waiting is first


async def test_a_wait_has_an_end_and_leaves_nothing_behind() -> None:
    pool = Pool(_Server().connect, 1, 0.01)
    first = await pool.take()
    with pytest.raises(TimeoutError):
        await pool.take()
    pool.give_back(first)
    assert await pool.take() is first


async def test_in_the_place_of_a_dropped_connection_a_waiter_opens_another() -> None:
    server = _Server()
    pool = Pool(server.connect, 1, 5)
    first = await pool.take()
    waiting = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0)
    pool.drop(first)
    assert await waiting is server.made[1]
    assert first.closed


async def test_connections_that_broke_while_they_were_idle_are_replaced() -> None:
    server = _Server()
    pool = Pool(server.connect, 2, 1)
    several = [await pool.take(), await pool.take()]
    for connection in several:
        pool.give_back(connection)
        connection.closed = True
    fresh = [await pool.take(), await pool.take()]
    assert fresh == server.made[2:]


async def test_a_connect_that_fails_leaves_its_place_to_the_next() -> None:
    server = _Server()
    pool = Pool(server.connect, 1, 5)
    server.away = True
    trying = [asyncio.ensure_future(pool.take()) for _ in range(3)]
    outcomes = await asyncio.gather(*trying, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConnectionError}
    server.away = False
    assert await pool.take() is server.made[0]


async def test_a_waiter_who_gives_up_in_the_moment_he_is_served_loses_no_connection() -> None:
    pool = Pool(_Server().connect, 1, 5)
    first = await pool.take()
    waiting = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0)
    pool.give_back(first)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await asyncio.wait_for(pool.take(), 1) is first


async def test_at_the_end_no_connection_is_open() -> None:
    server = _Server()
    pool = Pool(server.connect, 3, 1)
    for connection in [await pool.take(), await pool.take()]:
        pool.give_back(connection)
    await pool.close()
    assert [connection.closed for connection in server.made] == [True, True]
