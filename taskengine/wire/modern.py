"""Revision 2026-07-28 with the tasks extension: requests read, results and notifications written. Translation only.

Records in, plain dicts out (with stored JSON text embedded as it is); units become milliseconds and names camelCase
here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from taskengine.clientlog import LEVELS
from taskengine.durations import milliseconds
from taskengine.engine import TaskEngine
from taskengine.errors import Busy, LimitReached
from taskengine.lifecycle import Status, poll_interval
from taskengine.records import Question, TaskRecord
from taskengine.tool import Tool
from taskengine.wire.jsonrpc import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    Request,
    RequestId,
    RpcError,
    dumps,
    notification,
    raw,
)

__all__ = [
    "TASKS",
    "VERSION",
    "Envelope",
    "acknowledged",
    "call_result",
    "complete",
    "create_task_result",
    "discover_result",
    "get_task_result",
    "http_status",
    "identity",
    "input_required_result",
    "is_marked",
    "list_tools_result",
    "listen_result",
    "message_notification",
    "missing_tasks",
    "progress_notification",
    "read_envelope",
    "stored_error",
    "task_notification",
    "tools_changed_notification",
]

VERSION = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"

_PREFIX = "io.modelcontextprotocol/"
VERSION_KEY = f"{_PREFIX}protocolVersion"
CAPABILITIES_KEY = f"{_PREFIX}clientCapabilities"
LOG_LEVEL_KEY = f"{_PREFIX}logLevel"
SERVER_INFO_KEY = f"{_PREFIX}serverInfo"
SUBSCRIPTION_KEY = f"{_PREFIX}subscriptionId"

Meta = Mapping[str, Any]
"""The `_meta` of every result: who answers (M-BASE-16)."""

_STATUS = {METHOD_NOT_FOUND: 404, INTERNAL_ERROR: 200, LimitReached.CODE: 429, Busy.CODE: 503}
_REJECTIONS = {PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS, HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION}
_RESERVED = {-32002, -32042, *range(-32099, -32019)}


def http_status(code: int) -> int:
    """The status of a JSON-RPC error that is the whole response (section 1.6); codes of tools themselves give 200."""
    return _STATUS.get(code, 400 if code in _REJECTIONS else 200)


# requests


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a request says about itself and its client; it holds for this request alone (M-META-06)."""

    version: str
    capabilities: Mapping[str, Any]
    progress_token: str | int | None
    log_level: str | None

    @property
    def declares_tasks(self) -> bool:
        """The client takes tasks as answers (M-TASK-02); the capability `tasks` of 2025-11-25 says nothing of it."""
        extensions = self.capabilities.get("extensions")
        return isinstance(extensions, Mapping) and isinstance(extensions.get(TASKS), Mapping)


def is_marked(params: Mapping[str, Any] | None) -> bool:
    """Whether params carry the envelope of this revision (X-SEL-02)."""
    meta = params.get("_meta") if params is not None else None
    return isinstance(meta, Mapping) and VERSION_KEY in meta


def read_envelope(request: Request) -> Envelope:
    """Raises RpcError -32602 for a missing or malformed envelope (M-META-01, M-META-02, M-META-07, M-LOG-03)."""
    meta = (request.params or {}).get("_meta")
    if not isinstance(meta, Mapping):
        raise RpcError(INVALID_PARAMS, f"Each request of MCP {VERSION} carries params._meta, an object")
    version = meta.get(VERSION_KEY)
    if not isinstance(version, str):
        raise RpcError(INVALID_PARAMS, f"params._meta names the protocol version as a string in {VERSION_KEY}")
    capabilities = meta.get(CAPABILITIES_KEY)
    if not isinstance(capabilities, Mapping):
        raise RpcError(
            INVALID_PARAMS, f"params._meta declares the client's capabilities, an object, in {CAPABILITIES_KEY}"
        )
    token = meta.get("progressToken")
    if token is not None and (isinstance(token, bool) or not isinstance(token, (str, int))):
        raise RpcError(INVALID_PARAMS, "params._meta.progressToken is a string or an integer")
    level = meta.get(LOG_LEVEL_KEY)
    if level is not None and level not in LEVELS:
        raise RpcError(INVALID_PARAMS, f"{LOG_LEVEL_KEY} is one of {', '.join(LEVELS)}")
    return Envelope(version, capabilities, token, level)


def missing_tasks() -> RpcError:
    """The refusal of a request that needs the tasks extension and does not declare it (M-TASK-06, M-TASK-64)."""
    return RpcError(
        MISSING_CAPABILITY,
        f"This request needs the client capability extensions.{TASKS}",
        {"requiredCapabilities": {"extensions": {TASKS: {}}}},
    )


# results


def identity(engine: TaskEngine) -> Meta:
    """The `_meta` of every result (M-DISC-03)."""
    info = {
        "name": engine.name,
        "version": engine.version,
        "title": engine.title,
        "websiteUrl": engine.website_url,
        "icons": engine.icons,
    }
    return {SERVER_INFO_KEY: {key: value for key, value in info.items() if value is not None}}


def complete(meta: Meta, members: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A result of `resultType` "complete"; without members it is an acknowledgement (M-TASK-47, M-TASK-60)."""
    return {"resultType": "complete", **(members or {}), "_meta": meta}


def discover_result(engine: TaskEngine, versions: Iterable[str], ttl: timedelta, meta: Meta) -> dict[str, Any]:
    """`DiscoverResult`: what is served, and nothing else (M-DISC-02, M-DISC-06)."""
    members: dict[str, Any] = {
        "supportedVersions": list(versions),
        "capabilities": {"tools": {"listChanged": True}, "logging": {}, "extensions": {TASKS: {}}},
        **_caching(ttl),
    }
    if engine.instructions:
        members["instructions"] = engine.instructions
    return complete(meta, members)


def list_tools_result(tools: Iterable[Tool], ttl: timedelta, meta: Meta) -> dict[str, Any]:
    """`ListToolsResult`, one page, in the order of declaration (M-TOOL-05)."""
    return complete(meta, {"tools": [_tool(tool) for tool in tools], **_caching(ttl)})


def call_result(text: str, meta: Meta) -> Any:
    """`CallToolResult` from the text of a neutral result, which is embedded as it is unless it has a `_meta`."""
    if '"_meta"' in text:
        result = json.loads(text)
        if "_meta" in result:
            merged = {"resultType": "complete", **result, "_meta": {**result["_meta"], **meta}}
            return raw(json.dumps(merged, ensure_ascii=False, separators=(",", ":")))
    return raw(f'{{"resultType":"complete","_meta":{dumps(meta).decode()},{text[1:]}')


def create_task_result(record: TaskRecord, meta: Meta) -> dict[str, Any]:
    """`CreateTaskResult`: flat, whatever the status, without outcome or questions (M-TASK-10 to M-TASK-12)."""
    return {"resultType": "task", **_task(record), "_meta": meta}


def get_task_result(record: TaskRecord, meta: Meta) -> dict[str, Any]:
    """`GetTaskResult`: the `DetailedTask` beside `resultType` "complete" (M-TASK-29, A-01)."""
    return {"resultType": "complete", **_detailed_task(record), "_meta": meta}


def input_required_result(questions: Iterable[Question], request_state: str | None, meta: Meta) -> dict[str, Any]:
    """`InputRequiredResult`; with a state and no questions it asks for the same call again (M-MRTR-04, M-MRTR-21)."""
    result: dict[str, Any] = {"resultType": "input_required", "_meta": meta}
    requests = _input_requests(questions)
    if requests:
        result["inputRequests"] = requests
    if request_state is not None:
        result["requestState"] = request_state
    return result


def listen_result(subscription: RequestId, meta: Meta) -> dict[str, Any]:
    """The last message of a subscription that the server ends (M-SUB-11)."""
    return {"resultType": "complete", "_meta": {**meta, SUBSCRIPTION_KEY: subscription}}


def stored_error(text: str) -> RpcError:
    """The error a call ended with, as a tool or the engine gave it.

    Codes this wire reserves or has dropped never go out with another meaning: they become -32603 (M-BASE-13,
    M-BASE-14).
    """
    error = json.loads(text)
    code, data = error["code"], error.get("data")
    if code in _RESERVED and not _is_missing_capability(code, data):
        code = INTERNAL_ERROR
    return RpcError(code, error["message"], data)


# notifications


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


def acknowledged(subscription: RequestId, honoured: Mapping[str, Any]) -> dict[str, Any]:
    """The first message of a subscription: what of it will be reported (M-SUB-03, M-SUB-04)."""
    return _subscribed("notifications/subscriptions/acknowledged", subscription, {"notifications": honoured})


def task_notification(subscription: RequestId, record: TaskRecord) -> dict[str, Any]:
    """`notifications/tasks` with the whole `DetailedTask` (M-TASK-69, A-02)."""
    return _subscribed("notifications/tasks", subscription, _detailed_task(record))


def tools_changed_notification(subscription: RequestId) -> dict[str, Any]:
    return _subscribed("notifications/tools/list_changed", subscription, {})


def _subscribed(method: str, subscription: RequestId, params: Mapping[str, Any]) -> dict[str, Any]:
    return notification(method, {**params, "_meta": {SUBSCRIPTION_KEY: subscription}})


# parts


def _caching(ttl: timedelta) -> dict[str, Any]:
    """Hints of a result that is the same for everybody (M-CACHE-01 to M-CACHE-03)."""
    return {"ttlMs": milliseconds(ttl), "cacheScope": "public"}


def _tool(tool: Tool) -> dict[str, Any]:
    entry = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "outputSchema": tool.output_schema,
        "annotations": tool.annotations,
        "icons": tool.icons,
        "_meta": tool.meta,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _task(record: TaskRecord) -> dict[str, Any]:
    ceiling = timedelta(milliseconds=record.poll_interval_ms)
    task: dict[str, Any] = {
        "taskId": record.id,
        "status": record.status.value,
        "createdAt": _moment(record.created_at),
        "lastUpdatedAt": _moment(record.updated_at),
        "ttlMs": record.ttl_ms,
        "pollIntervalMs": max(1, milliseconds(poll_interval(record.now - record.created_at, ceiling))),
    }
    if record.status_message:
        task["statusMessage"] = record.status_message
    return task


def _detailed_task(record: TaskRecord) -> dict[str, Any]:
    """`DetailedTask`: outcome or open questions by status, and only theirs (M-TASK-30 to M-TASK-35)."""
    task = _task(record)
    if record.status is Status.COMPLETED and record.result is not None:
        task["result"] = raw(f'{{"resultType":"complete",{record.result[1:]}')
    elif record.status is Status.FAILED and record.error is not None:
        error = stored_error(record.error)
        task["error"] = {"code": error.code, "message": error.message}
        if error.data is not None:
            task["error"]["data"] = error.data
    elif record.status is Status.INPUT_REQUIRED:
        task["inputRequests"] = _input_requests(record.open_questions)
    return task


def _input_requests(questions: Iterable[Question]) -> dict[str, Any]:
    """Requests by key, without JSON-RPC ids (M-TASK-57)."""
    return {question.key: {"method": question.method, "params": dict(question.params)} for question in questions}


def _moment(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _is_missing_capability(code: int, data: Any) -> bool:
    return code == MISSING_CAPABILITY and isinstance(data, Mapping) and "requiredCapabilities" in data
