"""The front end as a Starlette application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route

from taskengine.engine import TaskEngine
from taskengine.server.endpoint import McpEndpoint
from taskengine.server.health import Health
from taskengine.server.service import Service
from taskengine.settings import Settings, load_settings

__all__ = ["create_app"]


def create_app(engine: TaskEngine, settings: Settings | None = None) -> Starlette:
    """Serves the engine's tools at `settings.path`, and `/healthz` and `/readyz`. Where tokens of an authorization
    server are wanted, clients find it at `/.well-known/oauth-protected-resource` (RFC 9728).

    Run it by itself, or mount it into another ASGI application: `Mount("/tools", create_app(engine))`. A mounted
    application gets no lifespan; it starts with its first request, and the host ends it with
    `await app.state.service.stop()`. Whoever runs the HTTP server may call `app.state.service.drain()` when it begins
    to stop, as `GracefulServer` does: open streams then get a proper end.

    Limits: the body has at most `settings.max_body_bytes`, the headers 32 KiB (see `server.checks`).
    """
    service = Service(engine, settings if settings is not None else load_settings())
    health = Health(service)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with service:
            yield

    guard = service.guard
    places = [] if guard.resource is None else guard.resource.paths(service.settings.path)
    app = Starlette(
        routes=[
            Route(service.settings.path, McpEndpoint(service)),
            Route("/healthz", health.healthz),
            Route("/readyz", health.readyz),
            *(Route(place, guard.metadata) for place in places),
        ],
        lifespan=lifespan,
    )
    app.state.service = service
    return app
