"""From a source of chance to one request: a valid one of either revision, with a few things about it that are not.

All chance comes from the `Random` that is passed in, so that a seed is a whole run, and Hypothesis can make smaller
what has failed.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from taskengine.wire import modern

__all__ = ["Input", "Material", "corrupted", "make", "make_line"]

NAMED = {"tools/call": "name", "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId"}
BOTH = "application/json, text/event-stream"
VERSIONS = ["2025-11-25", "2025-06-18", "2025-03-26"]
EXTENSION = {"extensions": {modern.TASKS: {}}, "elicitation": {}}


@dataclass
class Material:
    """Ids and tokens that were given out: to the one who fuzzes, and to somebody else."""

    token: str
    tasks: list[str] = field(default_factory=list)
    foreign_tasks: list[str] = field(default_factory=list)
    sessions: dict[str, str] = field(default_factory=dict)
    """By version."""
    sealed: list[str] = field(default_factory=list)
    """Request states, cursors and event ids, one's own, another's and such that are too old."""


@dataclass(frozen=True)
class Input:
    kind: str
    method: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    changed: tuple[str, ...] = ()


DEEP = re.compile(r'"@deep (\d+)"')
"""Stands for so many arrays within each other until the message is text: Python could not walk through them."""

TEXTS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\r\nX-Injected: 1",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "\ud800",
    "\U0001f600",
    "../../../../etc/passwd",
    "..%2f..%2f",
    "'; DROP TABLE tasks; --",
    "' OR '1'='1",
    "%s%n%x",
    "{0.__class__.__mro__}",
    "${jndi:ldap://x}",
    "<script>alert(1)</script>",
    "__proto__",
    "NaN",
    "null",
    "-1",
    "1e309",
    "A" * 5_000,
    "é" * 300,
    "=?base64?AAAA?=",
    "=?base64?%%?=",
    "ev-0",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    -0.0,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**40,
    1e308,
    [],
    {},
    [[]],
    [None] * 50,
    {"": ""},
    {"$ref": "#"},
    {"taskId": {}},
    {"a": [1, {"b": None}]},
    "@deep 20",
    "@deep 198",
    "@deep 1020",
    "@deep 5000",
]
METHODS = [
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "tools/call",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tasks/cancel",
    "subscriptions/listen",
    "logging/setLevel",
    "prompts/get",
    "resources/read",
    "completion/complete",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "rpc.discover",
]
NAMES = [
    "taskId",
    "name",
    "arguments",
    "cursor",
    "requestState",
    "inputResponses",
    "_meta",
    "task",
    "ttl",
    "progressToken",
    "requestId",
    "reason",
    "level",
    "notifications",
    "id",
    "method",
    "jsonrpc",
    "params",
    "result",
    "error",
    "dev.taskengine/idempotencyKey",
    "traceparent",
    modern.VERSION_KEY,
    modern.CAPABILITIES_KEY,
]
HEADERS = [
    "host",
    "origin",
    "accept",
    "content-type",
    "content-length",
    "content-encoding",
    "authorization",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "mcp-param-region",
    "mcp-session-id",
    "last-event-id",
    "idempotency-key",
    "traceparent",
    "x-forwarded-for",
    "expect",
]


def make(rng: Random, material: Material) -> Input:
    """One request."""
    verb = "POST"
    headers = {
        "host": "localhost",
        "accept": BOTH,
        "content-type": "application/json",
        "authorization": f"Bearer {material.token}",
    }
    if rng.random() < 0.5:
        kind, message = "modern", _modern(rng, material)
        headers["mcp-protocol-version"] = modern.VERSION
        headers["mcp-method"] = message["method"]
        name = message["params"].get(NAMED.get(message["method"], ""))
        if isinstance(name, str):
            headers["mcp-name"] = name
        if name == "region":
            headers["mcp-param-region"] = message["params"]["arguments"]["region"]
    else:
        kind, verb, message = _legacy(rng, material)
        if kind != "initialize":
            version = rng.choice(VERSIONS)
            headers["mcp-session-id"] = material.sessions[version]
            if rng.random() < 0.7:
                headers["mcp-protocol-version"] = version
        if verb == "GET":
            headers["accept"] = "text/event-stream"
            if rng.random() < 0.7:
                headers["last-event-id"] = rng.choice(material.sealed)
    changed: list[str] = []
    value: Any = message
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        what = rng.choice(("value", "value", "member", "token", "headers", "headers", "verb"))
        changed.append(what)
        if what == "value":
            value = _changed(rng, value)
        elif what == "member":
            _add_member(rng, value)
        elif what == "token":
            value = _with_tokens(rng, material, value)
            if "mcp-session-id" in headers and rng.random() < 0.5:
                headers["mcp-session-id"] = _spoilt(rng, rng.choice([headers["mcp-session-id"], *material.sealed]))
        elif what == "headers":
            _change_header(rng, headers)
        elif rng.random() < 0.2:
            verb = rng.choice(["GET", "DELETE", "PUT", "OPTIONS", "HEAD", "PATCH"])
    body = _encoded(rng, value) if verb == "POST" else b""
    if rng.random() < 0.08:
        body = corrupted(rng, body)
        changed.append("bytes")
    pairs = [(name.encode("latin-1", "replace"), _latin(text)) for name, text in headers.items()]
    if rng.random() < 0.05:
        pairs.append(rng.choice(pairs))
        changed.append("headers")
    return Input(kind, verb, tuple(pairs), body, tuple(changed))


def make_line(rng: Random, material: Material) -> bytes:
    """One line for standard input."""
    message: Any = _modern(rng, material) if rng.random() < 0.5 else _legacy(rng, material)[2]
    for _ in range(rng.choice((0, 1, 1, 2))):
        message = rng.choice([_changed, _changed, lambda r, m: _with_tokens(r, material, m)])(rng, message)
    line = _encoded(rng, message)
    return (corrupted(rng, line) if rng.random() < 0.15 else line).replace(b"\n", b" ")


def corrupted(rng: Random, data: bytes) -> bytes:
    """A few bytes changed, taken out, doubled or put in."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(found))
        match rng.randint(0, 4):
            case 0:
                found[at : at + 1] = bytes([rng.randint(0, 255)])
            case 1:
                del found[at : at + rng.randint(1, 20)]
            case 2:
                found[at:at] = found[at : at + rng.randint(1, 40)]
            case 3:
                del found[at:]
            case _:
                found[at:at] = rng.choice([b"\0", b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"[", b"{", b'"', b"\\u"])
    return bytes(found)


def _modern(rng: Random, material: Material) -> dict[str, Any]:
    tasks = material.tasks + material.foreign_tasks
    envelope: dict[str, Any] = {
        modern.VERSION_KEY: modern.VERSION,
        modern.CAPABILITIES_KEY: EXTENSION if rng.random() < 0.8 else {},
    }
    params: dict[str, Any]
    method = rng.choice([*METHODS[2:9], "tools/call", "tools/call", rng.choice(METHODS)])
    match method:
        case "tools/call":
            params = _call(rng, material)
        case "tasks/get" | "tasks/cancel" | "tasks/result":
            params = {"taskId": rng.choice(tasks)}
        case "tasks/update":
            params = {"taskId": rng.choice(tasks), "inputResponses": {"elicit-1": _answer(rng)}}
        case "subscriptions/listen":
            params = {"notifications": {"taskIds": rng.sample(tasks, 2), "toolsListChanged": rng.random() < 0.5}}
        case "tools/list" | "tasks/list":
            params = {} if rng.random() < 0.5 else {"cursor": rng.choice(material.sealed)}
        case _:
            params = {}
    return _message(rng, method, {**params, "_meta": envelope})


def _legacy(rng: Random, material: Material) -> tuple[str, str, Any]:
    tasks = material.tasks + material.foreign_tasks
    verb = rng.choices(["POST", "GET", "DELETE"], [90, 8, 0])[0]
    kind = "legacy" if verb == "POST" else "stream"
    if rng.random() < 0.1:
        info = {"name": "fuzz", "version": "1"}
        hello = {"protocolVersion": rng.choice([*VERSIONS, "1.0"]), "capabilities": {}, "clientInfo": info}
        return "initialize", "POST", _message(rng, "initialize", hello)
    if rng.random() < 0.1:
        several = [_legacy_message(rng, material, tasks) for _ in range(rng.randint(0, 5))]
        return "batch", "POST", several
    if rng.random() < 0.1:
        outcome = {"result": _answer(rng)} if rng.random() < 0.7 else {"error": {"code": -1, "message": "no"}}
        return "response", "POST", {"jsonrpc": "2.0", "id": rng.choice([*material.sealed, 1, "x"]), **outcome}
    return kind, verb, _legacy_message(rng, material, tasks)


def _legacy_message(rng: Random, material: Material, tasks: list[str]) -> dict[str, Any]:
    method = rng.choice([each for each in METHODS if each != "initialize"] + ["tools/call"] * 4)
    params: dict[str, Any] = {}
    match method:
        case "tools/call":
            params = _call(rng, material)
            if rng.random() < 0.6:
                params["task"] = {} if rng.random() < 0.5 else {"ttl": rng.choice([1, 1000, 10**9, -5, "x"])}
            if rng.random() < 0.3:
                params["_meta"] = {"progressToken": rng.choice([1, "p", material.tasks[0]])}
        case "tasks/get" | "tasks/cancel" | "tasks/result":
            params = {"taskId": rng.choice(tasks)}
        case "tasks/list" | "tools/list":
            params = {} if rng.random() < 0.4 else {"cursor": rng.choice(material.sealed)}
        case "logging/setLevel":
            params = {"level": rng.choice(["debug", "info", "error", "loud"])}
        case "notifications/cancelled":
            params = {"requestId": rng.randint(0, 20), "reason": rng.choice(TEXTS)}
        case "notifications/progress":
            params = {"progressToken": 1, "progress": 1}
    return _message(rng, method, params)


def _message(rng: Random, method: str, params: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": rng.choice([rng.randint(0, 1000), f"r{rng.randint(0, 99)}"])}
    if method.startswith("notifications/"):
        del message["id"]
    return {**message, "method": method, "params": params}


def _call(rng: Random, material: Material) -> dict[str, Any]:
    tool = rng.choice(["echo", "ask", "region", "job", "job", "asked", "task_wait", "task_cancel", "nothing"])
    arguments: dict[str, Any]
    match tool:
        case "echo":
            arguments = {"text": rng.choice(TEXTS), "number": rng.choice([0, 7, -1])}
        case "region":
            arguments = {"region": "eu"}
        case "job":
            arguments = {"n": rng.randint(0, 9), "label": rng.choice(TEXTS)}
        case "task_wait" | "task_cancel":
            arguments = {"task_id": rng.choice(material.tasks + material.foreign_tasks)}
        case _:
            arguments = {}
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    if tool in {"ask", "asked"} and rng.random() < 0.6:
        params["inputResponses"] = {rng.choice(["name", "who"]): _answer(rng)}
        if rng.random() < 0.8:
            params["requestState"] = rng.choice(material.sealed)
    return params


def _answer(rng: Random) -> Any:
    return rng.choice(
        [
            {"action": "accept", "content": {"name": "x"}},
            {"action": "accept", "content": {"name": rng.choice(TEXTS)}},
            {"action": "decline"},
            {"action": "accept", "content": rng.choice(VALUES)},
            rng.choice(VALUES),
        ]
    )


def _changed(rng: Random, message: Any) -> Any:
    """The message with one of its nodes changed."""
    whole = [copy.deepcopy(message)]
    places = list(_places(whole))
    container, key = rng.choice(places)
    act: Callable[[], None] = rng.choice(
        [
            lambda: container.__setitem__(key, copy.deepcopy(rng.choice(VALUES))),
            lambda: container.__setitem__(key, rng.choice(TEXTS)),
            lambda: container.__setitem__(key, rng.choice(METHODS)),
            lambda: container.__setitem__(key, [container[key]]),
            lambda: container.__setitem__(key, copy.deepcopy(rng.choice(places[:1])[0][0])),
            lambda: container.__delitem__(key),
        ]
    )
    act()
    return whole[0] if whole else None


def _places(container: Any) -> Any:
    for key in list(container) if isinstance(container, dict) else range(len(container)):
        yield container, key
        if isinstance(container[key], (dict, list)):
            yield from _places(container[key])


def _add_member(rng: Random, message: Any) -> None:
    objects = [message] if isinstance(message, dict) else []
    objects += [each[key] for each, key in _places([message]) if isinstance(each[key], dict)]
    if objects:
        rng.choice(objects)[rng.choice([*NAMES, *TEXTS])] = copy.deepcopy(rng.choice([*VALUES, *TEXTS]))


def _with_tokens(rng: Random, material: Material, message: Any) -> Any:
    """Some text of the message replaced by an id or token, as it is or spoilt."""
    whole = [copy.deepcopy(message)]
    texts = [(container, key) for container, key in _places(whole) if isinstance(container[key], str)]
    if texts:
        container, key = rng.choice(texts)
        known = material.sealed + material.tasks + material.foreign_tasks + list(material.sessions.values())
        token = rng.choice(known)
        container[key] = token if rng.random() < 0.3 else _spoilt(rng, token)
    return whole[0]


def _spoilt(rng: Random, token: str) -> str:
    at = rng.randrange(len(token)) if token else 0
    return rng.choice(
        [
            token[:at] + rng.choice("Aa0_-=~é\0") + token[at + 1 :],
            token[:at],
            token + rng.choice(["=", "A", " ", "\n", token]),
            token.swapcase(),
            token[::-1],
            "",
        ]
    )


def _change_header(rng: Random, headers: dict[str, str]) -> None:
    name = rng.choice([*headers, *HEADERS])
    match rng.randint(0, 5):
        case 0:
            headers.pop(name, None)
        case 1:
            headers[name] = rng.choice(TEXTS)
        case 2:
            headers[name] = _spoilt(rng, headers.get(name, "x") or "x")
        case 3:
            headers[name] = rng.choice(METHODS)
        case 4:
            headers[name] = rng.choice(["*/*", "text/html", "http://evil.example", "evil.example", "q=0", "0", "gzip"])
        case _:
            headers[rng.choice(["X-" + "y" * 100, "mcp-param-x", "cookie"])] = "z" * rng.choice([1, 1000, 40_000])


def _encoded(rng: Random, value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError):
        text = "[]"
    text = DEEP.sub(lambda found: "[" * int(found[1]) + "]" * int(found[1]), text)
    return text.encode("utf-8", "surrogatepass")


def _latin(text: str) -> bytes:
    """As a header comes: bytes of any kind but ends of lines."""
    return text.encode("utf-8", "surrogatepass").replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
