"""One request of the 2026-07-28 wire on its way through the front end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from taskengine.errors import TaskNotFound
from taskengine.server.caller import Caller
from taskengine.server.ids import is_task_id
from taskengine.server.service import Service
from taskengine.wire import modern
from taskengine.wire.headers import RawHeaders
from taskengine.wire.jsonrpc import INVALID_PARAMS, Request, RpcError
from taskengine.wire.modern import Envelope

__all__ = ["Call"]


@dataclass(frozen=True, slots=True)
class Call:
    service: Service
    caller: Caller
    request: Request
    envelope: Envelope
    headers: RawHeaders | None
    """None where the transport has none."""

    @property
    def params(self) -> dict[str, Any]:
        """The request's params; the envelope was found in them."""
        assert self.request.params is not None
        return self.request.params

    def text(self, name: str) -> str:
        """A required string of the params. Raises RpcError -32602."""
        value = self.params.get(name)
        if not isinstance(value, str):
            raise RpcError(INVALID_PARAMS, f"params.{name} must be a string")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """A required object of the params. Raises RpcError -32602."""
        value = self.params.get(name)
        if not isinstance(value, dict):
            raise RpcError(INVALID_PARAMS, f"params.{name} must be an object")
        return value

    def task_id(self) -> str:
        """The task that the request names. Raises RpcError -32602, and TaskNotFound for an id that none can have."""
        task_id = self.text("taskId")
        if not is_task_id(task_id):
            raise TaskNotFound(task_id)
        return task_id

    def needs_tasks(self) -> None:
        """The client declared the tasks extension. Raises RpcError -32021 otherwise (M-CAP-08)."""
        if not self.envelope.declares_tasks:
            raise modern.missing_tasks()
