"""What the commands that run until they are stopped share: signals, and a look at changed code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from taskengine.errors import SettingsError

__all__ = ["Interrupts", "watch_code"]


class Interrupts:
    """Counts Ctrl-C and SIGTERM instead of dying of them; `second` is what a second one does."""

    def __init__(self) -> None:
        self.count = 0
        self.second: Callable[[], None] | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1 and self.second is not None:
            self.second()


def watch_code(folder: Path) -> threading.Event:
    """Set whenever a Python file below `folder` changed."""
    try:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 (only the `dev` extra has it)
    except ImportError:
        raise SettingsError("--reload needs watchfiles: pip install 'taskengine[dev]'") from None
    changed = threading.Event()

    def look() -> None:
        for _ in watch(folder, watch_filter=PythonFilter(), debounce=300, raise_interrupt=False):
            changed.set()

    threading.Thread(target=look, name="reload", daemon=True).start()
    return changed
