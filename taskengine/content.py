"""From what a tool returned to a neutral result: the members of `CallToolResult` without `resultType`.

Protocol models are recognised by where their class comes from, so that `mcp_types`, slow to import, is loaded only
by tools that use it; the models of every revision it has are taken.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from taskengine.errors import ResultError

if TYPE_CHECKING:
    from taskengine.tool import Tool

__all__ = ["clean_text", "encode_json", "is_protocol_type", "text_result", "to_result"]

_BLOCKS = {"TextContent", "ImageContent", "AudioContent", "EmbeddedResource", "ResourceLink"}


def is_protocol_type(kind: type[Any]) -> Literal["block", "result"] | None:
    """Whether a class is a content block or a whole `CallToolResult` of `mcp_types`, or derived from one."""
    return _protocol_type(cast("Hashable", kind))


@lru_cache(maxsize=1024)
def _protocol_type(kind: Hashable) -> Literal["block", "result"] | None:
    for base in getattr(kind, "__mro__", ()):
        if base.__module__.partition(".")[0] == "mcp_types":
            if base.__name__ in _BLOCKS:
                return "block"
            if base.__name__ == "CallToolResult":
                return "result"
    return None


def encode_json(value: Any) -> str:
    """Compact JSON text. Raises ResultError, naming the trouble, for what JSON or UTF-8 cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError as error:
        raise ResultError(
            f"text with half a surrogate pair ({error.object[error.start : error.end]!a}) is not valid Unicode: "
            "decode the bytes it came from with errors='replace'"
        ) from None
    except TypeError as error:
        raise ResultError(f"a value is not JSON: {error}") from None
    except RecursionError:
        raise ResultError("a value is nested too deeply to be JSON") from None
    except ValueError as error:
        if "Circular" in str(error):
            raise ResultError("a value contains itself, which JSON cannot express") from None
        if "Out of range" in str(error):
            raise ResultError("NaN and infinity are not JSON: return null or text for them") from None
        raise ResultError(f"a value is not JSON: {error}") from None
    return text


def clean_text(text: str) -> str:
    """Text that any store and any JSON can hold: NUL and halves of surrogate pairs are replaced."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def text_result(text: str, *, is_error: bool = False) -> dict[str, Any]:
    """A result of one text block; what is not valid Unicode in `text` is replaced."""
    result: dict[str, Any] = {"content": [{"type": "text", "text": clean_text(text)}]}
    if is_error:
        result["isError"] = True
    return result


def to_result(tool: Tool, value: Any) -> dict[str, Any]:
    """The neutral result for what `tool` returned.

    Raises ResultError when `value` has no JSON form or does not fit the tool's output schema (X-TOOL-14).
    """
    if is_protocol_type(type(value)) == "result":
        return _whole(tool, value)
    if tool.output_schema is not None:
        structured = _typed(tool, value)
        return {"content": [_text(encode_json(structured))], "structuredContent": structured}
    if value is None:
        return {"content": []}
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        return {"content": [_text(value)]}
    if is_protocol_type(type(value)) == "block":
        return {"content": [_block(value)]}
    if isinstance(value, (list, tuple)) and any(is_protocol_type(type(item)) == "block" for item in value):
        return {"content": [_item(item) for item in value]}
    plain = _jsonable(value)
    content = [_text(plain if isinstance(plain, str) else encode_json(plain))]
    if tool.structured is False or not isinstance(plain, (dict, list)):
        return {"content": content}
    return {"content": content, "structuredContent": plain}


def _typed(tool: Tool, value: Any) -> Any:
    """The structured content of a tool with an output schema, checked against it."""
    try:
        structured = tool.dump_return(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ResultError(
            f"The tool returned {_kind(value)} that is not what it declares{f' (at {where})' if where else ''}: "
            f"{first['msg']}"
        ) from None
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise _not_json(value, error) from None
    _check_output(tool, structured)
    return structured


def _check_output(tool: Tool, structured: Any) -> None:
    encode_json(structured)  # NaN passes a schema, but is not JSON
    problems = tool.output_problems(structured)
    if problems:
        raise ResultError(f"The tool's result does not fit its output schema: {'; '.join(problems)}")


def _whole(tool: Tool, value: Any) -> dict[str, Any]:
    """A `CallToolResult` as the tool made it."""
    result: dict[str, Any] = {"content": [_block(block) for block in value.content]}
    if "structured_content" in value.model_fields_set:
        result["structuredContent"] = _jsonable(value.structured_content)
    if value.is_error:
        result["isError"] = True
    elif tool.output_schema is not None:
        if "structuredContent" not in result:
            raise ResultError("The tool has an output schema but its result has no structured content")
        _check_output(tool, result["structuredContent"])
    if value.meta:
        result["_meta"] = _jsonable(value.meta)
    return result


def _item(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return _text(value)
    return _block(value) if is_protocol_type(type(value)) == "block" else _text(encode_json(_jsonable(value)))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _block(block: BaseModel) -> dict[str, Any]:
    try:
        return block.model_dump(mode="json", by_alias=True, exclude_none=True)
    except (PydanticSerializationError, ValueError) as error:
        raise _not_json(block, error) from None


def _jsonable(value: Any) -> Any:
    try:
        return to_jsonable_python(value, by_alias=True)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise _not_json(value, error) from None


def _not_json(value: Any, error: BaseException) -> ResultError:
    return ResultError(
        f"The tool returned {_kind(value)}, which has no JSON form ({str(error)[:200]}): "
        "return text, numbers, lists, dicts, models, dataclasses or content blocks"
    )


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a dict"
    if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        return f"a {type(value).__name__}"
    return f"a value of type {type(value).__name__}"
