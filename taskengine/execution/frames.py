"""Frames between a worker and its tool processes: four bytes of length, then JSON. Both ends are ours.

worker to process: `run` (a call), `answers` and `signal` (replies to `ask`), `stop` (end the running call)
process to worker: `progress`, `log`, `ask`, `tools_changed`, and one `done` or `ended` for each `run`
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

__all__ = ["pack", "read_frame", "receive_frame"]

_LENGTH = struct.Struct(">I")


def pack(message: dict[str, Any]) -> bytes:
    body = json.dumps(message, separators=(",", ":"), default=dict).encode()
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None when the other end is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        message: dict[str, Any] = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


def receive_frame(connection: socket.socket) -> dict[str, Any] | None:
    """The same on a blocking socket."""
    head = _receive(connection, _LENGTH.size)
    body = _receive(connection, _LENGTH.unpack(head)[0]) if head is not None else None
    if body is None:
        return None
    message: dict[str, Any] = json.loads(body)
    return message


def _receive(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = connection.recv(min(size - len(parts), 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
