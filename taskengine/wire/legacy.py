"""Revision 2025-11-25 with its core tasks, and the two before it that have none. Translation only.

Records in, plain dicts out (with stored JSON text embedded as it is). The older revisions know fewer members; what
they do not know is left out, so one table of features is all that tells them apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from taskengine.clientlog import LEVELS
from taskengine.durations import milliseconds
from taskengine.engine import TaskEngine
from taskengine.lifecycle import Status, poll_interval
from taskengine.questions import ELICIT
from taskengine.records import Question, TaskRecord
from taskengine.tool import Tool
from taskengine.wire.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    Request,
    RequestId,
    RpcError,
    notification,
    raw,
)

__all__ = [
    "CANCELLED",
    "LATEST",
    "VERSIONS",
    "Augmentation",
    "Features",
    "about",
    "call_outcome",
    "call_result",
    "cancelled_notification",
    "cancelled_request",
    "create_task_result",
    "direct_outcome",
    "features",
    "initialize_result",
    "list_tasks_result",
    "list_tools_result",
    "message_notification",
    "negotiated",
    "progress_notification",
    "progress_token",
    "read_augmentation",
    "read_capabilities",
    "read_initialize",
    "read_level",
    "read_refusal",
    "related",
    "server_request",
    "status_notification",
    "stored_error",
    "task",
    "tools_changed_notification",
]

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Served over the handshake, newest first."""
LATEST = VERSIONS[0]

RELATED_TASK_KEY = "io.modelcontextprotocol/related-task"
IMMEDIATE_RESPONSE_KEY = "io.modelcontextprotocol/model-immediate-response"

CANCELLED = -32800
"""The code of a call that was cancelled (A-25)."""
URL_ELICITATION_REQUIRED = -32042
DEFAULT_LEVEL = "info"
"""What is sent to a session that set no level."""
SHORTEST_TTL_MS = 1_000

_RESERVED = {-32002, *range(-32099, -32019)}
_CAPABILITIES: dict[str, dict[str, tuple[str, ...]]] = {
    "2025-11-25": {"elicitation": ("form", "url"), "sampling": ("tools", "context"), "roots": ()},
    "2025-06-18": {"elicitation": (), "sampling": (), "roots": ()},
    "2025-03-26": {"sampling": (), "roots": ()},
}
"""What a client of each revision can be asked, with the parts that are declared by themselves."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a revision has beyond the oldest one."""

    tasks: bool
    icons: bool
    structured: bool
    """Titles, `outputSchema`, `structuredContent`, `resource_link` and `_meta` of tools."""
    polled_streams: bool
    """A stream begins with an empty event, and may be closed for the client to come back (L-TRANS-07, L-TRANS-08)."""


def features(version: str) -> Features:
    newest = version == LATEST
    return Features(tasks=newest, icons=newest, structured=version != "2025-03-26", polled_streams=newest)


# requests


def read_initialize(request: Request) -> tuple[str, Mapping[str, Any]]:
    """The version and capabilities asked with. Raises RpcError -32602 (L-LIFE-09)."""
    params = request.params or {}
    version, capabilities = params.get("protocolVersion"), params.get("capabilities", {})
    if not isinstance(version, str):
        data = {"supported": list(VERSIONS), "requested": version}
        raise RpcError(INVALID_PARAMS, "initialize names the protocol version as a string", data)
    if not isinstance(capabilities, Mapping):
        raise RpcError(INVALID_PARAMS, "params.capabilities must be an object")
    return version, capabilities


def negotiated(requested: str) -> str:
    """The version in force after `initialize`: the one asked for, else the latest (L-LIFE-02 to L-LIFE-04)."""
    return requested if requested in VERSIONS else LATEST


def read_capabilities(version: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    """What may be asked of this client, and nothing else it said.

    Extensions are not defined here (X-SEL-11); parts that the revision does not know declare nothing (L-LIFE-05).
    """
    known: dict[str, Any] = {}
    for name, parts in _CAPABILITIES[version].items():
        given = declared.get(name)
        if isinstance(given, Mapping):
            known[name] = {part: {} for part in parts if isinstance(given.get(part), Mapping)}
    return known


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

    def ttl_within(self, default_ms: int, longest_ms: int) -> int:
        """The requested retention, within the engine's limits (L-TASK-16, A-34)."""
        return default_ms if self.ttl_ms is None else max(SHORTEST_TTL_MS, min(self.ttl_ms, longest_ms))


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


def initialize_result(engine: TaskEngine, version: str, *, lists_tasks: bool) -> dict[str, Any]:
    """`InitializeResult` (L-LIFE-01, L-LIFE-07)."""
    known = features(version)
    info: dict[str, Any] = {"name": engine.name, "version": engine.version}
    if known.structured and engine.title:
        info["title"] = engine.title
    if known.icons:
        extra = {"websiteUrl": engine.website_url, "icons": engine.icons}
        info |= {key: value for key, value in extra.items() if value is not None}
    capabilities: dict[str, Any] = {"tools": {"listChanged": True}, "logging": {}}
    if known.tasks:
        listing: dict[str, Any] = {"list": {}} if lists_tasks else {}
        capabilities["tasks"] = {**listing, "cancel": {}, "requests": {"tools": {"call": {}}}}
    result: dict[str, Any] = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
    if engine.instructions:
        result["instructions"] = engine.instructions
    return result


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
    """The error a call ended with. Codes that mean nothing or something else here become -32603 (A-42)."""
    error = json.loads(text)
    code, data = error["code"], error.get("data")
    elicitations = data.get("elicitations") if isinstance(data, Mapping) else None
    misused = code == URL_ELICITATION_REQUIRED and not isinstance(elicitations, list)
    if misused or (code in _RESERVED and code != URL_ELICITATION_REQUIRED):
        code = INTERNAL_ERROR
    return RpcError(code, error["message"], data)


def cancelled_request() -> RpcError:
    return RpcError(CANCELLED, "The request was cancelled")


# what the server sends by itself


def related(task_id: str) -> dict[str, Any]:
    """The part of `_meta` that says which task a message is about (L-TASK-42)."""
    return {RELATED_TASK_KEY: {"taskId": task_id}}


def server_request(request_id: RequestId, question: Question, version: str, task_id: str | None) -> dict[str, Any]:
    """The question as a request to the client (L-ELIC-30, L-TASK-36)."""
    params = dict(question.params)
    if question.method == ELICIT:
        if params.get("mode") == "url":
            params["elicitationId"] = str(request_id)  # L-ELIC-20
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
