"""The methods of 2025-11-25 with its core tasks, and of the two revisions before it that have none. Translation only.

Records in, plain dicts out (with stored JSON text embedded as it is). What a revision does not know is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from taskengine.clientlog import LEVELS
from taskengine.durations import milliseconds
from taskengine.lifecycle import Status, poll_interval
from taskengine.questions import ELICIT
from taskengine.records import Question, TaskRecord
from taskengine.tool import Tool
from taskengine.wire.handshake import LATEST, Features, features
from taskengine.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    RequestId,
    RpcError,
    notification,
    raw,
)

__all__ = [
    "CANCELLED",
    "Augmentation",
    "about",
    "call_outcome",
    "call_result",
    "cancelled_notification",
    "cancelled_request",
    "create_task_result",
    "direct_outcome",
    "elicitation_id",
    "list_tasks_result",
    "list_tools_result",
    "message_notification",
    "progress_notification",
    "progress_token",
    "read_augmentation",
    "read_level",
    "read_refusal",
    "related",
    "server_request",
    "status_notification",
    "stored_error",
    "task",
    "tools_changed_notification",
]

RELATED_TASK_KEY = "io.modelcontextprotocol/related-task"
IMMEDIATE_RESPONSE_KEY = "io.modelcontextprotocol/model-immediate-response"

CANCELLED = -32800
"""The code of a call that was cancelled (A-25)."""
URL_ELICITATION_REQUIRED = -32042
DEFAULT_LEVEL = "info"
"""What is sent to a session that set no level."""

_RESERVED = {-32002, *range(-32099, -32019)}


# requests


def progress_token(params: Mapping[str, Any]) -> str | int | None:
    """`_meta.progressToken`. Raises RpcError -32602 for one that is neither a string nor an integer (X-PROG-01)."""
    meta = params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, Mapping) else None
    if token is not None and (isinstance(token, bool) or not isinstance(token, (str, int))):
        raise RpcError(INVALID_PARAMS, "params._meta.progressToken is a string or an integer")
    return token


def read_level(params: Mapping[str, Any]) -> str:
    """The level of `logging/setLevel`. Raises RpcError -32602 (L-LOG-06)."""
    level = params.get("level")
    if level not in LEVELS:
        raise RpcError(INVALID_PARAMS, f"params.level is one of {', '.join(LEVELS)}")
    return str(level)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The member `task` of a call: its client wants a task (L-TASK-09)."""

    ttl_ms: int | None

    def ttl_within(self, default_ms: int, shortest_ms: int, longest_ms: int) -> int:
        """The requested retention, within the engine's limits (L-TASK-16, A-34)."""
        return default_ms if self.ttl_ms is None else max(shortest_ms, min(self.ttl_ms, longest_ms))


def read_augmentation(params: Mapping[str, Any]) -> Augmentation | None:
    """Raises RpcError -32602 for a malformed one."""
    if params.get("task") is None:
        return None
    member = params["task"]
    if not isinstance(member, Mapping):
        raise RpcError(INVALID_PARAMS, "params.task must be an object")
    ttl = member.get("ttl")
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or ttl < 0 or ttl != int(ttl)):
        raise RpcError(INVALID_PARAMS, "params.task.ttl is a whole number of milliseconds")
    return Augmentation(None if ttl is None else int(ttl))


def read_refusal(question: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON-RPC error of the client comes to as the answer to a question of that method.

    A failed form counts as one that was closed (L-ELIC-31); samples and roots know no such answer, so the tool gets
    the error (L-SAMP-12).
    """
    if question == ELICIT:
        return {"action": "cancel"}
    error = body.get("error")
    given = error if isinstance(error, Mapping) else {}
    code, message = given.get("code"), given.get("message")
    return {
        "error": {
            "code": code if type(code) is int else INTERNAL_ERROR,
            "message": message[:1000] if isinstance(message, str) else "It gave no reason",
        }
    }


# results


def list_tools_result(tools: Iterable[Tool], version: str, bridged: Callable[[Tool], bool]) -> dict[str, Any]:
    """`ListToolsResult`, one page, in the order of declaration.

    A required tool that is bridged may be called without a task all the same, and says so: what is announced as
    "required" would have to be refused (L-TASK-06).
    """
    return {"tools": [_tool(tool, features(version), bridged=bridged(tool)) for tool in tools]}


def call_result(text: str, version: str, task_id: str | None = None) -> Any:
    """`CallToolResult` from the text of a neutral result, which is embedded as it is where nothing has to change."""
    known = features(version)
    whole = known.structured or '"resource_link"' not in text
    if task_id is None and whole and '"structuredContent"' not in text:
        return raw(text)
    result = json.loads(text)
    if not known.structured or not isinstance(result.get("structuredContent"), dict):
        result.pop("structuredContent", None)  # L-TOOL-13, L-TOOL-29
    if not known.structured:
        result["content"] = [_without_link(block) for block in result["content"]]
    if task_id is not None:
        result["_meta"] = {**result.get("_meta", {}), **related(task_id)}
    return raw(json.dumps(result, ensure_ascii=False, separators=(",", ":")))


def call_outcome(record: TaskRecord, version: str, *, related_task: bool) -> Any:
    """What the call would have returned, for a task that has ended (L-TASK-28). Raises RpcError likewise."""
    if record.status is Status.CANCELLED:
        raise RpcError(CANCELLED, "The task was cancelled: it has no result")
    return direct_outcome(record.result, record.error, version, record.id if related_task else None)


def direct_outcome(result: str | None, error: str | None, version: str, task_id: str | None = None) -> Any:
    """A result, or the error a call ended with. Raises RpcError for the latter."""
    if error is None:
        assert result is not None, "a call has a result or an error"
        return call_result(result, version, task_id)
    missing = _missing_capability(error)
    if missing is not None:
        content = {"content": [{"type": "text", "text": missing}], "isError": True}
        return call_result(json.dumps(content), version, task_id)
    raise stored_error(error)


def create_task_result(record: TaskRecord) -> dict[str, Any]:
    """`CreateTaskResult`: nested, always `working` (L-TASK-10, L-TASK-12, L-TASK-20, A-27)."""
    hint = f"{record.tool} runs as task {record.id}; its result follows when it is done."
    return {
        "task": {**task(record), "status": Status.WORKING.value},
        "_meta": {**related(record.id), IMMEDIATE_RESPONSE_KEY: hint},
    }


def task(record: TaskRecord) -> dict[str, Any]:
    """The bare `Task`, which is also the result of `tasks/get` and `tasks/cancel` (L-TASK-14, L-TASK-25)."""
    ceiling = timedelta(milliseconds=record.poll_interval_ms)
    members: dict[str, Any] = {
        "taskId": record.id,
        "status": _status(record).value,
        "createdAt": _moment(record.created_at),
        "lastUpdatedAt": _moment(record.updated_at),
        "ttl": record.ttl_ms,
        "pollInterval": max(1, milliseconds(poll_interval(record.now - record.created_at, ceiling))),
    }
    if record.status_message:
        members["statusMessage"] = record.status_message
    return members


def list_tasks_result(records: Iterable[TaskRecord], cursor: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {"tasks": [task(record) for record in records]}
    if cursor is not None:
        result["nextCursor"] = cursor
    return result


def stored_error(text: str) -> RpcError:
    """The error a call ended with. Codes that mean nothing or something else here become -32603 (A-42).

    -32042 is a tool's to raise, with the pages that somebody has to visit first (L-ELIC-22).
    """
    error = json.loads(text)
    code, data = error["code"], error.get("data")
    if code == URL_ELICITATION_REQUIRED:
        pages = _pages(data)
        if pages is not None:
            return RpcError(code, error["message"], {**data, "elicitations": pages})
    if code in _RESERVED:
        code = INTERNAL_ERROR
    return RpcError(code, error["message"], data)


def elicitation_id(*parts: str) -> str:
    """Names one visit of a page however often it is asked for (L-ELIC-20); it tells nothing about its parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def cancelled_request() -> RpcError:
    return RpcError(CANCELLED, "The request was cancelled")


# what the server sends by itself


def related(task_id: str) -> dict[str, Any]:
    """The part of `_meta` that says which task a message is about (L-TASK-42)."""
    return {RELATED_TASK_KEY: {"taskId": task_id}}


def server_request(
    request_id: RequestId, question: Question, version: str, task_id: str | None, visit: str
) -> dict[str, Any]:
    """The question as a request to the client (L-ELIC-30, L-TASK-36); `visit` is the `elicitationId` of a page.

    It is never made a task of the client's (L-TASK-41 allows it): a question is a row here already, and is put again
    when its stream breaks, so a second task would only add polling.
    """
    params = dict(question.params)
    if question.method == ELICIT:
        if params.get("mode") == "url":
            params["elicitationId"] = visit
        elif version != LATEST:
            params.pop("mode", None)
    if task_id is not None:
        params["_meta"] = {**params.get("_meta", {}), **related(task_id)}
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": question.method}
    if params:
        request["params"] = params
    return request


def progress_notification(
    token: str | int, progress: float, total: float | None, message: str | None
) -> dict[str, Any]:
    params: dict[str, Any] = {"progressToken": token, "progress": progress}
    if total is not None:
        params["total"] = total
    if message is not None:
        params["message"] = message
    return notification("notifications/progress", params)


def message_notification(level: str, data: Any, logger: str | None) -> dict[str, Any]:
    params = {"level": level, "data": data}
    if logger is not None:
        params["logger"] = logger
    return notification("notifications/message", params)


def about(message: Mapping[str, Any], task_id: str) -> dict[str, Any]:
    """The notification, said to be about a task (L-PROG-08)."""
    return {**message, "params": {**message["params"], "_meta": related(task_id)}}


def cancelled_notification(request_id: RequestId, reason: str) -> dict[str, Any]:
    return notification("notifications/cancelled", {"requestId": request_id, "reason": reason})


def status_notification(record: TaskRecord) -> dict[str, Any]:
    """`notifications/tasks/status` with the whole task and without the related-task key (L-TASK-44, L-TASK-46)."""
    return notification("notifications/tasks/status", task(record))


def tools_changed_notification() -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


# parts


def _status(record: TaskRecord) -> Status:
    """A result with `isError` makes the task failed on this wire (L-TASK-23, D-15)."""
    return Status.FAILED if record.status is Status.COMPLETED and record.is_error else record.status


def _tool(tool: Tool, known: Features, *, bridged: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "annotations": tool.annotations,
    }
    if known.structured:
        entry |= {"title": tool.title, "_meta": tool.meta}
        if tool.output_schema is not None and tool.output_schema.get("type") == "object":
            entry["outputSchema"] = tool.output_schema
    if known.icons:
        entry["icons"] = tool.icons
    if known.tasks:
        entry["execution"] = {"taskSupport": "optional" if bridged else tool.task}
    return {key: value for key, value in entry.items() if value is not None}


def _pages(data: Any) -> list[dict[str, Any]] | None:
    """`data.elicitations` of -32042, each with its `elicitationId`; None when it is not such a list."""
    given = data.get("elicitations") if isinstance(data, Mapping) else None
    if not isinstance(given, list) or not given:
        return None
    pages = []
    for page in given:
        if not isinstance(page, Mapping) or page.get("mode", "url") != "url":
            return None
        message, url, name = page.get("message"), page.get("url"), page.get("elicitationId")
        if not isinstance(message, str) or not isinstance(url, str):
            return None
        pages.append({**page, "mode": "url", "elicitationId": name if isinstance(name, str) else elicitation_id(url)})
    return pages


def _without_link(block: dict[str, Any]) -> dict[str, Any]:
    """A link as text, for a revision that has no links."""
    if block.get("type") != "resource_link":
        return block
    return {"type": "text", "text": " ".join(str(block[part]) for part in ("title", "uri") if block.get(part))}


def _missing_capability(error: str) -> str | None:
    """The sentence of a tool that needed what its client did not declare: no error of this wire says it (L-CAP-13)."""
    found = json.loads(error)
    return str(found["message"]) if found["code"] == MISSING_CAPABILITY else None


def _moment(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
