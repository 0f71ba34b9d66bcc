"""Thousands of open streams on one front end: what they weigh, and how soon a completion reaches its stream."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import orjson

from benchmarks.load import Connection, request
from benchmarks.scale_site import Figure, Program, Site, execute, percentile, run

__all__ = ["listen_streams", "result_streams"]

STREAMS = 2000
RATE = 100.0
"""Completions a second."""
PER_SESSION = 20
OPENERS = 16
LEAD_S = 30.0
"""Time to open everything before the first task ends."""
CALM = 0.2
"""Of a core: what a front end that only waits stays below."""
MIB = 1 << 20
LEGACY = "2025-11-25"


class _Stream(asyncio.Protocol):
    """Sends one request and notes when the bytes it waits for came."""

    def __init__(self, message: bytes, opened: bytes, wanted: bytes) -> None:
        self._message, self._opened, self._wanted = message, opened, wanted
        self._tail = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.came: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._message)
        if not self._opened:
            self.opened.set_result(None)

    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        if not self.opened.done() and self._opened in seen:
            self.opened.set_result(None)
        if not self.came.done() and self._wanted in seen:
            self.came.set_result(time.time())
        self._tail = seen[-len(self._wanted) :]

    def connection_lost(self, _: Exception | None) -> None:
        for future in (self.opened, self.came):
            if not future.done():
                future.set_exception(ConnectionError(f"the stream was closed early: {self._tail!r}"))


def listen_streams(site: Site) -> list[Figure]:
    """`subscriptions/listen` of 2026-07-28, one task each."""
    return _measure(site, "subscriptions/listen", _listening)


def result_streams(site: Site) -> list[Figure]:
    """`tasks/result` of 2025-11-25, one task each."""
    return _measure(site, "tasks/result of 2025-11-25", _following)


def _measure(site: Site, name: str, opening: Any) -> list[Figure]:
    count = site.scaled(STREAMS)
    url = site.database()
    with site.front_end(url) as front, site.worker(url, ASYNC_SLOTS=str(count + 500)):
        more, late, early = run(_drive(front, url, count, opening))
    site.drop(url)
    failed = f"; failed: {early} tasks had ended before all streams were open" if early else ""
    p99 = percentile(late, 0.99) * 1000
    middle = percentile(late, 0.5) * 1000
    each = more / count / 1024
    return [
        Figure(
            f"{count:,} open {name} streams on one front end: more memory",
            "under 150 MB",
            f"{more / MIB:.0f} MB ({each:.0f} KB each){failed}",
            more < 150 * MIB and not early,
        ),
        Figure(
            f"completion to its {name} stream, {RATE:.0f} completions a second, p99",
            "under 50 ms",
            f"{p99:.0f} ms (median {middle:.1f} ms){failed}",
            p99 < 50 and not early,
        ),
    ]


async def _drive(front: Program, url: str, count: int, opening: Any) -> tuple[int, list[float], int]:
    """Bytes of memory more, seconds from each end to its stream, and how many tasks ended before all were open."""
    task_ids = await _start_tasks(front.url, count)
    before = front.memory_bytes()
    streams: list[_Stream] = []
    messages = await opening(front.url, task_ids)

    async def open_share(share: int) -> None:
        for message, opened, wanted in messages[share::OPENERS]:
            parts = urlsplit(front.url)
            _, stream = await asyncio.get_running_loop().create_connection(
                lambda message=message, opened=opened, wanted=wanted: _Stream(message, opened, wanted),
                parts.hostname or "",
                parts.port or 0,
            )
            streams.append(stream)
            await stream.opened

    begun = time.monotonic()
    await asyncio.gather(*(open_share(share) for share in range(OPENERS)))
    print(f"  {count} streams opened in {time.monotonic() - begun:.1f} s", flush=True)
    await _until_calm(front)
    more = front.memory_bytes() - before
    (row,) = await execute(url, "SELECT count(*) FROM tasks WHERE phase = 'done'")
    came = dict(zip((message[0] for message in messages), task_ids, strict=True))
    await asyncio.gather(*(stream.came for stream in streams))
    ended = {
        row[0]: float(row[1])
        for row in await execute(url, "SELECT id, extract(epoch FROM ended_at) FROM tasks WHERE phase = 'done'")
    }
    late = [stream.came.result() - ended[came[stream._message]] for stream in streams]  # noqa: SLF001
    for stream in streams:
        stream.transport.close()
    return more, late, int(row[0])


async def _start_tasks(url: str, count: int) -> list[str]:
    """Tasks that end one after the other, at `RATE`, when the streams are open."""
    begun = time.monotonic()
    base = begun + LEAD_S + count / RATE
    task_ids: list[str] = []

    async def start_share(share: int) -> None:
        connection = await Connection.open(url)
        for n in range(share, count, OPENERS):
            seconds = base + n / RATE - time.monotonic()
            message = request(url, "tools/call", "sleep", {"name": "sleep", "arguments": {"seconds": seconds}})
            task_ids.append(str((await connection.send(message))["taskId"]))
        await connection.close()

    await asyncio.gather(*(start_share(share) for share in range(OPENERS)))
    print(f"  {count} tasks started in {time.monotonic() - begun:.1f} s", flush=True)
    return task_ids


async def _until_calm(front: Program) -> None:
    """Every request has come in and waits."""
    before, used = front.cpu_s(), 1.0
    while used > CALM:
        await asyncio.sleep(1)
        used, before = front.cpu_s() - before, front.cpu_s()


async def _listening(url: str, task_ids: list[str]) -> list[tuple[bytes, bytes, bytes]]:
    return [
        (
            request(url, "subscriptions/listen", "", {"notifications": {"taskIds": [task_id]}}),
            task_id.encode(),
            b'"completed"',
        )
        for task_id in task_ids
    ]


async def _following(url: str, task_ids: list[str]) -> list[tuple[bytes, bytes, bytes]]:
    sessions = [await _session(url) for _ in range(-(-len(task_ids) // PER_SESSION))]
    return [
        (
            _legacy(url, sessions[n // PER_SESSION], n + 10, "tasks/result", {"taskId": task_id}),
            b"",  # nothing is said before the task ends
            b'"result"',
        )
        for n, task_id in enumerate(task_ids)
    ]


async def _session(url: str) -> str:
    """The id of a session of 2025-11-25 whose handshake is over."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    info = {"name": "load", "version": "1"}
    params = {"protocolVersion": LEGACY, "capabilities": {"tasks": {}}, "clientInfo": info}
    writer.write(_legacy(url, None, 1, "initialize", params))
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    session = next(line.split(": ", 1)[1] for line in head.splitlines() if line.lower().startswith("mcp-session-id"))
    writer.write(_legacy(url, session, None, "notifications/initialized", {}))
    while b" 202 " not in await reader.readline():
        pass
    writer.close()
    return session


def _legacy(url: str, session: str | None, request_id: int | None, method: str, params: dict[str, Any]) -> bytes:
    parts = urlsplit(url)
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    body = orjson.dumps(message if request_id is None else {**message, "id": request_id})
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n"
    )
    if session is not None:
        head += f"Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: {LEGACY}\r\n"
    return head.encode() + b"\r\n" + body
