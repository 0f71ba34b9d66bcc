"""Progress and log lines on their way to the store: collected, and written a few times a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from taskengine.content import encode_json
from taskengine.errors import ClaimLost, ResultError, StoreUnavailable
from taskengine.records import Claim
from taskengine.store import Store

__all__ = ["Reports", "progress_text"]

logger = logging.getLogger("taskengine.execution")

WRITE_EVERY_S = 0.2
MOST_LINES = 1000
"""Log lines kept between two writes; more are counted and dropped."""
LONGEST_LINE = 64 * 1024
LONGEST_MESSAGE = 1000


class Reports:
    """The reports of one attempt. Only the latest progress is kept: it is a state, not a history."""

    def __init__(self, store: Store, claim: Claim, most_lines: int | None = None) -> None:
        """`most_lines` of the task are kept, in all its attempts together; None for all."""
        self._store = store
        self._claim = claim
        self._progress: tuple[float, float | None, str | None] | None = None
        self._lines: list[dict[str, Any]] = []
        self._dropped = 0
        self._most_lines = most_lines
        self._room: int | None = None
        """How many more lines of the task are kept; None before it is known."""
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._progress = (progress, total, _clean(message, LONGEST_MESSAGE) if message is not None else None)
        self._write_soon()

    def log(self, level: str, data: Any, logger_name: str | None) -> None:
        if len(self._lines) >= MOST_LINES:
            self._dropped += 1
            return
        try:
            text = encode_json(data)
        except ResultError as error:
            text = encode_json(f"(a log value that cannot be stored: {error})")
        if len(text) > LONGEST_LINE:
            text = encode_json(f"{text[:LONGEST_LINE]}… ({len(text)} characters)")
        name = _clean(str(logger_name), LONGEST_MESSAGE) if logger_name is not None else None
        self._lines.append({"level": level, "logger": name, "data": text.replace("\x00", "")})
        self._write_soon()

    async def close(self) -> None:
        """Write what is left, before the attempt's end is stored."""
        self._closing.set()
        if self._writer is not None:
            await self._writer
        await self._write()

    def _write_soon(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_at_intervals())

    async def _write_at_intervals(self) -> None:
        while self._progress is not None or self._lines:
            await self._write()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), WRITE_EVERY_S)

    async def _write(self) -> None:
        progress, self._progress = self._progress, None
        lines, self._lines = self._lines, []
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append({"level": "warning", "logger": "taskengine", "data": encode_json(f"{dropped} lines dropped")})
        try:
            if progress is not None:
                await self._store.attempts.progress(self._claim, *progress, progress_text(*progress))
            if lines:
                await self._log(lines)
        except ClaimLost:
            pass  # the attempt learns of it in its own way
        except StoreUnavailable as error:
            logger.warning("reports of task %s were not stored: %s", self._claim.task_id, error)
        except Exception:  # a report never costs the task its attempt
            logger.exception("reports of task %s were not stored", self._claim.task_id)

    async def _log(self, lines: list[dict[str, Any]]) -> None:
        if self._most_lines is not None:
            if self._room is None:
                self._room = self._most_lines - await self._store.attempts.logged(self._claim, self._most_lines + 1)
            full = self._room < 0  # the line that says so is there
            over, lines = len(lines) > max(0, self._room), lines[: max(0, self._room)]
            self._room -= len(lines)
            if over and not full:
                said = f"no more lines are kept of this task: {self._most_lines} are the most (max_log_lines)"
                lines.append({"level": "warning", "logger": "taskengine", "data": encode_json(said)})
                self._room = -1
        if lines:
            await self._store.attempts.log(self._claim, lines)


def progress_text(progress: float, total: float | None, message: str | None) -> str:
    """The status message of a running task: "42 % · 3/7 · indexing" (M-TASK-22)."""
    parts = []
    if total:
        parts = [f"{min(100, progress / total * 100):.0f} %", f"{progress:g}/{total:g}"]
    elif not message:
        parts = [f"{progress:g}"]
    if message:
        parts.append(message)
    return " · ".join(parts)


def _clean(text: str, longest: int) -> str:
    """Fit for a text column and a screen: no NUL, no lone surrogate, bounded."""
    text = text.replace("\x00", "").encode("utf-8", "replace").decode()
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
