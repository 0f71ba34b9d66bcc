"""Logging of the engine's processes: one line per event on standard error, fit for a terminal and for a collector."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from taskengine.settings import Settings

__all__ = ["configure"]

_NOISY = {
    "uvicorn.access": logging.WARNING,  # a line per poll tells nobody anything
    "celery": logging.WARNING,
    "kombu": logging.WARNING,
    "amqp": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore2": logging.WARNING,
    "alembic": logging.WARNING,
    "asyncio": logging.WARNING,
    "watchfiles": logging.WARNING,
}
"""Least level of libraries that would drown our own lines; at `log_level=debug` they speak as well."""


class _Line(logging.Formatter):
    """`2026-11-22T14:03:07.123Z INFO    taskengine.jobs[4711] message`, in UTC; a traceback follows indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s[%(process)d] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        cached, record.exc_text = record.exc_text, None  # another handler's rendering of the traceback
        try:
            return super().format(record)
        finally:
            record.exc_text = cached

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{moment}.{int(record.msecs):03d}Z"

    def formatException(self, ei: object) -> str:  # noqa: N802
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(f"    {line}" for line in text.splitlines())


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `configure` replaces it and leaves the handlers of others alone."""


def configure(settings: Settings) -> None:
    """Every logger writes to standard error at `settings.log_level`; calling it again changes nothing more."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Line())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, least in _NOISY.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == logging.DEBUG else max(level, least))
    logging.captureWarnings(True)
