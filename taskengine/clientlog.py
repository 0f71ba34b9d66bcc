"""Log messages that a tool sends to its client (X-LOG-08): one method for each of the eight levels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from taskengine.content import clean_text, encode_json
from taskengine.errors import ResultError

__all__ = ["LEVELS", "Level", "Log", "SyncLog"]

Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
LEVELS: tuple[Level, ...] = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""From the least to the most severe."""


class Log:
    """Log messages of a call, for its client: `await ctx.log.info("…")`, or `await ctx.log("info", "…")`."""

    def __init__(self, send: Callable[[str, Any, str | None], Awaitable[None]]) -> None:
        self._send = send

    async def __call__(self, level: Level, data: Any, logger: str | None = None) -> None:
        """Send `data`, any JSON; what is not JSON goes as its text. Raises ValueError for an unknown level."""
        await self._send(_level(level), _loggable(data), logger)

    async def debug(self, data: Any, logger: str | None = None) -> None:
        await self("debug", data, logger)

    async def info(self, data: Any, logger: str | None = None) -> None:
        await self("info", data, logger)

    async def notice(self, data: Any, logger: str | None = None) -> None:
        await self("notice", data, logger)

    async def warning(self, data: Any, logger: str | None = None) -> None:
        await self("warning", data, logger)

    async def error(self, data: Any, logger: str | None = None) -> None:
        await self("error", data, logger)

    async def critical(self, data: Any, logger: str | None = None) -> None:
        await self("critical", data, logger)

    async def alert(self, data: Any, logger: str | None = None) -> None:
        await self("alert", data, logger)

    async def emergency(self, data: Any, logger: str | None = None) -> None:
        await self("emergency", data, logger)


class SyncLog:
    """Log messages of a call, for its client: `ctx.log.info("…")`, or `ctx.log("info", "…")`."""

    def __init__(self, send: Callable[[str, Any, str | None], None]) -> None:
        self._send = send

    def __call__(self, level: Level, data: Any, logger: str | None = None) -> None:
        """Send `data`, any JSON; what is not JSON goes as its text. Raises ValueError for an unknown level."""
        self._send(_level(level), _loggable(data), logger)

    def debug(self, data: Any, logger: str | None = None) -> None:
        self("debug", data, logger)

    def info(self, data: Any, logger: str | None = None) -> None:
        self("info", data, logger)

    def notice(self, data: Any, logger: str | None = None) -> None:
        self("notice", data, logger)

    def warning(self, data: Any, logger: str | None = None) -> None:
        self("warning", data, logger)

    def error(self, data: Any, logger: str | None = None) -> None:
        self("error", data, logger)

    def critical(self, data: Any, logger: str | None = None) -> None:
        self("critical", data, logger)

    def alert(self, data: Any, logger: str | None = None) -> None:
        self("alert", data, logger)

    def emergency(self, data: Any, logger: str | None = None) -> None:
        self("emergency", data, logger)


def _level(level: str) -> str:
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a log level: use one of {', '.join(LEVELS)}")
    return level


def _loggable(data: Any) -> Any:
    """JSON of `data`, or else text: a log line never fails a call."""
    if not isinstance(data, str):
        try:
            plain = to_jsonable_python(data, serialize_unknown=True, by_alias=True)
            encode_json(plain)
        except (ResultError, ValueError, RecursionError):
            data = repr(data)
        else:
            return plain
    return clean_text(data)
