"""Frames between a worker and its tool processes: four bytes of length, then JSON. Both ends are ours.

worker to process: `run` (a call), `clean_up` (an `on_cancel`), `stop` (end the running call), and one reply to each
    `port`: `given`, `signal`, `error` or `refused`
process to worker: `progress`, `log`, `tools_changed`, `port` (a method of `DurablePort`, by name), and for each `run`
    and `clean_up` a `begun`, and a `done` or an `ended`
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

from pydantic import TypeAdapter

from taskengine.calls import REFUSALS
from taskengine.errors import EngineError, ToolError
from taskengine.records import Answered, Entry, Wait

__all__ = ["ANSWERS", "ENTRIES", "ENTRY", "JOURNAL", "REFUSED", "WAIT", "pack", "read_frame", "receive_frame"]

REFUSED: dict[str, type[EngineError]] = {**REFUSALS, ToolError.__name__: ToolError}
"""What a method of the port may say no with, beside a `ProtocolError`. Each is made again from its message alone."""

# How records travel.
ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)
ENTRIES: TypeAdapter[list[Entry]] = TypeAdapter(list[Entry])
JOURNAL: TypeAdapter[dict[str, Entry]] = TypeAdapter(dict[str, Entry])
ANSWERS: TypeAdapter[dict[str, Answered]] = TypeAdapter(dict[str, Answered])
WAIT: TypeAdapter[Wait] = TypeAdapter(Wait)

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
