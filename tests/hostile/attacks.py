"""The attacks of `python -m tests.hostile`: each holds what it does for as long as it is watched, and ends cleanly."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.hostile.raw import GONE, Line, body, call, head, line, request

__all__ = ["ATTACKS", "Attack"]

Attack = Callable[[str, int, asyncio.Event], Awaitable[str]]
"""Takes the address, how many clients take part, and what is set when it is enough; says what became of them."""

PATIENCE_S = 0.5


async def _each(url: str, many: int, over: asyncio.Event, act: Callable[[Line], Awaitable[None]], **kind: bool) -> str:
    """Every client on a connection of its own, opened again whenever it is lost."""
    lost = 0

    async def one() -> None:
        nonlocal lost
        while not over.is_set():
            with suppress(OSError, TimeoutError, *GONE):
                async with line(url, **kind) as opened:
                    await act(opened)
            lost += 1
            await asyncio.sleep(0.05)

    clients = [asyncio.create_task(one()) for _ in range(many)]
    await over.wait()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return f"{lost} connections ended by the server"


async def nothing(url: str, many: int, over: asyncio.Event) -> str:
    """For comparison."""
    await over.wait()
    return "-"


async def slow_headers(url: str, many: int, over: asyncio.Event) -> str:
    async def act(opened: Line) -> None:
        await opened.send(head("tools/list"))
        while not over.is_set() and not opened.reader.at_eof():
            await opened.send(b"X-Slow: y\r\n")
            with suppress(TimeoutError):
                await asyncio.wait_for(opened.reader.read(1 << 16), 1)

    return await _each(url, many, over, act)


async def slow_bodies(url: str, many: int, over: asyncio.Event) -> str:
    async def act(opened: Line) -> None:
        await opened.send(head("tools/list", "Content-Length: 4000000") + b"\r\n" + b" " * 60_000)
        while not over.is_set() and not opened.reader.at_eof():
            await opened.send(b" " * 100)
            with suppress(TimeoutError):
                await asyncio.wait_for(opened.reader.read(1 << 16), 1)

    return await _each(url, many, over, act)


async def large_bodies(url: str, many: int, over: asyncio.Event) -> str:
    """All but the last byte."""

    async def act(opened: Line) -> None:
        await opened.send(head("tools/list", "Content-Length: 4000000") + b"\r\n" + b" " * 3_999_999)
        await opened.rest()

    return await _each(url, many, over, act)


async def header_flood(url: str, many: int, over: asyncio.Event) -> str:
    async def act(opened: Line) -> None:
        await opened.send(head("tools/list"))
        while not over.is_set():
            await opened.send(b"X-Flood: " + b"y" * 100_000 + b"\r\n")

    return await _each(url, many, over, act)


async def idle_connections(url: str, many: int, over: asyncio.Event) -> str:
    async def act(opened: Line) -> None:
        await opened.rest()

    return await _each(url, many * 20, over, act)


async def pipelining(url: str, many: int, over: asyncio.Event) -> str:
    async def act(opened: Line) -> None:
        await opened.send(request("tools/list") * 1_000)
        await opened.rest()

    return await _each(url, min(many, 20), over, act)


async def deaf_readers(url: str, many: int, over: asyncio.Event) -> str:
    """They ask for much and read nothing."""

    async def act(opened: Line) -> None:
        await opened.send(call("flood", mebibytes=1))
        await over.wait()

    return await _each(url, min(many, 50), over, act, small=True)


async def deaf_streams(url: str, many: int, over: asyncio.Event) -> str:
    listen = request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})

    async def act(opened: Line) -> None:
        await opened.send(listen)
        await over.wait()

    return await _each(url, many * 5, over, act, small=True)


async def structure(url: str, many: int, over: asyncio.Event) -> str:
    """JSON that is all arrays: wide, and deep."""
    message = body("tools/call", {"name": "count", "arguments": {"values": 0}})
    wide = message.replace(b'"values": 0', b'"values": [' + b"[]," * 1_000_000 + b"[]]")
    deep = message.replace(b'"values": 0', b'"values": ' + b"[" * 1_000_000 + b"]" * 1_000_000)

    async def act(opened: Line) -> None:
        for content in (wide, deep):
            await opened.send(head("tools/call", f"Content-Length: {len(content)}", name="count") + b"\r\n" + content)
            await opened.answer()

    return await _each(url, min(many, 4), over, act)


async def bombs(url: str, many: int, over: asyncio.Event) -> str:
    bomb = gzip.compress(b" " * (64 << 20))

    async def act(opened: Line) -> None:
        await opened.send(head("tools/list", "Content-Encoding: gzip", f"Content-Length: {len(bomb)}") + b"\r\n" + bomb)
        await opened.answer()

    return await _each(url, min(many, 10), over, act)


ATTACKS: dict[str, Attack] = {
    "nothing": nothing,
    "slow headers": slow_headers,
    "slow bodies": slow_bodies,
    "large bodies without an end": large_bodies,
    "header flood": header_flood,
    "connections without requests": idle_connections,
    "pipelining": pipelining,
    "readers that never read": deaf_readers,
    "streams that are never read": deaf_streams,
    "huge and deep JSON": structure,
    "compressed bombs": bombs,
}
