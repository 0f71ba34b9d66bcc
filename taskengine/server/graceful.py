"""uvicorn that tells the front end before it waits for open requests."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from taskengine.server.service import Service

__all__ = ["GracefulServer"]


class GracefulServer(uvicorn.Server):
    """Serves `create_app(…)`; when told to stop, open streams end with a result instead of a broken connection."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service: Any = getattr(getattr(self.config.app, "state", None), "service", None)
        if isinstance(service, Service):
            service.drain()
        await super().shutdown(sockets)
