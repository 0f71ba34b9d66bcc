"""What processes of this machine cost, as its kernel counts it, and where they may listen."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

__all__ = ["Machine", "free_port"]

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Machine:
    """What a process and all its descendants cost, as the kernel counts it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def pids(self) -> list[int]:
        found, look = [], [self.pid]
        while look:
            pid = look.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    look += [int(each) for each in (thread / "children").read_text().split()]
        return found

    def cpu_s(self) -> float:
        """CPU seconds so far, those of descendants that have ended included."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(each) for each in fields[11:15])
        return ticks * _TICK_S

    def memory_bytes(self) -> int:
        """Proportional set size: what is shared counts once."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
