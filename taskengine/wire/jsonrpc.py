"""JSON-RPC 2.0 messages: bytes in, checked messages out; results and errors in, bytes out. Pure.

Bodies are UTF-8 JSON without duplicates of meaning: a later member of the same name wins, numbers past 64 bits
lose precision, nesting is limited to `MAX_DEPTH` levels, and there are at most `MAX_CONTAINERS` objects and arrays.
`raw` embeds JSON text that is stored already without parsing it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import orjson

__all__ = [
    "HEADER_MISMATCH",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "MAX_DEPTH",
    "METHOD_NOT_FOUND",
    "MISSING_CAPABILITY",
    "PARSE_ERROR",
    "UNSUPPORTED_VERSION",
    "Batch",
    "Message",
    "Notification",
    "Request",
    "RequestId",
    "Response",
    "RpcError",
    "dumps",
    "error_response",
    "id_of",
    "notification",
    "parse",
    "raw",
    "read",
    "result_response",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022

MAX_DEPTH = 200
"""Levels of a message: as deep as arguments are read, and far from where Python's own readers give up."""

MAX_CONTAINERS = 100_000
"""Objects and arrays of a message. In memory an empty one takes thirty times what it takes in the body, and to read a
million of them takes a second, so they are counted before."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
"""Ends with the body at the latest, so that looking for strings takes no more than one way through it."""

RequestId = str | int


class RpcError(Exception):
    """A JSON-RPC error to be sent: integer `code`, one short sentence, optional `data` (X-BASE-05, X-BASE-06)."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code, self.message, self.data = code, message, data

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


@dataclass(frozen=True, slots=True)
class Request:
    """A call that must be answered with the same `id`. `params` is None when absent or not an object."""

    id: RequestId
    method: str
    params: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that is never answered (X-BASE-07)."""

    method: str
    params: dict[str, Any] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to a request of ours, which exists on the 2025-11-25 wire only (M-BASE-09)."""

    id: RequestId | None
    body: dict[str, Any]


Message = Request | Notification | Response


class Batch(RpcError):
    """A body that holds several messages; whoever serves 2025-03-26 may take its `values` for what they are."""

    def __init__(self, values: list[Any]) -> None:
        super().__init__(INVALID_REQUEST, "Batches are not supported: send each message in a request of its own")
        self.values = values


def parse(body: bytes) -> Message:
    """The one message in a body. Raises RpcError: -32700 for what is not JSON (X-TRANS-11), -32600 for the rest, as
    `Batch` for an array."""
    containers = _containers(body)
    if containers > MAX_CONTAINERS:
        raise RpcError(
            INVALID_REQUEST,
            f"The message has more than {MAX_CONTAINERS} objects and arrays: send less, or a link to it",
        )
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RpcError(PARSE_ERROR, f"The body is not valid JSON: {_where(error)}") from None
    if containers > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        flatter = f"The message is nested more than {MAX_DEPTH} levels deep: send it flatter"
        raise _Unreadable.of(value, flatter) if isinstance(value, dict) else RpcError(INVALID_REQUEST, flatter)
    if isinstance(value, list):
        raise Batch(value)
    return read(value)


def read(value: Any) -> Message:
    """The message that a JSON value is. Raises RpcError -32600."""
    if not isinstance(value, dict):
        raise RpcError(INVALID_REQUEST, "A message is a JSON object")
    if value.get("jsonrpc") != "2.0":
        raise _Unreadable.of(value, 'A message has "jsonrpc": "2.0"')
    if "method" not in value and ("result" in value or "error" in value):
        found = value.get("id")
        return Response(found if _is_id(found) else None, value)
    method = value.get("method")
    if not isinstance(method, str):
        raise _Unreadable.of(value, "A request names its method as a string")
    params = value.get("params")
    if "id" not in value:
        if params is not None and not isinstance(params, dict):
            raise RpcError(INVALID_REQUEST, "The params of a notification are an object")
        return Notification(method, params)
    if not _is_id(value["id"]):
        raise RpcError(INVALID_REQUEST, "The id of a request is a string or an integer")
    return Request(value["id"], method, params if isinstance(params, dict) else None)


class _Unreadable(RpcError):
    """An invalid message whose `id` could be read all the same, so that the error can repeat it (X-BASE-04)."""

    request_id: RequestId | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any], message: str) -> _Unreadable:
        error = cls(INVALID_REQUEST, message)
        found = value.get("id")
        error.request_id = found if _is_id(found) else None
        return error


def id_of(error: RpcError) -> RequestId | None:
    """The id of the message that `parse` refused, when it had a readable one."""
    return error.request_id if isinstance(error, _Unreadable) else None


def raw(text: str) -> orjson.Fragment:
    """JSON text as a value for `dumps`; it is trusted to be valid."""
    return orjson.Fragment(text)


def dumps(value: Any) -> bytes:
    """Compact JSON on a single line (C-12). Raises TypeError for what has no JSON form.

    Integers past 64 bits and deep nesting, which a tool's schema or error data may hold, take the slower way; `raw`
    values do not stand beside such.
    """
    try:
        return orjson.dumps(value)
    except TypeError as refused:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
            return text.encode()
        except (ValueError, RecursionError):
            raise refused from None


def result_response(request_id: RequestId, result: Any) -> dict[str, Any]:
    """A response with the request's `id`, value and type unchanged (X-BASE-03)."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_response(request_id: RequestId | None, error: RpcError) -> dict[str, Any]:
    """An error response; without `id` when that of the request could not be read (A-18)."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", **({} if request_id is None else {"id": request_id}), "error": body}


def notification(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def _plain(value: Any) -> Any:
    """Mappings that are no dicts. Raises TypeError for the rest."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _containers(body: bytes) -> int:
    """How many objects and arrays begin in it; those in strings, which may be many too, are taken out first."""
    found = body.count(b"{") + body.count(b"[")
    if found > MAX_CONTAINERS:
        bare = _STRING.sub(b"", body)
        found = bare.count(b"{") + bare.count(b"[")
    return found


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether containers stand within each other on more than `limit` levels."""
    level = [value]
    for _ in range(limit):
        children = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
        level = [child for child in children if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def _is_id(value: Any) -> TypeGuard[RequestId]:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _where(error: orjson.JSONDecodeError) -> str:
    return f"{error.msg.partition(':')[0]} (line {error.lineno}, column {error.colno})"
