"""A load generator for the 2026-07-28 wire: raw connections, a C parser, no client library in the way.

One process drives any number of keep-alive connections. `python -m benchmarks.load` shows how fast it is by
itself, against a server that answers every request with the same bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

__all__ = ["Connection", "Load", "own_speed", "request", "run"]

PROTOCOL = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"
_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
_META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": PROTOCOL,
    _CAPABILITIES: {"extensions": {TASKS: {}}},
    "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "1"},
}


def request(
    url: str, method: str, mirrored: str, params: dict[str, Any], *, elicitation: bool = False, token: str = ""
) -> bytes:
    """One POST, whole; `mirrored` goes into `Mcp-Name`. With `elicitation` the call may ask; `token` says who calls."""
    parts = urlsplit(url)
    meta = _META | {_CAPABILITIES: {**_META[_CAPABILITIES], "elicitation": {}}} if elicitation else _META
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}})
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {PROTOCOL}\r\n"
        f"Mcp-Method: {method}\r\nMcp-Name: {mirrored}\r\nContent-Length: {len(body)}\r\n"
    )
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    return head.encode() + b"\r\n" + body


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        """Which of several it is, counted from 0."""
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, url: str, number: int = 0) -> Connection:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(number), parts.hostname, parts.port
        )
        return connection

    async def send(self, message: bytes) -> dict[str, Any]:
        """The `result` of the answer, from JSON or from a stream's last event. Raises RuntimeError for an error."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        body = await self._answer
        if not body.startswith(b"{"):
            body = next(line[5:] for line in reversed(body.splitlines()) if line.startswith(b"data:"))
        reply = orjson.loads(body)
        if "result" not in reply:
            raise RuntimeError(f"HTTP {self._parser.get_status_code()}: {reply}")
        result: dict[str, Any] = reply["result"]
        return result

    async def close(self) -> None:
        self._transport.close()

    # -- asyncio and the parser call these

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RuntimeError(f"the connection was closed ({exc or 'by the server'})"))

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(body)


@dataclass(frozen=True)
class Load:
    """What one round measured."""

    requests: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


async def run(url: str, connections: int, seconds: float, work: Callable[[Connection], Awaitable[object]]) -> Load:
    """Repeat `work` on each connection for that long; how often it was done."""
    opened = [await Connection.open(url, number) for number in range(connections)]
    done = 0
    started = time.perf_counter()
    until = started + seconds

    async def drive(connection: Connection) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await work(connection)
            done += 1

    await asyncio.gather(*(drive(connection) for connection in opened))
    elapsed = time.perf_counter() - started
    for connection in opened:
        await connection.close()
    return Load(done, elapsed)


async def own_speed(connections: int = 16, seconds: float = 3.0) -> float:
    """Requests a second of this generator and an empty server, which answers all alike, in one process."""
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": {"status": "working"}})
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    class Same(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, _data: bytes) -> None:
            self.transport.write(answer)

    server = await asyncio.get_running_loop().create_server(Same, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"
    message = request(url, "tasks/get", "tsk_x", {"taskId": "tsk_x"}, token="x" * 32)
    load = await run(url, connections, seconds, lambda connection: connection.send(message))
    server.close()
    return load.rate


if __name__ == "__main__":
    import uvloop

    print(f"the load generator and an empty server in one process: {uvloop.run(own_speed()):,.0f} requests/s")
