"""Bytes to a front end and back, without a client that would mind what they are."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from taskengine.wire import modern
from tests.server.peer import EXTENSION

LONG_S = 30.0
"""Longer than anything here may take; a test that waits so long has failed."""
GONE = (ConnectionError, asyncio.IncompleteReadError, BrokenPipeError)


def body(method: str, params: Mapping[str, Any] | None = None, request_id: int | str = 1) -> bytes:
    """A message of 2026-07-28 without fault."""
    envelope = {modern.VERSION_KEY: modern.VERSION, modern.CAPABILITIES_KEY: EXTENSION}
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**(params or {}), "_meta": envelope}}
    return json.dumps(message).encode()


def head(method: str, *more: str, name: str | None = None, verb: str = "POST", path: str = "/mcp") -> bytes:
    """Its headers, without the end of them and without a length."""
    lines = [
        f"{verb} {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {modern.VERSION}",
        f"Mcp-Method: {method}",
        *([] if name is None else [f"Mcp-Name: {name}"]),
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n"


def request(method: str, params: Mapping[str, Any] | None = None, request_id: int | str = 1) -> bytes:
    """The whole of a request without fault."""
    content = body(method, params, request_id)
    named = (params or {}).get("name")
    return head(method, f"Content-Length: {len(content)}", name=named) + b"\r\n" + content


def call(tool: str, request_id: int | str = 1, **arguments: Any) -> bytes:
    return request("tools/call", {"name": tool, "arguments": arguments}, request_id)


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), LONG_S)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer. Raises one of GONE when the connection ended before it."""
        async with asyncio.timeout(LONG_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:]) if name}
            if headers.get("transfer-encoding") == "chunked":
                content = b""
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    content += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readexactly(2)
                return status, headers, content
            return status, headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def begins(self) -> int:
        """The status of an answer whose body is left unread."""
        async with asyncio.timeout(LONG_S):
            return int((await self.reader.readuntil(b"\r\n\r\n")).split(b" ")[1])

    async def rest(self) -> bytes:
        """What comes until the other side ends the connection."""
        async with asyncio.timeout(LONG_S):
            found = b""
            with suppress(*GONE):
                while chunk := await self.reader.read(1 << 16):
                    found += chunk
            return found

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def line(url: str, *, small: bool = False) -> AsyncIterator[Line]:
    """A connection to the front end; with `small`, the system keeps little of what is not read."""
    parts = urlsplit(url)
    connected = socket.socket()
    if small:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connected, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=connected, limit=1 << 16)
    opened = Line(reader, writer)
    try:
        yield opened
    finally:
        opened.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LONG_S):
                await writer.wait_closed()
