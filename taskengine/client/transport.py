"""One request of 2026-07-28 over HTTP: its headers, and its answer as JSON or as an event stream."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import httpx2

from taskengine.client.results import RemoteError, ServerUnreachable

__all__ = ["OnNotification", "Transport", "header_value"]

PROTOCOL_VERSION = "2026-07-28"
META = "io.modelcontextprotocol/"

OnNotification = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Takes the method and the params of a notification that came before the answer."""

_PLAIN = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_NAME_SOURCE = {
    "tools/call": "name",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""The member of params that `Mcp-Name` repeats (M-HDR-04, M-TASK-82)."""


class Transport:
    """The HTTP side of a client. Each message is a POST of its own; nothing is remembered between them."""

    def __init__(self, url: str, http: httpx2.AsyncClient, client_info: Mapping[str, str]) -> None:
        self.url = url
        self._http = http
        self._client_info = client_info
        self._last_id = 0

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._http.__aexit__(*exception)

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        capabilities: Mapping[str, Any],
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        on_notification: OnNotification | None = None,
    ) -> dict[str, Any]:
        """The result. Raises RemoteError for a JSON-RPC error, ServerUnreachable when there was no such answer."""
        self._last_id += 1  # M-BASE-17: never an id that is still unanswered
        envelope = {
            f"{META}protocolVersion": PROTOCOL_VERSION,
            f"{META}clientInfo": dict(self._client_info),
            f"{META}clientCapabilities": dict(capabilities),
        }
        body = {
            "jsonrpc": "2.0",
            "id": self._last_id,
            "method": method,
            "params": {**params, "_meta": envelope | dict(meta or {})},
        }
        routing = {
            "Accept": "application/json, text/event-stream",  # M-TRANS-07
            "MCP-Protocol-Version": PROTOCOL_VERSION,
            "Mcp-Method": method,
        }
        if method in _NAME_SOURCE:
            routing["Mcp-Name"] = header_value(str(params[_NAME_SOURCE[method]]))
        try:
            async with self._http.stream(
                "POST", self.url, json=body, headers={**routing, **(headers or {})}
            ) as response:
                answer = await self._answer(response, on_notification)
        except httpx2.HTTPError as error:
            raise ServerUnreachable(self.url, f"{type(error).__name__} {error}".strip()) from error
        if "error" in answer:
            refusal = answer["error"]
            raise RemoteError(refusal["code"], refusal["message"], refusal.get("data"))
        result: dict[str, Any] = answer["result"]
        return result

    async def _answer(self, response: httpx2.Response, on_notification: OnNotification | None) -> dict[str, Any]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            await response.aread()
            return self._checked(response.json(), response)
        if kind != "text/event-stream":
            text = (await response.aread()).decode(errors="replace")
            raise ServerUnreachable(self.url, f"HTTP {response.status_code} {text[:200]}".strip())
        async for event in httpx2.EventSource(response, max_event_size=None):
            message = self._checked(event.json(), response)
            if "method" not in message:
                return message
            if on_notification is not None:
                await on_notification(message["method"], message.get("params") or {})
        raise ServerUnreachable(self.url, "the stream ended before the answer")

    def _checked(self, message: object, response: httpx2.Response) -> dict[str, Any]:
        if isinstance(message, dict) and message.keys() & {"result", "error", "method"}:
            return message
        raise ServerUnreachable(self.url, f"HTTP {response.status_code} with a body that is not JSON-RPC")


def header_value(text: str) -> str:
    """`text` as a header may carry it: as it is where that is safe, else in Base64 between markers (M-HDR-10)."""
    if _PLAIN.fullmatch(text) and not text.startswith("=?base64?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?=" if text else ""
