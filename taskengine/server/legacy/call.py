"""One request of a session on its way through the front end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskengine.errors import TaskNotFound
from taskengine.server.caller import Caller
from taskengine.server.checks import Accepts
from taskengine.server.ids import is_task_id
from taskengine.server.legacy.front import Front
from taskengine.server.legacy.session import Session
from taskengine.server.service import Service
from taskengine.wire.headers import RawHeaders
from taskengine.wire.jsonrpc import INVALID_PARAMS, Request, RequestId, RpcError

__all__ = ["Call"]


@dataclass(frozen=True, slots=True)
class Call:
    front: Front
    caller: Caller
    session: Session
    request: Request
    accepts: Accepts
    headers: RawHeaders | None = None
    """None where the transport has none, and for a message of a batch, of which they do not speak alone."""

    @property
    def service(self) -> Service:
        return self.front.service

    @property
    def request_id(self) -> RequestId:
        return self.request.id

    @property
    def params(self) -> dict[str, Any]:
        """Nothing in it is demanded of every request (L-META-12)."""
        return self.request.params or {}

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What this client can be asked: nothing, when it takes no streams."""
        return self.session.capabilities if self.accepts.events else {}

    def text(self, name: str) -> str:
        """A required string of the params. Raises RpcError -32602."""
        value = self.params.get(name)
        if not isinstance(value, str):
            raise RpcError(INVALID_PARAMS, f"params.{name} must be a string")
        return value

    def task_id(self) -> str:
        """The task that the request names. Raises RpcError -32602, and TaskNotFound for an id that none can have."""
        task_id = self.text("taskId")
        if not is_task_id(task_id):
            raise TaskNotFound(task_id)
        return task_id
