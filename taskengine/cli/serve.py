"""`taskengine serve`: one front end process under uvicorn."""

from __future__ import annotations

import logging
import signal
import socket
from typing import Any

import typer
import uvicorn

from taskengine import logs
from taskengine.auth.config import LOCAL_HOSTS
from taskengine.cli.screen import Host, Port, Target
from taskengine.errors import SettingsError
from taskengine.garbage import spare_what_stays
from taskengine.server import GracefulServer, create_app
from taskengine.server.guardrails import http_options, set_user_timeout
from taskengine.settings import Settings, load_settings
from taskengine.target import load_target

__all__ = ["serve"]

logger = logging.getLogger("taskengine.serve")


def serve(target: Target, host: Host = None, port: Port = None) -> None:
    """Serve TARGET's tools over HTTP. Any number of these may run; any of them answers any request."""
    given = {"host": host, "port": port}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    logs.configure(settings)
    app = create_app(load_target(target), settings)
    if not settings.authorized and settings.host not in LOCAL_HOSTS:
        logger.warning("whoever reaches %s may call every tool: auth_issuers is not set", settings.host)
    listening = _listen(settings)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            **http_options(settings),
            timeout_graceful_shutdown=max(1, round(settings.shutdown_grace.total_seconds())),
        ),
        f"http://{_bracketed(settings.host)}:{listening.getsockname()[1]}{settings.path}",
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # uvicorn has its own while it runs, and raises them again afterwards
    server.run([listening])
    raise typer.Exit(0 if server.started else 1)


class _Server(GracefulServer):
    """Says where it serves once it does."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            spare_what_stays()
            logger.info("taskengine ready: %s", self._url)


def _listen(settings: Settings) -> socket.socket:
    family: Any = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    set_user_timeout(listening)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise SettingsError(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror}): "
            "give another --host or --port, or stop what listens there"
        ) from error
    return listening


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
