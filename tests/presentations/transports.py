"""JSON-RPC to a front end by HTTP or by standard input and output, message by message. Knows nothing of tasks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx2

from taskengine.settings import Settings
from taskengine.wire import modern
from tests.presentations.place import APP, Front
from tests.processes import ROOT, environment
from tests.server.peer import BOTH, NAMED

Message = dict[str, Any]
ANSWER_S = 60.0


class Lost(Exception):
    """The front end went away before it had answered."""


class Transport(ABC):
    """`told` is called with every message that answers nothing: notifications, and requests of the server."""

    keeps_sessions: bool
    """Whether a session goes on after `restart`."""
    ends_with_its_stream: bool
    """Whether leaving the answer of a request of 2026-07-28 cancels it (M-CANC-01)."""

    def __init__(self) -> None:
        self.told: Callable[[Message], Awaitable[None]] = _ignore

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def request(self, message: Message) -> Message:
        """The response. Raises Lost. Cancelled, it leaves what is still to come."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """A notification, or a response to a request of the server."""

    @abstractmethod
    async def restart(self) -> None:
        """The front end is killed, and another takes its place."""


async def _ignore(_: Message) -> None:
    pass


class Http(Transport):
    keeps_sessions = True
    ends_with_its_stream = True

    def __init__(self, front: Front) -> None:
        super().__init__()
        self._front = front
        self._http: httpx2.AsyncClient | None = None
        self._session: dict[str, str] = {}

    async def open(self) -> None:
        self._http = httpx2.AsyncClient(timeout=ANSWER_S, trust_env=False)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def restart(self) -> None:
        await self._front.restart()
        await self.close()
        await self.open()

    async def request(self, message: Message) -> Message:
        assert self._http is not None
        headers = self._headers(message)
        try:
            async with self._http.stream(
                "POST", self._front.url, content=json.dumps(message), headers=headers
            ) as response:
                if response.headers.get("content-type") != "text/event-stream":
                    found: Message = json.loads(await response.aread())
                    if message["method"] == "initialize":
                        self._session = {"mcp-session-id": response.headers["mcp-session-id"]}
                        self._session["mcp-protocol-version"] = found["result"]["protocolVersion"]
                    return found
                async for line in response.aiter_lines():
                    if line.startswith("data:") and (data := line[5:].strip()):
                        event: Message = json.loads(data)
                        if event.get("id") == message["id"] and "method" not in event:
                            return event
                        await self.told(event)
        except httpx2.TransportError as error:
            raise Lost from error
        raise Lost

    async def send(self, message: Message) -> None:
        assert self._http is not None
        response = await self._http.post(self._front.url, content=json.dumps(message), headers=self._headers(message))
        assert response.status_code == 202, response.text

    def _headers(self, message: Message) -> dict[str, str]:
        known = {"accept": BOTH, "content-type": "application/json"}
        params = message.get("params", {})
        if modern.VERSION_KEY not in params.get("_meta", {}):
            return known | ({} if message.get("method") == "initialize" else self._session)
        known |= {"mcp-protocol-version": modern.VERSION, "mcp-method": message["method"]}
        name = params.get(NAMED.get(message["method"], ""))
        return known | ({"mcp-name": name} if isinstance(name, str) else {})


class Stdio(Transport):
    keeps_sessions = False
    ends_with_its_stream = False

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._open: dict[Any, asyncio.Future[Message]] = {}

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "taskengine", "stdio", APP),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment(self._settings),
            cwd=ROOT,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def restart(self) -> None:
        await self.close()
        await self.open()

    async def request(self, message: Message) -> Message:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._open[message["id"]] = future
        try:
            await self.send(message)
            async with asyncio.timeout(ANSWER_S):
                return await future
        finally:
            self._open.pop(message["id"], None)

    async def send(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Lost from error

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message: Message = json.loads(line)
            if "method" in message:
                await self.told(message)
            elif message["id"] in self._open and not self._open[message["id"]].done():
                self._open[message["id"]].set_result(message)
        for future in self._open.values():
            with contextlib.suppress(asyncio.InvalidStateError):
                future.set_exception(Lost())
