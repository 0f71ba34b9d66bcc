"""Forms: from a model to the restricted schema a client can show (X-ELIC-02 to X-ELIC-10).

A form is flat: text, numbers, yes/no, one choice, several choices. Whatever has no such form is refused here, in
the server, before anything is sent (X-ELIC-10).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from taskengine.errors import DeclarationError
from taskengine.schema import PlainJsonSchema, Schema

__all__ = ["form_schema"]

_COMMON = {"type", "title", "description", "default"}
_STRING = _COMMON | {"minLength", "maxLength", "format"}
_NUMBER = _COMMON | {"minimum", "maximum"}
_ARRAY = _COMMON | {"items", "minItems", "maxItems"}
_FORMATS = {"email", "uri", "date", "date-time"}
_IGNORED = {"examples", "deprecated", "readOnly", "$comment"}
"""Annotations of pydantic that change nothing about what fits."""


def form_schema(form: Any) -> dict[str, Any]:
    """The `requestedSchema` for a model, dataclass or TypedDict, or for a schema written by hand (returned as it is).

    Raises DeclarationError, naming the field, when a client could not show it.
    """
    if isinstance(form, Mapping):
        document = dict(form)
        _check(document)
        return document
    if not isinstance(form, Hashable):
        raise DeclarationError(f"{form!r} cannot be a form: give a model whose fields are the questions")
    return dict(_model_schema(form))


@lru_cache(maxsize=256)
def _model_schema(model: Any) -> dict[str, Any]:
    name = getattr(model, "__name__", repr(model))
    try:
        schema = TypeAdapter(model).json_schema(schema_generator=PlainJsonSchema)
    except (PydanticUserError, TypeError) as error:
        raise DeclarationError(f"{name} cannot be a form: {error}") from None
    definitions = schema.get("$defs", {})
    schema = _inline(schema, definitions)
    if schema.get("type") != "object" or "properties" not in schema:
        raise DeclarationError(f"{name} cannot be a form: give a model whose fields are the questions")
    fields = {key: _field(f"{name}.{key}", field, definitions) for key, field in schema["properties"].items()}
    document: dict[str, Any] = {"type": "object", "properties": fields}
    if schema.get("required"):
        document["required"] = schema["required"]
    _check(document, f"{name}.")
    return document


def _inline(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with a reference at its root replaced by what it names; what stands beside it wins."""
    while "$ref" in schema:
        target = definitions.get(schema["$ref"].removeprefix("#/$defs/"), {})
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _field(name: str, field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """One property, written in the forms that clients know."""
    schema = _inline(field, definitions)
    if "anyOf" in schema:
        schema = _union(name, schema, definitions)
    schema = {key: value for key, value in schema.items() if key not in _IGNORED}
    if schema.get("default", 0) is None:
        del schema["default"]  # an answer that leaves the field out says the same
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "enum" in schema:
        choices = {key: value for key, value in schema.items() if key in {*_COMMON, "enum"}}
        choices["type"] = "string"
        return _without_model_texts(choices, field)
    if schema.get("type") == "array":
        items = _field(f"{name} (its items)", schema.get("items") or {}, definitions)
        if "oneOf" in items:
            items = {"anyOf": items["oneOf"]}
        elif "enum" in items:
            items = {"type": "string", "enum": items["enum"]}
        else:
            raise DeclarationError(f"{name} is a list of anything: a form can only ask for a list of choices (Literal)")
        return {**{key: value for key, value in schema.items() if key != "uniqueItems"}, "items": items}
    if schema.get("type") == "integer":
        if "exclusiveMinimum" in schema:
            schema["minimum"] = math.floor(schema.pop("exclusiveMinimum")) + 1
        if "exclusiveMaximum" in schema:
            schema["maximum"] = math.ceil(schema.pop("exclusiveMaximum")) - 1
    return schema


def _without_model_texts(choices: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """An Enum's class name and docstring are not texts for people; only those of the field are."""
    return {key: value for key, value in choices.items() if key not in {"title", "description"} or key in field}


def _union(name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    beside = {key: value for key, value in schema.items() if key != "anyOf"}
    branches = [_inline(branch, definitions) for branch in schema["anyOf"] if branch.get("type") != "null"]
    if len(branches) == 1:
        return {**branches[0], **beside}
    options = [(branch.get("const"), branch.get("title")) for branch in branches]
    if all(isinstance(value, str) for value, _ in options):
        if all(title is None for _, title in options):
            return {**beside, "type": "string", "enum": [value for value, _ in options]}
        return {
            **beside,
            "type": "string",
            "oneOf": [{"const": value, "title": title or value} for value, title in options],
        }
    raise DeclarationError(f"{name} is a union, which a form cannot show: use one type, or a Literal of choices")


def _check(document: Mapping[str, Any], owner: str = "") -> None:
    """The document is a form. Raises DeclarationError otherwise."""
    Schema(document, "the form")
    extra = set(document) - {"$schema", "type", "properties", "required"}
    if document.get("type") != "object" or not isinstance(document.get("properties"), dict) or extra:
        also = f", without {', '.join(sorted(extra))}" if extra else ""
        raise DeclarationError(f'A form is {{"type": "object", "properties": {{…}}, "required": […]}}{also}')
    unknown = [key for key in document.get("required", []) if key not in document["properties"]]
    if unknown:
        raise DeclarationError(f"The form requires {', '.join(unknown)}, which is not among its properties")
    for name, field in document["properties"].items():
        _check_field(f"{owner}{name}", field)


def _check_field(name: str, field: Any) -> None:
    kind = field.get("type") if isinstance(field, dict) else None
    if kind == "string" and ("enum" in field or "oneOf" in field):
        _check_choice(name, field)
    elif kind == "string":
        if field.get("format") == "password":
            raise DeclarationError(f"{name} is a secret: ask for it with elicit_url, never in a form")
        _only(name, field, _STRING)
        if field.get("format", "email") not in _FORMATS:
            raise DeclarationError(
                f"{name} has the format {field['format']!r}, which a form cannot show: "
                f"use one of {', '.join(sorted(_FORMATS))}, or plain text"
            )
    elif kind in {"number", "integer"}:
        _only(name, field, _NUMBER)
    elif kind == "boolean":
        _only(name, field, _COMMON)
    elif kind == "array":
        _check_choices(name, field)
    else:
        raise DeclarationError(
            f"{name} cannot be asked for in a form: "
            "use text, a number, a boolean, a date, a Literal or a list of Literal"
        )
    if "default" in field:
        wrong = Schema({"type": "object", "properties": {name: field}}, name).problems({name: field["default"]})
        if wrong:
            raise DeclarationError(f"The default of {name} does not fit: {wrong[0]}")


def _check_choice(name: str, field: dict[str, Any]) -> None:
    if "oneOf" in field:
        _only(name, field, {*_COMMON, "oneOf"})
        _check_titled(name, field["oneOf"])
    else:
        _only(name, field, {*_COMMON, "enum", "enumNames"})
        _check_plain(name, field["enum"])
        names = field.get("enumNames", field["enum"])
        if not isinstance(names, list) or len(names) != len(field["enum"]):
            raise DeclarationError(f"{name}: enumNames must name each of its {len(field['enum'])} choices")


def _check_choices(name: str, field: dict[str, Any]) -> None:
    _only(name, field, _ARRAY)
    items = field.get("items")
    if isinstance(items, dict) and "anyOf" in items:
        _only(f"{name}.items", items, {"anyOf"})
        _check_titled(name, items["anyOf"])
    elif isinstance(items, dict) and "enum" in items and items.get("type") == "string":
        _only(f"{name}.items", items, {"type", "enum"})
        _check_plain(name, items["enum"])
    else:
        raise DeclarationError(f'{name}: a list has items of {{"type": "string", "enum": […]}} or {{"anyOf": […]}}')


def _check_plain(name: str, choices: Any) -> None:
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise DeclarationError(f"{name}: choices are texts; write Literal['1', '2'], not numbers, and at least one")


def _check_titled(name: str, choices: Any) -> None:
    if (
        not isinstance(choices, list)
        or not choices
        or not all(
            isinstance(choice, dict)
            and set(choice) == {"const", "title"}
            and all(isinstance(text, str) for text in choice.values())
            for choice in choices
        )
    ):
        raise DeclarationError(f'{name}: a choice with a title is {{"const": "…", "title": "…"}}')


def _only(name: str, field: dict[str, Any], allowed: set[str]) -> None:
    extra = sorted(set(field) - allowed)
    if not extra:
        return
    advice = {
        "pattern": "say it in the description and check the answer in the tool",
        "exclusiveMinimum": "use ge=",
        "exclusiveMaximum": "use le=",
        "multipleOf": "say it in the description",
    }.get(extra[0], "leave it out")
    raise DeclarationError(f"{name} uses {', '.join(extra)}, which a form cannot show: {advice}")
