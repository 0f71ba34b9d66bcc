"""The processes in which sync tools run: one call at a time each, kept warm, replaced when they die.

A process of its own is what makes a sync tool safe: it can be interrupted in a blocking call, killed when it will not
end, and it can die of its own fault, all without touching other tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Mapping
from datetime import timedelta
from typing import Any

from taskengine.calling import Outcome
from taskengine.errors import EngineError, ProtocolError, Signal
from taskengine.execution.child import SIGNALS
from taskengine.execution.families import Families
from taskengine.execution.frames import ANSWERS, ENTRIES, ENTRY, JOURNAL, REFUSED, WAIT, pack, read_frame
from taskengine.execution.spawned import Spawned
from taskengine.losses import Loss
from taskengine.port import DurablePort, Port
from taskengine.records import Claim

__all__ = ["NotBegun", "ProcessDied", "ToolProcess", "ToolProcesses"]

logger = logging.getLogger("taskengine.execution")

START_TIMEOUT_S = 60
SPARE = 1


class ProcessDied(EngineError):
    """The process ended while it ran a tool."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss)
        self.loss = loss

    def __str__(self) -> str:
        return f"the tool's process died: {self.loss.cause}"


class NotBegun(ProcessDied):
    """The process ended before it had begun the call: nothing of the tool has run, and another can take it."""


class ToolProcess:
    def __init__(
        self, process: Spawned, connection: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._socket = connection
        self._reader = reader
        self._writer = writer
        self._call = 0
        self._busy = False
        self.tools: frozenset[str] = frozenset()
        process.ended.add_done_callback(self._read_to_the_end)

    @classmethod
    async def start(cls, target: str, families: Families) -> ToolProcess:
        """A process that has loaded `target` and waits for calls; it is one of `families`. Raises ProcessDied.

        Whoever stops waiting for it leaves no process behind.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-m", "taskengine.execution.child", target)
            try:
                process = Spawned(
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                ours.close()
                raise ProcessDied(Loss(f"it could not be started ({type(error).__name__})")) from None
        families.add(process.pid)
        process.ended.add_done_callback(lambda _: families.remove(process.pid))
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            process.kill()
            ours.close()
            raise
        self = cls(process, ours, reader, writer)
        try:
            ready = await asyncio.wait_for(read_frame(reader), START_TIMEOUT_S)
        except BaseException as error:
            self.kill()
            writer.close()
            if isinstance(error, TimeoutError):
                raise ProcessDied(Loss(f"it did not load {target} within {START_TIMEOUT_S} s")) from None
            raise
        if ready is None:
            raise ProcessDied(await self._end())
        self.tools = frozenset(ready["tools"])
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.alive and not self._reader.at_eof()

    @property
    def idle(self) -> bool:
        """Alive, and its last call is over on both sides: it may be given another."""
        return self.alive and not self._busy

    async def call(self, claim: Claim, port: Port, *, show_exceptions: bool, max_result_bytes: int) -> Outcome:
        """Run the claimed tool. Raises the signal that ended it, ProcessDied, or NotBegun before the tool has run."""
        durable = port.durable
        assert durable is not None, "only tasks run in processes"
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
                "owner": claim.owner,
                "trace": claim.trace,
                "capabilities": claim.capabilities,
                "first": claim.first,
                "caller": None if claim.caller is None else claim.caller.dump(),
                "journal": JOURNAL.dump_python(dict(durable.journal), mode="json"),
                "answers": ANSWERS.dump_python(dict(durable.answers), mode="json"),
                "now": durable.clock().isoformat(),
                "show_exceptions": show_exceptions,
                "max_result_bytes": max_result_bytes,
            }
        )
        return Outcome(**(await self._until_done(port))["outcome"])

    async def clean_up(self, tool: str, task_id: str, attempt: int, arguments: Mapping[str, Any]) -> str | None:
        """Run the tool's `on_cancel`; what went wrong. Raises as `call` does."""
        self._call += 1
        self._busy = True
        facts = {"tool": tool, "task_id": task_id, "attempt": attempt, "arguments": arguments}
        self._send({"op": "clean_up", "call": self._call, **facts})
        problem: str | None = (await self._until_done(None))["problem"]
        return problem

    async def _until_done(self, port: Port | None) -> dict[str, Any]:
        died: type[ProcessDied] = NotBegun
        while True:
            message = await read_frame(self._reader)
            if message is None:
                raise died(await self._end())
            match message["op"]:
                case "begun":
                    died = ProcessDied
                case "done":
                    self._busy = False
                    return message
                case "ended":
                    self._busy = False
                    raise SIGNALS[message["signal"]]
                case _ if port is not None:
                    await self._serve(port, message)

    async def _serve(self, port: Port, message: dict[str, Any]) -> None:
        """Do what the running tool asks of its context."""
        match message["op"]:
            case "progress":
                await self._report(port.progress(message["progress"], message["total"], message["message"]))
            case "log":
                await self._report(port.log(message["level"], message["data"], message["logger"]))
            case "tools_changed":
                await self._report(port.tools_changed())
            case "port":
                assert port.durable is not None, "only tasks run in processes"
                await self._reply(port.durable, message)

    async def _report(self, report: Awaitable[None]) -> None:
        """A signal raised by a report reaches the tool, which did not wait for an answer, as a stop."""
        try:
            await report
        except Signal as ended:
            self.stop(type(ended))

    async def _reply(self, port: DurablePort, message: dict[str, Any]) -> None:
        try:
            self._send({"op": "given", "given": await _asked(port, message)})
        except Signal as ended:
            self._send({"op": "signal", "signal": type(ended).__name__})
        except ProtocolError as error:
            self._send({"op": "error", "code": error.code, "message": error.message, "data": error.data})
        except tuple(REFUSED.values()) as error:
            kind = next(name for name, known in REFUSED.items() if isinstance(error, known))
            self._send({"op": "refused", "error": kind, "message": str(error)})

    def stop(self, ended: type[Signal]) -> None:
        """Raise `ended` in the running call, also in the middle of a blocking one."""
        self._send({"op": "stop", "call": self._call, "signal": ended.__name__})

    def kill(self) -> None:
        self._process.kill()

    def drop(self) -> None:
        """It is of no use any more, if it has not ended already."""
        self._writer.close()
        if self._process.alive:
            self.kill()

    async def close(self) -> None:
        """End an idle process."""
        self._writer.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._process.ended), 2)
        except TimeoutError:
            self.kill()
            await self._process.ended

    def _read_to_the_end(self, _: object) -> None:
        """What it has sent is read, and nothing more is waited for: a daemon that it forked may have the socket too."""
        with contextlib.suppress(OSError):  # not by the transport, whose idea of a socket cannot do that on every loop
            self._socket.shutdown(socket.SHUT_RD)

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(pack(message))

    async def _end(self) -> Loss:
        """How it ended. One whose socket is closed and that lives on is of no use, and is killed."""
        self._writer.close()
        try:
            return await asyncio.wait_for(asyncio.shield(self._process.ended), 2)
        except TimeoutError:
            self.kill()
            return await self._process.ended


async def _asked(port: DurablePort, message: dict[str, Any]) -> Any:
    """What a method of the port gives to the process that asked for it."""
    match message["method"]:
        case "record":
            await port.record(ENTRY.validate_python(message["entry"]))
        case "call":
            made = await port.call(ENTRY.validate_python(message["entry"]), message["arguments"])
            return ENTRY.dump_python(made, mode="json")
        case "park":
            entries = ENTRIES.validate_python(message["entries"])
            await port.park(WAIT.validate_python(message["wait"]), entries, linger=message["linger"])
            return {
                "journal": JOURNAL.dump_python(dict(port.journal), mode="json"),
                "answers": ANSWERS.dump_python(dict(port.answers), mode="json"),
            }
        case "give_up":
            await port.give_up(ENTRY.validate_python(message["entry"]), message["keys"])
            return ANSWERS.dump_python(dict(port.answers), mode="json")
        case "token":
            held = await port.token(timedelta(seconds=message["seconds"]))
            return {"value": held.value, "expires_at": None if held.expires_at is None else held.expires_at.isoformat()}
        case "answer_child":
            await port.answer_child(message["child_id"], message["responses"])
        case _:
            await port.withdraw(message["child_id"])
    return None


class ToolProcesses:
    """As many processes as there were sync calls at once, up to the sync slots, and a spare one.

    The spare is for the next call, and for the one whose process has died: it begins anew at once, and not after the
    start of a process.
    """

    def __init__(self, target: str, size: int) -> None:
        self._target = target
        self._most = size + SPARE if size else 0
        self._idle: list[ToolProcess] = []
        self._taken: set[ToolProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._wanting = 0
        """Calls that have no process yet."""
        self._families = Families()

    async def warm(self) -> None:
        """Start the spare ahead of the first call; if it cannot start it says so then, and again at its call."""
        self._refill()
        await asyncio.gather(*self._starting)

    async def take(self) -> ToolProcess:
        """An idle process, or a new one. Raises ProcessDied."""
        self._wanting += 1
        try:
            self._refill(spare=0)  # what is wanted comes first
            process = self._pop()
            while process is None and self._starting:  # no second start beside one that is under way
                await asyncio.wait(self._starting, return_when=asyncio.FIRST_COMPLETED)
                process = self._pop()
            if process is None:
                process = await ToolProcess.start(self._target, self._families)
            self._taken.add(process)
        finally:
            self._wanting -= 1
        self._refill()
        return process

    async def give_back(self, process: ToolProcess) -> None:
        """Keep it for the next call; one that is still busy with an abandoned call is of no use to anybody."""
        self._taken.discard(process)
        if process.idle and len(self._idle) < self._most:
            self._idle.append(process)
        else:
            process.drop()
        self._refill()

    async def close(self) -> None:
        for start in self._starting:
            start.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        idle, self._idle, self._most = self._idle, [], 0
        await asyncio.gather(*(process.close() for process in idle))
        await asyncio.to_thread(self._families.close)

    def _pop(self) -> ToolProcess | None:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            process.drop()
        return None

    def _refill(self, spare: int = SPARE) -> None:
        """Start what is missing, in the background."""
        for process in [each for each in (*self._idle, *self._taken) if not each.alive]:
            process.drop()
            self._taken.discard(process)
            if process in self._idle:
                self._idle.remove(process)
        there = len(self._idle) + len(self._taken) + len(self._starting)
        for _ in range(min(self._most, len(self._taken) + self._wanting + spare) - there):
            start = asyncio.get_running_loop().create_task(self._start())
            self._starting.add(start)
            start.add_done_callback(self._starting.discard)

    async def _start(self) -> None:
        try:
            self._idle.append(await ToolProcess.start(self._target, self._families))
        except ProcessDied as died:
            logger.warning("a tool process did not start: %s", died)
