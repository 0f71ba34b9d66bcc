"""Tools that disturb: they write to standard output and read standard input on every level there is, and hang."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from taskengine import TaskEngine


def shout(where: str) -> None:
    """By Python, by the saved stream, by descriptor, by C, and by a child process."""
    print(f"print {where}")
    assert sys.__stdout__ is not None
    sys.__stdout__.write(f"saved {where}\n")
    sys.__stdout__.flush()
    os.write(1, f"descriptor {where}\n".encode())
    library = ctypes.CDLL(None)
    library.printf(f"library {where}\n".encode())
    library.fflush(None)
    subprocess.run(["echo", f"child {where}"], check=True)


shout("import")
engine = TaskEngine("disturbing")


@engine.tool(task="forbidden")
async def noisy() -> str:
    """Write to standard output in the process that speaks with the host."""
    shout("tool")
    return "said"


@engine.tool(task="forbidden")
def greedy() -> str:
    """Read whatever is on standard input, here and in a child."""
    child = subprocess.run(["cat"], capture_output=True, check=True).stdout
    return repr(sys.stdin.read() + child.decode())


@engine.tool(task="forbidden")
def hang(ledger: str) -> str:
    """Block a thread of the front end for longer than any test."""
    Path(ledger).write_text("hangs")
    time.sleep(600)
    return "never"


@engine.tool(task="forbidden")
async def linger(ledger: str) -> str:
    """Say when it begins, and when it is stopped."""
    file = Path(ledger)
    file.write_text("began")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        file.write_text("stopped")
        raise
    return "never"
