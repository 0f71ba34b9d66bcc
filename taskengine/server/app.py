"""The front end as a Starlette application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from taskengine.engine import TaskEngine
from taskengine.server.endpoint import McpEndpoint
from taskengine.server.health import Health
from taskengine.server.service import Service
from taskengine.settings import Settings, load_settings

__all__ = ["create_app"]


class _FrontEnd(Starlette):
    """Requests for the endpoint go straight to it, which answers whatever happens; the way through middleware and
    routes would cost about as much as everything else a poll does in Python before its read. Where the application was
    given middleware or handlers of exceptions, they see these requests too."""

    endpoint: McpEndpoint
    path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._goes_straight(scope):
            scope["app"] = self
            await self.endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _goes_straight(self, scope: Scope) -> bool:
        if self.user_middleware or self.exception_handlers or scope["type"] != "http":
            return False
        return bool(scope["path"].removeprefix(scope.get("root_path", "")) == self.path)


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

    endpoint = McpEndpoint(service)
    guard = service.guard
    places = [] if guard.resource is None else guard.resource.paths(service.settings.path)
    app = _FrontEnd(
        routes=[
            Route(service.settings.path, endpoint),
            Route("/healthz", health.healthz),
            Route("/readyz", health.readyz),
            *(Route(place, guard.metadata) for place in places),
        ],
        lifespan=lifespan,
    )
    app.endpoint, app.path = endpoint, service.settings.path
    app.state.service = service
    return app
