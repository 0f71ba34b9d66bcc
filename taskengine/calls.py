"""Calls of other tools: what is sent, what comes back, and what becomes of a call that fails."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_jsonable_python

from taskengine.content import encode_json
from taskengine.errors import CallFailed, DeclarationError, EngineError, InvalidArguments, ResultError, TooDeep
from taskengine.lifecycle import Status
from taskengine.records import ChildState

__all__ = ["DEEPEST", "REFUSALS", "ToolCall", "ToolResult", "plain_arguments", "result_of", "too_deep"]

DEEPEST = 32
"""How many tasks may stand above one: a tool that calls itself for ever is stopped here."""

REFUSALS: dict[str, type[EngineError]] = {each.__name__: each for each in (DeclarationError, InvalidArguments, TooDeep)}
"""Why a call is not made. Each is made again from its message alone."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave that this one called."""

    content: list[dict[str, Any]]
    """Its blocks, as on the wire."""
    structured: Any = None
    """Its structured content; None when there is none."""

    @property
    def text(self) -> str:
        """The text blocks, a line each."""
        return "\n".join(block["text"] for block in self.content if block.get("type") == "text")


class ToolCall:
    """A call of another tool, to be awaited once; `ctx.gather` waits for many of them together."""

    def __init__(self, start: Callable[[], Awaitable[ToolResult]]) -> None:
        self._start = start

    def __await__(self) -> Any:
        return self._start().__await__()


def too_deep(name: str) -> TooDeep:
    return TooDeep(
        f"{name} is not called: it would be {DEEPEST + 1} levels deep, and the limit is {DEEPEST}; does a tool call "
        "itself, or two call each other, without an end?"
    )


def plain_arguments(name: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        plain = json.loads(encode_json(to_jsonable_python(dict(arguments or {}), by_alias=True)))
    except (ValueError, TypeError, ResultError) as error:
        raise InvalidArguments(f"The arguments for {name} are not JSON: {error}") from None
    assert isinstance(plain, dict)
    return plain


def result_of(child: ChildState) -> ToolResult:
    """Raises CallFailed."""
    if child.status is Status.COMPLETED and child.result is not None:
        members = json.loads(child.result)
        result = ToolResult(members.get("content", []), members.get("structuredContent"))
        if child.is_error:
            raise CallFailed(child.tool, child.id, "failed", result.text or "it gave no reason")
        return result
    if child.status is Status.FAILED and child.error is not None:
        raise CallFailed(child.tool, child.id, "failed", str(json.loads(child.error).get("message")))
    raise CallFailed(child.tool, child.id, "was cancelled", child.message or "it gave no reason")
