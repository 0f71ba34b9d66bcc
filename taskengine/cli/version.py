"""`taskengine version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from taskengine.cli.screen import out
from taskengine.store import migrate

__all__ = ["version"]


def version() -> None:
    """Print the versions of the engine, its schema and what it stands on."""
    try:
        own = version_of("taskengine")
    except PackageNotFoundError:
        own = "(not installed)"
    out.print(f"taskengine {own}, schema {migrate.head()}, MCP 2026-07-28")
    parts = ", ".join(f"{name} {version_of(name)}" for name in ("celery", "starlette", "sqlalchemy", "mcp-types"))
    out.print(f"Python {platform.python_version()}, {parts}")
