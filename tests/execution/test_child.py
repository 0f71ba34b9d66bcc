"""What a tool process sends stays whole."""

from __future__ import annotations

from typing import Any

import pytest

from taskengine.errors import TaskCancelled
from taskengine.execution.child import _Wire
from taskengine.execution.frames import pack


class _Socket:
    """A socket in whose `sendall` the stop arrives: the signal handler runs in the middle of the frame."""

    def __init__(self) -> None:
        self.sent = b""
        self.stop: Any = lambda: None

    def sendall(self, data: bytes) -> None:
        self.sent += data[: len(data) // 2]
        self.stop()
        self.sent += data[len(data) // 2 :]


def test_a_stop_in_the_middle_of_a_frame_waits_for_its_end() -> None:
    socket = _Socket()
    wire = _Wire(socket)  # type: ignore[arg-type]
    wire.begin(1)

    def stop() -> None:
        wire.stopped = (1, TaskCancelled)
        wire.interrupt()

    socket.stop = stop
    message = {"op": "log", "level": "info", "data": "a" * 1000, "logger": None}
    with pytest.raises(TaskCancelled):
        wire.send(message)
    assert socket.sent == pack(message)
