"""The front end: MCP over HTTP, for `taskengine serve` and for mounting into another ASGI application."""

from taskengine.server.app import create_app
from taskengine.server.graceful import GracefulServer

__all__ = ["GracefulServer", "create_app"]
