"""Logging of the engine's processes: one line per event on standard error, fit for a terminal and for a collector.

A line says what it is about: task, attempt, owner, tool and trace, as far as whoever runs the code has `bound` them.
Nothing in a line commands a terminal or begins another one: control characters are spelled out, and what follows a line
break is indented.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TextIO

from taskengine.settings import Settings

__all__ = ["bound", "configure", "configure_child", "spelled_out"]

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

_FOR_CHILDREN = "_TASKENGINE_LOGS"
"""The environment variable by which a process tells those it starts how to log: format and level."""

# Control characters, and those that turn the direction of a text or break its line.
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_about: ContextVar[Mapping[str, object]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def bound(
    *,
    task: str | None = None,
    attempt: int | None = None,
    owner: str | None = None,
    tool: str | None = None,
    traceparent: str | None = None,
) -> Iterator[None]:
    """Every line that is written within is about this, besides what it was about outside."""
    trace = None if traceparent is None else traceparent[3:35]
    given = {"task": task, "attempt": attempt, "owner": owner, "tool": tool, "trace": trace}
    token = _about.set({**_about.get(), **{name: value for name, value in given.items() if value is not None}})
    try:
        yield
    finally:
        _about.reset(token)


def spelled_out(text: str) -> str:
    """The text without characters that command a terminal or disguise what it says; line breaks and tabs stay."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _moment(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"


class _Line(logging.Formatter):
    """`2026-11-22T14:03:07.123Z INFO    taskengine.jobs[4711] message [task=…]`, in UTC; a traceback follows indented.

    What the message says itself is not said again.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s[%(process)d] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        cached, record.exc_text = record.exc_text, None  # another handler's rendering of the traceback
        try:
            return spelled_out(super().format(record))
        finally:
            record.exc_text = cached

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = record.message.replace("\n", "\n    ")
        said = " ".join(
            f"{name}={_one_line(value)}" for name, value in _about.get().items() if str(value) not in record.message
        )
        line, _, rest = super().formatMessage(record).partition("\n")
        return "".join((line, f" [{said}]" if said else "", f"\n{rest}" if rest else ""))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return _moment(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        return _indented(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return _indented(stack_info)


class _Json(logging.Formatter):
    """One JSON object a line: `at`, `level`, `logger`, `pid`, `message`, what it is about, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **_about.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `configure` replaces it and leaves the handlers of others alone."""


def configure(settings: Settings) -> None:
    """Every logger writes to standard error at `settings.log_level`; calling it again changes nothing more."""
    os.environ[_FOR_CHILDREN] = f"{settings.log_format} {settings.log_level}"
    _configure(settings.log_format, settings.log_level)


def configure_child() -> None:
    """The same in a process for sync tools, which is told by the one that started it."""
    form, _, level = os.environ.get(_FOR_CHILDREN, "").partition(" ")
    if level:
        _configure(form, level)


def _configure(form: str, least_level: str) -> None:
    level = logging.getLevelNamesMapping()[least_level.upper()]
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Line())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, least in _NOISY.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == logging.DEBUG else max(level, least))
    logging.captureWarnings(True)
