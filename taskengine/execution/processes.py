"""The processes in which sync tools run: one call at a time each, kept warm, replaced when they die.

A process of its own is what makes a sync tool safe: it can be interrupted in a blocking call, killed when it will not
end, and it can die of its own fault, all without touching other tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from typing import Any

from taskengine.calling import Outcome
from taskengine.errors import EngineError, ProtocolError, Signal
from taskengine.execution.child import SIGNALS
from taskengine.execution.frames import pack, read_frame
from taskengine.port import Port
from taskengine.records import Claim, Question

__all__ = ["ProcessDied", "ToolProcess", "ToolProcesses"]

logger = logging.getLogger("taskengine.execution")

START_TIMEOUT_S = 60


class ProcessDied(EngineError):
    """The process ended while it ran a tool."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        return f"the tool's process died: {self.cause}"


class ToolProcess:
    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._call = 0
        self._busy = False
        self.tools: frozenset[str] = frozenset()

    @classmethod
    async def start(cls, target: str) -> ToolProcess:
        """A process that has loaded `target` and waits for calls. Raises ProcessDied."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "taskengine.execution.child",
                target,
                str(theirs.fileno()),
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        self = cls(process, reader, writer)
        try:
            ready = await asyncio.wait_for(read_frame(reader), START_TIMEOUT_S)
        except TimeoutError:
            self.kill()
            raise ProcessDied(f"it did not load {target} within {START_TIMEOUT_S} s") from None
        if ready is None:
            raise ProcessDied(await self._cause())
        self.tools = frozenset(ready["tools"])
        return self

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def idle(self) -> bool:
        """Alive, and its last call is over on both sides: it may be given another."""
        return self.alive and not self._busy

    async def call(self, claim: Claim, port: Port, *, show_exceptions: bool, max_result_bytes: int) -> Outcome:
        """Run the claimed tool. Raises the signal that ended it, or ProcessDied."""
        self._call += 1
        self._busy = True
        self._send(
            {
                "op": "run",
                "call": self._call,
                "tool": claim.tool,
                "arguments": claim.arguments,
                "task_id": claim.task_id,
                "attempt": claim.attempt,
                "capabilities": claim.capabilities,
                "first": claim.first,
                "show_exceptions": show_exceptions,
                "max_result_bytes": max_result_bytes,
            }
        )
        while True:
            message = await read_frame(self._reader)
            if message is None:
                raise ProcessDied(await self._cause())
            match message["op"]:
                case "progress":
                    await self._report(port.progress(message["progress"], message["total"], message["message"]))
                case "log":
                    await self._report(port.log(message["level"], message["data"], message["logger"]))
                case "tools_changed":
                    await port.tools_changed()
                case "ask":
                    await self._ask(port, [Question(**question) for question in message["questions"]])
                case "done":
                    self._busy = False
                    return Outcome(**message["outcome"])
                case _:
                    self._busy = False
                    raise SIGNALS[message["signal"]]

    async def _report(self, report: Awaitable[None]) -> None:
        """A signal raised by a report reaches the tool, which did not wait for an answer, as a stop."""
        try:
            await report
        except Signal as ended:
            self.stop(type(ended))

    async def _ask(self, port: Port, questions: list[Question]) -> None:
        try:
            self._send({"op": "answers", "answers": await port.ask(questions)})
        except Signal as ended:
            self._send({"op": "signal", "signal": type(ended).__name__})
        except ProtocolError as error:
            self._send({"op": "error", "code": error.code, "message": error.message, "data": error.data})

    def stop(self, ended: type[Signal]) -> None:
        """Raise `ended` in the running call, also in the middle of a blocking one."""
        self._send({"op": "stop", "call": self._call, "signal": ended.__name__})

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> None:
        """End an idle process."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), 2)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(pack(message))

    async def _cause(self) -> str:
        code = await self._process.wait()
        self._writer.close()
        if code >= 0:
            return f"it exited with code {code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"


class ToolProcesses:
    """As many processes as there are sync slots, started when first needed."""

    def __init__(self, target: str, size: int) -> None:
        self._target = target
        self._size = size
        self._idle: list[ToolProcess] = []

    async def warm(self) -> None:
        """Start all of them ahead of the first call; one that cannot start says so then, and again at its call."""
        started = await asyncio.gather(
            *(ToolProcess.start(self._target) for _ in range(self._size - len(self._idle))), return_exceptions=True
        )
        for process in started:
            if isinstance(process, ToolProcess):
                self._idle.append(process)
            else:
                logger.error("a tool process did not start: %s", process)

    async def take(self) -> ToolProcess:
        """An idle process, or a new one. Raises ProcessDied."""
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
        return await ToolProcess.start(self._target)

    async def give_back(self, process: ToolProcess) -> None:
        """Keep it for the next call; one that is still busy with an abandoned call is of no use to anybody."""
        if process.idle and len(self._idle) < self._size:
            self._idle.append(process)
        elif process.alive:
            process.kill()

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.close() for process in idle))
