"""A child process whose end tells all that the kernel knows: exit code or signal, and the most memory it held.

It leads a session of its own, so what is sent to the group of this process (Ctrl-C, a SIGTERM to all) does not reach it
or what it has started; and those end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from taskengine.execution.families import kill_family
from taskengine.losses import Loss

__all__ = ["Spawned"]

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Spawned:
    """A running process. Made on an event loop, which hears of its end."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        """Raises OSError when it cannot be started; `options` are those of `subprocess.Popen`."""
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Loss] = loop.create_future()
        self._popen = subprocess.Popen(command, start_new_session=True, **options)  # noqa: S603 - our own
        self.pid = self._popen.pid
        threading.Thread(target=self._wait, args=(loop,), name=f"wait-{self.pid}", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._popen.returncode is None

    def kill(self) -> None:
        if self.alive:
            kill_family(self.pid)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: `wait4` is what tells the memory, and Popen has no way to it."""
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:  # whoever ignores SIGCHLD is told nothing
            self._popen.returncode = -signal.SIGKILL
            loss = Loss("it ended, and nobody was told how")
        else:
            kill_family(self.pid)  # its number is no other's as long as anybody is in the group
            self._popen.returncode = os.waitstatus_to_exitcode(status)
            loss = _loss(self._popen.returncode, usage)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._tell, loss)

    def _tell(self, loss: Loss) -> None:
        if not self.ended.done():
            self.ended.set_result(loss)


def _loss(code: int, usage: resource.struct_rusage) -> Loss:
    peak = usage.ru_maxrss * _RSS_UNIT
    if code >= 0:
        return Loss(f"it exited with code {code}", exit_code=code, peak_bytes=peak)
    name = f"signal {-code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
    return Loss(f"killed by {name}", signal=name, peak_bytes=peak)
