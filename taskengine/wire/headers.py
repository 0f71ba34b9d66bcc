"""Mirrored headers of the 2026-07-28 wire: checked against the body, which stays the truth (M-TRANS-27). Pure.

Headers are the raw pairs of an ASGI scope: names in any case, values as bytes. Every failure is an RpcError -32020.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from taskengine.schema import HeaderParameter
from taskengine.wire.jsonrpc import HEADER_MISMATCH, Request, RpcError

__all__ = ["NAME_SOURCES", "Headers", "RawHeaders", "check_parameters", "check_routing", "values"]

RawHeaders = Sequence[tuple[bytes, bytes]]


class Headers(list[tuple[bytes, bytes]]):
    """The raw pairs of one request, looked through once: most checks ask for a header by its name."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        super().__init__(pairs)
        self.named: dict[bytes, list[bytes]] = {}
        for name, value in self:
            self.named.setdefault(name.lower(), []).append(value)


VERSION = "mcp-protocol-version"
METHOD = "mcp-method"
NAME = "mcp-name"
PARAMETER_PREFIX = "mcp-param-"

NAME_SOURCES = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""The member of params that `Mcp-Name` repeats, by method; no other method demands that header (M-HDR-07)."""

_PRINTABLE = re.compile(rb"[\t\x20-\x7e]*")
_ENCODED = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")


def values(headers: RawHeaders, name: str) -> list[str]:
    """Every value of a header, without the blanks around it (M-HDR-09); names in any case (M-HDR-08)."""
    return [value.strip(b" \t").decode("latin-1") for value in _named(headers, name)]


def check_routing(headers: RawHeaders | None, request: Request, version: str) -> None:
    """`MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` are there once and repeat the body (M-HDR-01 to M-HDR-06).

    None stands for a transport that has no headers: the body is all there is (M-STDIO-07).
    """
    if headers is None:
        return
    _match(headers, VERSION, "MCP-Protocol-Version", version)
    _match(headers, METHOD, "Mcp-Method", request.method)
    source = NAME_SOURCES.get(request.method)
    if source is None:
        return
    body = (request.params or {}).get(source)
    if isinstance(body, str):
        found = _only(headers, NAME, "Mcp-Name")
        if found is None:
            raise RpcError(HEADER_MISMATCH, f"The header Mcp-Name is missing: repeat params.{source} in it")
        if _decoded(found, "Mcp-Name") != body:
            raise RpcError(HEADER_MISMATCH, f"The header Mcp-Name differs from params.{source}")
    elif values(headers, NAME):
        raise RpcError(HEADER_MISMATCH, f"The header Mcp-Name is there, but params.{source} is not text")


def check_parameters(
    headers: RawHeaders | None, parameters: Iterable[HeaderParameter], arguments: Mapping[str, Any]
) -> None:
    """Each annotated argument is repeated by its header, and no header speaks of an absent one (M-HDR-18, A-12)."""
    if headers is None:
        return
    for parameter in parameters:
        title = f"Mcp-Param-{parameter.name}"
        found = _only(headers, f"{PARAMETER_PREFIX}{parameter.name}", title)
        where = ".".join(parameter.path)
        value = parameter.value(arguments)
        if value is None:
            if found is not None:
                raise RpcError(HEADER_MISMATCH, f"The header {title} is there, but the argument {where} is not")
            continue
        if found is None:
            raise RpcError(HEADER_MISMATCH, f"The header {title} is missing: repeat the argument {where} in it")
        if not _equal(_decoded(found, title), value, parameter.type):
            raise RpcError(HEADER_MISMATCH, f"The header {title} differs from the argument {where}")


def _match(headers: RawHeaders, name: str, title: str, body: str) -> None:
    found = _only(headers, name, title)
    if found is None:
        raise RpcError(HEADER_MISMATCH, f"The header {title} is missing")
    if found != body:
        raise RpcError(HEADER_MISMATCH, f"The header {title} differs from the body")


def _only(headers: RawHeaders, name: str, title: str) -> str | None:
    """The header's one value, None when absent. Repeated or unprintable ones are refused (M-HDR-20, M-HDR-27)."""
    found = _named(headers, name)
    if not found:
        return None
    if len(found) > 1:
        raise RpcError(HEADER_MISMATCH, f"The header {title} appears more than once")
    if not _PRINTABLE.fullmatch(found[0]):
        raise RpcError(HEADER_MISMATCH, f"The header {title} has characters that only =?base64?…?= may carry")
    return found[0].strip(b" \t").decode("ascii")


def _named(headers: RawHeaders, name: str) -> Sequence[bytes]:
    wanted = name.lower().encode()
    if isinstance(headers, Headers):
        return headers.named.get(wanted, ())
    return [value for key, value in headers if key.lower() == wanted]


def _decoded(value: str, title: str) -> str:
    """The text a value stands for: that within exact Base64 markers, else itself (M-HDR-10 to M-HDR-12)."""
    encoded = _ENCODED.fullmatch(value)
    if encoded is None:
        return value
    try:
        return base64.b64decode(encoded[1], validate=True).decode()
    except (binascii.Error, ValueError):
        raise RpcError(HEADER_MISMATCH, f"The header {title} is not valid Base64 of UTF-8") from None


def _equal(text: str, value: Any, kind: str) -> bool:
    """Integers are compared as numbers (M-HDR-21). Values of another kind than declared are left to the schema."""
    if kind == "integer" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return bool(_NUMBER.fullmatch(text)) and Decimal(text) == value
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    if isinstance(value, str):
        return text == value
    return True
