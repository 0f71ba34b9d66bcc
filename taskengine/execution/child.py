"""A tool process: runs sync tools, one at a time, on its main thread.

It knows neither the database nor the broker; its worker is reached over one socket. When that closes, the worker is
gone and so is this process: nothing it could still produce would be accepted.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import TypeAdapter

from taskengine import logs
from taskengine.calling import call_sync
from taskengine.cleanup import clean_up_sync
from taskengine.errors import (
    AttemptLost,
    AttemptReleased,
    ProtocolError,
    Signal,
    Suspended,
    TaskCancelled,
)
from taskengine.execution.frames import ANSWERS, ENTRIES, ENTRY, JOURNAL, REFUSED, WAIT, pack, receive_frame
from taskengine.identity import AccessToken, Identity
from taskengine.port import IN_PLACE
from taskengine.records import Answered, Entry, Question, Wait
from taskengine.target import load_target
from taskengine.tool import Tool

__all__ = ["main"]

SIGNALS: dict[str, type[Signal]] = {
    each.__name__: each for each in (Suspended, AttemptReleased, AttemptLost, TaskCancelled)
}
_PR_SET_PDEATHSIG = 1


class _Wire:
    """The socket: a thread reads, everybody writes whole frames."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.calls: queue.Queue[dict[str, Any]] = queue.Queue()
        self.replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self.running = -1
        """The number of the call that may be interrupted."""
        self.stopped: tuple[int, type[Signal]] = (0, Signal)
        """The last call that was told to end, and how. One assignment, so that the threads agree."""
        self._main = threading.main_thread().ident
        self._sending = False
        """Whether the main thread is within a frame, which must go out whole."""

    def send(self, message: dict[str, Any]) -> None:
        frame = pack(message)
        if threading.get_ident() != self._main:
            with self._lock:
                self._connection.sendall(frame)
            return
        self._sending = True
        try:
            with self._lock:
                self._connection.sendall(frame)
        finally:
            self._sending = False
        self.interrupt()

    def read_for_ever(self) -> None:
        while True:
            message = receive_frame(self._connection)
            if message is None:
                os._exit(0)
            match message["op"]:
                case "run" | "clean_up":
                    self.calls.put(message)
                case "stop":
                    told = (message["call"], SIGNALS[message["signal"]])
                    again, self.stopped = told == self.stopped, told
                    # Once: a second interruption would cut short the tool's `finally`.
                    if not again and message["call"] == self.running and self._main is not None:
                        signal.pthread_kill(self._main, signal.SIGUSR1)
                case _:
                    self.replies.put(message)

    def begin(self, call: int) -> None:
        """From here on the call may be interrupted. Raises at once when its stop has overtaken it."""
        self.running = call
        self.interrupt()

    def forget_replies(self) -> None:
        """Drop what was still on its way to a call that was interrupted while it asked."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.replies.get_nowait()

    def interrupt(self, _signum: int = 0, _frame: FrameType | None = None) -> None:
        """On the main thread, also in the middle of a blocking call: the stop becomes an exception in the tool."""
        call, ended = self.stopped
        if call == self.running and not self._sending:
            raise ended


class _ChildPort:
    """`SyncPort` of a tool that runs in this process."""

    in_place = IN_PLACE

    def __init__(self, wire: _Wire, call: Mapping[str, Any]) -> None:
        self._wire = wire
        self.task_id: str | None = call["task_id"]
        self.attempt: int = call["attempt"]
        self.capabilities: Mapping[str, Any] = call["capabilities"]
        self.first: Mapping[str, Mapping[str, Any]] = call["first"]
        self.caller = None if call["caller"] is None else Identity.load(call["caller"])
        self.journal: Mapping[str, Entry] = JOURNAL.validate_python(call["journal"])
        self.answers: Mapping[str, Answered] = ANSWERS.validate_python(call["answers"])
        self._now = datetime.fromisoformat(call["now"])
        self._began = time.monotonic()

    @property
    def cancelled(self) -> bool:
        return self._wire.stopped == (self._wire.running, TaskCancelled)

    def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._wire.send({"op": "progress", "progress": progress, "total": total, "message": message})

    def log(self, level: str, data: Any, logger: str | None) -> None:
        self._wire.send({"op": "log", "level": level, "data": data, "logger": logger})

    def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:  # noqa: ARG002
        raise AssertionError("what runs here has a journal, and asks through that")

    def tools_changed(self) -> None:
        self._wire.send({"op": "tools_changed"})

    # -- SyncDurablePort

    @property
    def durable(self) -> _ChildPort:
        return self

    def clock(self) -> datetime:
        return self._now + timedelta(seconds=time.monotonic() - self._began)

    def record(self, entry: Entry) -> None:
        self._request("record", entry=_plain(ENTRY, entry))

    def call(self, entry: Entry, arguments: Mapping[str, Any]) -> Entry:
        return ENTRY.validate_python(self._request("call", entry=_plain(ENTRY, entry), arguments=arguments))

    def park(self, wait: Wait, entries: Sequence[Entry], *, linger: bool) -> None:
        fresh = self._request("park", wait=_plain(WAIT, wait), entries=_plain(ENTRIES, list(entries)), linger=linger)
        self.journal = JOURNAL.validate_python(fresh["journal"])
        self.answers = ANSWERS.validate_python(fresh["answers"])

    def give_up(self, entry: Entry, keys: Sequence[str]) -> None:
        self.answers = ANSWERS.validate_python(self._request("give_up", entry=_plain(ENTRY, entry), keys=list(keys)))

    def answer_child(self, child_id: str, responses: Mapping[str, Mapping[str, Any]]) -> None:
        self._request("answer_child", child_id=child_id, responses=responses)

    def withdraw(self, child_id: str) -> None:
        self._request("withdraw", child_id=child_id)

    def token(self, valid_for: timedelta) -> AccessToken:
        held = self._request("token", seconds=valid_for.total_seconds())
        expires_at = held["expires_at"]
        return AccessToken(held["value"], None if expires_at is None else datetime.fromisoformat(expires_at))

    def _request(self, method: str, **arguments: Any) -> Any:
        self._wire.send({"op": "port", "method": method, **arguments})
        reply = self._wire.replies.get()
        match reply["op"]:
            case "signal":
                raise SIGNALS[reply["signal"]]
            case "error":
                raise ProtocolError(reply["code"], reply["message"], reply["data"])
            case "refused":
                raise REFUSED[reply["error"]](reply["message"])
        return reply["given"]


def _plain(adapter: TypeAdapter[Any], value: Any) -> Any:
    return adapter.dump_python(value, mode="json")


def main(target: str, descriptor: int, parent: int) -> None:
    """Serve calls until the worker closes the socket.

    `target` names the engine, `descriptor` is the socket's, `parent` the worker's process id.
    """
    _die_with(parent)
    logs.configure_child()
    # A signal sent to the whole process group asks the worker to drain; it decides what becomes of running tools.
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    wire = _Wire(socket.socket(fileno=descriptor))
    signal.signal(signal.SIGUSR1, wire.interrupt)
    engine = load_target(target)
    threading.Thread(target=wire.read_for_ever, name="wire", daemon=True).start()
    wire.send({"op": "ready", "tools": list(engine.tools)})
    while True:
        call = wire.calls.get()
        tool = engine.get_tool(call["tool"])
        assert tool is not None, "the worker asks only for tools both know"
        wire.forget_replies()
        try:
            try:
                _forget_peak()
                wire.send({"op": "begun"})
                wire.begin(call["call"])
                done = _clean_up(tool, call) if call["op"] == "clean_up" else _run(tool, call, wire)
            finally:
                wire.running = -1
        except Signal as ended:
            wire.running = -1  # the interruption may have come within the finally
            wire.send({"op": "ended", "signal": type(ended).__name__})
        else:
            wire.send({"op": "done", **done})


def _run(tool: Tool, call: Mapping[str, Any], wire: _Wire) -> dict[str, Any]:
    with logs.bound(
        task=call["task_id"],
        attempt=call["attempt"],
        owner=call["owner"],
        tool=tool.name,
        traceparent=call["trace"],
    ):
        outcome = call_sync(
            tool,
            call["arguments"],
            _ChildPort(wire, call),
            show_exceptions=call["show_exceptions"],
            max_result_bytes=call["max_result_bytes"],
        )
    return {"outcome": dataclasses.asdict(outcome)}


def _clean_up(tool: Tool, call: Mapping[str, Any]) -> dict[str, Any]:
    assert tool.on_cancel is not None, "the worker has looked"
    cancelled = tool.cancelled(call["task_id"], call["attempt"], call["arguments"])
    return {"problem": clean_up_sync(tool.on_cancel, cancelled)}


def _forget_peak() -> None:
    """Let the most memory that the kernel tells of this process at its end be that of the present call."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _die_with(parent: int) -> None:
    """Ask Linux for SIGKILL when the worker dies; elsewhere the closed socket does it a little later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
