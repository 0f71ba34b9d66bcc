"""JSON Schema of tools: compiled validators, sentences about what does not fit, header parameters.

Schemas are read in the dialect they declare, 2020-12 by default (X-JS-01); drafts 4, 6, 7, 2019-09 and 2020-12
are supported (X-JS-03). Nothing is ever fetched: a reference that leaves the schema is refused where the tool is
declared (M-JS-05, M-JS-06), and so is a schema too large or deep to check in bounded time (M-JS-07).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from taskengine.errors import DeclarationError

__all__ = ["HEADER_KEYWORD", "HeaderParameter", "Hides", "PlainJsonSchema", "Schema", "header_parameters"]

Hides = Callable[[Sequence[Any]], bool]
"""Whether what stands at this path of an instance must not be repeated."""
MAX_DEPTH = 64
MAX_SUBSCHEMAS = 10_000
MAX_PROBLEMS = 10
MAX_SHOWN = 200
SAFE_INTEGER = 2**53 - 1
HEADER_KEYWORD = "x-mcp-header"

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLES = (
    "items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties",
    "propertyNames", "not", "if", "then", "else", "contentSchema",
)  # fmt: skip


class PlainJsonSchema(GenerateJsonSchema):
    """Pydantic's schemas without titles made up from names, which only cost a model tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """A default without a JSON form is left out of the schema, which is no fault."""
        if kind != "non-serializable-default":
            super().emit_warning(kind, detail)


@dataclass(frozen=True, slots=True)
class HeaderParameter:
    """An argument that clients repeat in the header `Mcp-Param-<name>` (M-HDR-13)."""

    name: str
    path: tuple[str, ...]
    """Where it stands in the arguments."""
    type: Literal["string", "integer", "boolean"]

    def value(self, arguments: Mapping[str, Any]) -> Any:
        """The argument, or None when it or something above it is absent or null (M-HDR-19)."""
        found: Any = arguments
        for key in self.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


class Schema:
    """A JSON Schema, checked and compiled once."""

    def __init__(self, document: Mapping[str, Any], what: str, *, formats: bool = False) -> None:
        """Raises DeclarationError, naming `what`, when the schema is not valid or not complete in itself."""
        self.document = cast("dict[str, Any]", document)
        if not isinstance(document, dict):
            raise DeclarationError(f"{what} is not a JSON object: give a dict")
        for count, (depth, where, subschema) in enumerate(_walk(document)):
            if depth > MAX_DEPTH or count > MAX_SUBSCHEMAS:
                raise DeclarationError(
                    f"{what} is too large: a schema may have {MAX_SUBSCHEMAS} subschemas, {MAX_DEPTH} levels deep"
                )
            for keyword in ("$ref", "$dynamicRef"):
                _check_reference(subschema, keyword, (*where, keyword), document, what)
        try:
            self._validator = jsonschema_rs.validator_for(document, validate_formats=formats, offline=True)
        except ValueError as error:
            at = "/".join(str(part) for part in getattr(error, "instance_path", ()))
            text = getattr(error, "message", str(error))
            raise DeclarationError(f"{what} is not a valid JSON Schema{f' (at {at})' if at else ''}: {text}") from None

    def problems(self, instance: Any, hides: Hides = lambda _: False) -> list[str]:
        """What does not fit, one sentence each, most telling first; empty when `instance` is valid.

        Of a place that `hides` names, the value is not repeated.
        """
        found: list[str] = []
        for error in self._validator.iter_errors(instance):
            if len(found) == MAX_PROBLEMS:
                found.append("and more")
                break
            if hides(error.instance_path):
                found.append(f"{_name(error.instance_path)} does not fit its schema ({_keyword(error)})")
                continue
            found.extend(self._refused_names(error, instance) or self._sentences(error))
        return list(dict.fromkeys(found))

    def _refused_names(self, error: jsonschema_rs.ValidationError, instance: Any) -> list[str]:
        """The members that a schema without any property names refuses: its error tells their value only."""
        if not isinstance(error.kind, Kind.FalseSchema) or error.schema_path[-1:] != ["additionalProperties"]:
            return []
        for part in error.instance_path:
            instance = instance[part]
        return [f"{_name([*error.instance_path, key])} is not expected here; known names: none" for key in instance]

    def _sentences(self, error: jsonschema_rs.ValidationError) -> list[str]:
        name = _name(error.instance_path)
        kind = error.kind
        if isinstance(kind, Kind.Required):
            parent = self._fragment(error.schema_path[:-1])
            wanted = parent.get("properties", {}).get(kind.property, {})
            return [f"{_name([*error.instance_path, kind.property])} is missing{_expectation(wanted)}"]
        if isinstance(kind, (Kind.AdditionalProperties, Kind.UnevaluatedProperties)):
            parent = self._fragment(error.schema_path[:-1])
            known = ", ".join(f"`{key}`" for key in parent.get("properties", {})) or "none"
            return [
                f"{_name([*error.instance_path, key])} is not expected here; known names: {known}"
                for key in kind.unexpected
            ]
        if isinstance(kind, Kind.Type):
            return [f"{name} must be {_type(kind.types)}, not {_shown(error.instance)}"]
        if isinstance(kind, Kind.Enum):
            return [f"{name} must be one of {', '.join(map(_shown, kind.options))}, not {_shown(error.instance)}"]
        if isinstance(kind, (Kind.AnyOf, Kind.OneOfNotValid)):
            branches = [self._sentences(errors[0])[0] for errors in kind.context if errors]
            branches = list(dict.fromkeys(branches))
            return [f"{name} fits none of the forms allowed: {_cut('; or '.join(branches), MAX_SHOWN * 3)}"]
        return [f"{name}: {_cut(error.message)}"]

    def _fragment(self, path: list[str | int]) -> dict[str, Any]:
        found: Any = self.document
        for part in path:
            try:
                found = _resolve(self.document, found["$ref"]) if part == "$ref" else found[part]
            except (KeyError, IndexError, TypeError):
                return {}
        if isinstance(found, dict) and "$ref" in found and "properties" not in found:
            found = _resolve(self.document, found["$ref"])
        return found if isinstance(found, dict) else {}


def header_parameters(document: Mapping[str, Any], what: str) -> tuple[HeaderParameter, ...]:
    """The parameters marked with `x-mcp-header`. Raises DeclarationError for a mark that clients would refuse,
    since they drop such a tool from the list (M-HDR-14 to M-HDR-17)."""
    found: list[HeaderParameter] = []
    for _, where, subschema in _walk(document):
        if HEADER_KEYWORD not in subschema:
            continue
        header, path = subschema[HEADER_KEYWORD], where[1::2]
        here = f"{what}: {HEADER_KEYWORD} at {'/'.join(map(str, where)) or 'the root'}"
        if not where or any(part != "properties" for part in where[0::2]):
            raise DeclarationError(
                f"{here} is not reachable through `properties` alone: move the parameter out of lists, "
                "references and combinations"
            )
        if not isinstance(header, str) or not _TOKEN.fullmatch(header):
            raise DeclarationError(f'{here} is {header!r}: write a header name part such as "Region"')
        if subschema.get("type") not in ("string", "integer", "boolean"):
            raise DeclarationError(
                f"{here} marks {_type_of(subschema)}: only a plain string, integer or boolean can be a header; "
                "for an optional one give a default that is not None"
            )
        if any(other.name.lower() == header.lower() for other in found):
            raise DeclarationError(f"{here} repeats the header name {header!r}: give each parameter its own")
        limits = [subschema[key] for key in ("minimum", "maximum") if isinstance(subschema.get(key), int)]
        if subschema["type"] == "integer" and any(abs(limit) > SAFE_INTEGER for limit in limits):
            raise DeclarationError(f"{here} allows numbers past {SAFE_INTEGER}, which no header can carry exactly")
        found.append(HeaderParameter(header, tuple(str(part) for part in path), subschema["type"]))
    return tuple(found)


def _walk(schema: Any, depth: int = 0, where: tuple[str | int, ...] = ()) -> Iterator[
    tuple[int, tuple[str | int, ...], dict[str, Any]]
]:  # fmt: skip
    """Every subschema with its depth and place; values that are data (`enum`, `default`) are not entered."""
    if not isinstance(schema, dict):
        return
    yield depth, where, schema
    if depth > MAX_DEPTH:
        return
    for keyword in _MAPS:
        children = schema.get(keyword)
        if isinstance(children, dict):
            for key, child in children.items():
                yield from _walk(child, depth + 1, (*where, keyword, key))
    for keyword in _LISTS:
        children = schema.get(keyword)
        if isinstance(children, list):
            for index, child in enumerate(children):
                yield from _walk(child, depth + 1, (*where, keyword, index))
    for keyword in _SINGLES:
        yield from _walk(schema.get(keyword), depth + 1, (*where, keyword))


def _check_reference(
    subschema: dict[str, Any], keyword: str, where: tuple[str | int, ...], document: dict[str, Any], what: str
) -> None:
    reference = subschema.get(keyword)
    if not isinstance(reference, str) or reference.startswith("#"):
        return
    target = reference.partition("#")[0]
    if any(inner.get("$id") == target for _, _, inner in _walk(document)):
        return
    raise DeclarationError(
        f"{what} refers to {reference!r} (at {'/'.join(map(str, where))}): nothing is fetched, "
        'so put the definition into "$defs" and refer to "#/$defs/…"'
    )


def _resolve(document: dict[str, Any], reference: str) -> Any:
    """What a reference within the document points to; an empty schema for an anchor."""
    found: Any = document
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found


def _keyword(error: jsonschema_rs.ValidationError) -> str:
    """The rule that is broken, such as `maxLength`."""
    return next((part for part in reversed(error.schema_path) if isinstance(part, str)), "the schema")


def _name(path: list[str | int]) -> str:
    if not path:
        return "the value"
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f"`{text.removeprefix('.')}`"


_TYPES = {
    "array": "an array",
    "boolean": "a boolean",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}


def _type(types: list[str]) -> str:
    return " or ".join(_TYPES.get(name, name) for name in types)


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        return _type([kind])
    return _type(kind) if isinstance(kind, list) else "a value without one type"


def _expectation(wanted: Any) -> str:
    if not isinstance(wanted, dict):
        return ""
    parts = []
    if "enum" in wanted:
        parts.append(f"one of {', '.join(map(_shown, wanted['enum']))}")
    elif "type" in wanted:
        parts.append(f"give {_type_of(wanted)}")
    if isinstance(wanted.get("description"), str):
        parts.append(wanted["description"])
    return f": {_cut('. '.join(parts))}" if parts else ""


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{_cut(value, 60)}"'
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "an object"
    return "an array" if isinstance(value, list) else _cut(str(value), 60)


def _cut(text: str, length: int = MAX_SHOWN) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
