"""Revision 2026-07-28: every request stands alone, questions before a task come as results, tasks are an extension."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from taskengine.client.handle import answers_to
from taskengine.client.listening import Listener
from taskengine.client.results import Outcome, Remote, RemoteError, ServerUnreachable, error_of, questions_of
from taskengine.client.transport import Http, OnNotification, is_response
from taskengine.client.wire import Call, Profile, patiently, telling
from taskengine.lifecycle import Status
from taskengine.records import Question

__all__ = ["VERSION", "Modern", "header_value"]

VERSION = "2026-07-28"
META = "io.modelcontextprotocol/"
TASKS = "io.modelcontextprotocol/tasks"
HEADER_MISMATCH = -32020
RETRY_S = 1.0
"""Before a call is repeated that the server only put off (M-MRTR-21)."""

_PLAIN = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_NAME_SOURCE = {
    "tools/call": "name",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""The member of params that `Mcp-Name` repeats (M-HDR-04, M-TASK-82)."""


class Modern:
    revision = VERSION

    def __init__(self, http: Http, profile: Profile) -> None:
        self._http = http
        self._profile = profile
        self._last_id = 0
        self._parameters: dict[str, dict[tuple[str, ...], str]] | None = None
        self._listener = Listener(self.request, profile.listen_after)

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        capabilities: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        on_notification: OnNotification | None = None,
    ) -> dict[str, Any]:
        self._last_id += 1  # M-BASE-17: never an id that is still unanswered
        request_id = self._last_id
        envelope = {
            f"{META}protocolVersion": VERSION,
            f"{META}clientInfo": dict(self._profile.info),
            f"{META}clientCapabilities": self._declared(capabilities),
        }
        message = {
            "jsonrpc": "2.0",
            "id": request_id,
            "method": method,
            "params": {**params, "_meta": envelope | dict(meta or {})},
        }
        routing = {"MCP-Protocol-Version": VERSION, "Mcp-Method": method}
        if method in _NAME_SOURCE:
            routing["Mcp-Name"] = header_value(str(params[_NAME_SOURCE[method]]))
        async with self._http.open(
            "POST", message, routing | dict(headers or {}), patient=method == "tools/call"
        ) as answer:
            async with aclosing(answer.messages()) as messages:
                async for found in messages:
                    if is_response(found, request_id):
                        return self._result(method, found)
                    if on_notification is not None and isinstance(found.get("method"), str):
                        await on_notification(found["method"], found.get("params") or {})
            raise ServerUnreachable(self._http.url, "the stream ended before the answer")

    async def describe(self) -> dict[str, Any]:
        return await self.request("server/discover", {})

    async def list_tools(self) -> list[dict[str, Any]]:
        tools: list[dict[str, Any]] = []
        cursor: Any = None
        seen: list[Any] = []
        while True:
            page = await self.request("tools/list", {} if cursor is None else {"cursor": cursor})
            tools += page.get("tools") or []
            cursor = page.get("nextCursor")
            if cursor is None:  # an empty cursor is one too (M-PAGE-04)
                break
            if cursor in seen:
                raise ServerUnreachable(self._http.url, "tools/list never ends: it gave a cursor twice")
            seen.append(cursor)
        self._parameters = {tool["name"]: _header_parameters(tool.get("inputSchema") or {}) for tool in tools}
        return tools

    async def list_tasks(self) -> list[Remote] | None:
        return None

    async def begin(self, call: Call) -> Remote | Outcome:
        """All rounds of questions before the task or the outcome are behind it, if somebody could answer them."""
        params: dict[str, Any] = {"name": call.name, "arguments": dict(call.arguments)}
        answers: dict[str, Any] = {}
        while True:
            result = await self._call_once(call, params | answers)
            match result.get("resultType", "complete"):
                case "task":
                    return self._parsed(result)
                case "input_required":
                    questions = self._questions(result)
                    if questions and call.on_question is None:
                        return Outcome(Status.INPUT_REQUIRED, {}, questions=questions)
                    if not questions:  # the server only asks for a little time (M-MRTR-21)
                        await asyncio.sleep(RETRY_S)
                    answers = {}
                    if questions and call.on_question is not None:
                        answers = {"inputResponses": await answers_to(questions, call.on_question)}
                    if "requestState" in result:  # M-MRTR-22: as it came, and only on the retry
                        answers["requestState"] = result["requestState"]
                case "complete":
                    return Outcome(Status.COMPLETED, result)
                case other:
                    raise ServerUnreachable(self._http.url, f"a result of an unknown type ({other})")

    async def get(self, task_id: str) -> Remote:
        return self._parsed(await self.request("tasks/get", {"taskId": task_id}))

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        await self.request("tasks/update", {"taskId": task_id, "inputResponses": dict(responses)})

    async def cancel(self, task_id: str) -> None:
        await self.request("tasks/cancel", {"taskId": task_id})

    async def changes(self, task_id: str, *, after: Remote | None = None) -> AsyncGenerator[Remote, None]:
        """By a stream where there is one, and else by polls at the server's interval (M-TASK-76)."""
        task = after
        began = time.monotonic()
        while True:
            if task is not None and not task.terminal:
                pause_s, due_in_s = task.poll_interval.total_seconds(), self._listener.due_in_s(began)
                heard = False
                if due_in_s <= pause_s:
                    await asyncio.sleep(due_in_s)
                    async with aclosing(self._listener.hear(task_id)) as stream:
                        async for task in stream:
                            heard = True
                            yield task
                            if task.terminal:
                                return
                if not heard:
                    await asyncio.sleep(pause_s)
            task = await patiently(lambda: self.get(task_id), self._profile.patience)
            yield task
            if task.terminal:
                return

    async def close(self) -> None:
        """Nothing is kept between requests."""

    def _declared(self, capabilities: Mapping[str, Any] | None) -> dict[str, Any]:
        declared = dict(self._profile.capabilities if capabilities is None else capabilities)
        if self._profile.tasks:
            declared["extensions"] = {**declared.get("extensions", {}), TASKS: {}}
        return declared

    def _result(self, method: str, message: Mapping[str, Any]) -> dict[str, Any]:
        if "error" in message:
            raise error_of(message["error"])
        result = message["result"]
        if not isinstance(result, dict):
            raise ServerUnreachable(self._http.url, f"the result of {method} is no object")
        if result.get("resultType") == "task" and method != "tools/call":
            raise ServerUnreachable(self._http.url, f"a task is no answer to {method}")  # M-TASK-75
        return result

    def _parsed(self, wire: Mapping[str, Any]) -> Remote:
        try:
            return Remote.parse(wire)
        except ValueError as error:
            raise ServerUnreachable(self._http.url, f"it speaks of {error}") from None

    def _questions(self, wire: Mapping[str, Any]) -> tuple[Question, ...]:
        try:
            return questions_of(wire)
        except ValueError as error:
            raise ServerUnreachable(self._http.url, f"it asks {error}") from None

    async def _call_once(self, call: Call, params: Mapping[str, Any]) -> dict[str, Any]:
        async def send() -> dict[str, Any]:
            mirrored = _mirrored((self._parameters or {}).get(call.name, {}), call.arguments)
            return await self.request(
                "tools/call",
                params,
                meta=call.meta,
                headers=mirrored,
                on_notification=telling(call.on_progress),
            )

        try:
            return await send()
        except RemoteError as error:
            if error.code != HEADER_MISMATCH:
                raise
        # The tool's schema, which may have changed, says which arguments are to be repeated as headers (M-HDR-13).
        await self.list_tools()
        return await send()


def _header_parameters(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Where the arguments lie that are repeated as `Mcp-Param-<name>`, with that name."""
    found: dict[tuple[str, ...], str] = {}
    properties = schema.get("properties")
    for name, subschema in (properties if isinstance(properties, Mapping) else {}).items():
        if not isinstance(subschema, Mapping):
            continue
        if isinstance(subschema.get("x-mcp-header"), str):
            found[*path, name] = subschema["x-mcp-header"]
        found |= _header_parameters(subschema, (*path, name))
    return found


def _mirrored(parameters: Mapping[tuple[str, ...], str], arguments: Mapping[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for path, name in parameters.items():
        value: Any = arguments
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:  # absent and null arguments have no header (M-HDR-19)
            text = str(value).lower() if isinstance(value, bool) else str(value)
            headers[f"Mcp-Param-{name}"] = header_value(text)
    return headers


def header_value(text: str) -> str:
    """`text` as a header may carry it: as it is where that is safe, else in Base64 between markers (M-HDR-10)."""
    if _PLAIN.fullmatch(text) and not text.startswith("=?base64?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?=" if text else ""
