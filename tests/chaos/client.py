"""The clients of the load: raw keep-alive connections to several front ends, and a record of everything they saw."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

__all__ = ["ENDED", "Away", "Refusal", "View", "Wire"]

PROTOCOL = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"
_META = {
    "io.modelcontextprotocol/protocolVersion": PROTOCOL,
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "extensions": {TASKS: {}}},
    "io.modelcontextprotocol/clientInfo": {"name": "chaos", "version": "1"},
}
REQUEST_TIMEOUT_S = 15.0
KEPT_S = 3.0
"""Servers close idle connections after five seconds, and may do so just when one is used again."""
ENDED = {"completed", "failed", "cancelled"}
UNAVAILABLE = "cannot reach its database"


class Away(Exception):
    """No answer: the connection was refused, cut or silent, or the server says that its database is away. What was
    asked may have been done all the same."""


class Refusal(Exception):
    """The server answered with an error that is not about its database."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


@dataclass(slots=True)
class View:
    """One call as its client saw it. `result` and `error` are as they first came; later readings are compared."""

    label: str
    tool: str
    arguments: dict[str, Any]
    key: str | None = None
    """The idempotency key of the call: it is repeated as it is until it is answered, and makes one task."""
    task_id: str | None = None
    plain: bool = False
    """The call was answered with its plain result: there is no task id that the client knows."""
    asked_at_s: float = 0.0
    accepted_at_s: float = 0.0
    ended_at_s: float = 0.0
    statuses: list[str] = field(default_factory=list)
    """Each status once, in the order in which they were first seen after another."""
    outcome: Any = None
    """What the client was given at the end: the result, or the error object."""
    answers: dict[str, set[str]] = field(default_factory=dict)
    """Every word that was sent for a key, acknowledged or not."""
    cancel_acknowledged: bool = False
    unsure: list[str] = field(default_factory=list)
    """Labels of calls that got no answer; each may have made a task or not."""
    faults: list[str] = field(default_factory=list)
    """What a client must never see."""

    @property
    def over(self) -> bool:
        return bool(self.statuses) and self.statuses[-1] in ENDED

    def saw(self, status: str, outcome: Any = None) -> None:
        if self.over and status != self.statuses[-1]:
            self.faults.append(f"{self.statuses[-1]} became {status}")
        if self.over and status == self.statuses[-1] and outcome != self.outcome:
            self.faults.append(f"the end changed from {self.outcome} to {outcome}")
        if not self.statuses or status != self.statuses[-1]:
            self.statuses.append(status)
            if self.over:
                self.outcome = outcome
                self.ended_at_s = time.time()


class Wire:
    """Requests to one front end at a time, over connections that are kept."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]]] = {}
        self.requests = 0
        self.unanswered: list[tuple[float, str]] = []
        """When, and why, a request got no answer."""

    async def ask(self, url: str, method: str, mirrored: str, params: dict[str, Any]) -> dict[str, Any]:
        """The `result`. Raises Away or Refusal."""
        self.requests += 1
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                reply = await self._exchange(url, _request(url, method, mirrored, params))
        except (OSError, EOFError, TimeoutError, httptools.HttpParserError) as error:
            self.unanswered.append((time.time(), f"{method}: {type(error).__name__}"))
            raise Away(f"{method}: {error!r}") from error
        if "result" in reply:
            result: dict[str, Any] = reply["result"]
            return result
        error = reply["error"]
        if UNAVAILABLE in error["message"]:
            self.unanswered.append((time.time(), f"{method}: the database is away"))
            raise Away(error["message"])
        raise Refusal(error["code"], error["message"])

    async def _exchange(self, url: str, message: bytes) -> dict[str, Any]:
        idle = self._idle.setdefault(url, deque())
        while idle:
            used_s, reader, writer = idle.pop()
            if not (reader.at_eof() or writer.is_closing()) and time.monotonic() - used_s < KEPT_S:
                break
            writer.close()
        else:
            parts = urlsplit(url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(message)
            answer = _Answer()
            parser = httptools.HttpResponseParser(answer)
            while not answer.complete:
                parser.feed_data(await reader.read(65536) or _closed())
        except BaseException:
            writer.close()
            raise
        idle.append((time.monotonic(), reader, writer))
        body = b"".join(answer.body)
        if not body.startswith(b"{"):
            body = next(line[5:] for line in reversed(body.splitlines()) if line.startswith(b"data:"))
        reply: dict[str, Any] = orjson.loads(body)
        return reply

    async def close(self) -> None:
        for idle in self._idle.values():
            for _, _, writer in idle:
                writer.close()
        self._idle.clear()


def _closed() -> bytes:
    raise EOFError("the connection was closed")


class _Answer:
    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


def _request(url: str, method: str, mirrored: str, params: dict[str, Any]) -> bytes:
    parts = urlsplit(url)
    meta = _META | params.get("_meta", {})
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}})
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {PROTOCOL}\r\n"
        f"Mcp-Method: {method}\r\nMcp-Name: {mirrored}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
