"""Forms: every field that a client can show, and a sentence for each that it cannot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, time
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import AnyUrl, BaseModel, Field, SecretStr, create_model
from typing_extensions import TypedDict

from taskengine import DeclarationError
from taskengine.questions import form_schema

SCHEMA = Path(__file__).parents[3] / "shared" / "spec" / "schema-2026-07-28.json"


class Colour(Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Number(IntEnum):
    ONE = 1


First = Annotated[Literal["v1"], Field(title="First")]
Second = Annotated[Literal["v2"], Field(title="Second")]

FIELDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "text": (str, ..., {"type": "string"}),
    "sized": (
        str,
        Field("ab", min_length=1, max_length=9, title="T", description="D"),
        {"type": "string", "minLength": 1, "maxLength": 9, "title": "T", "description": "D", "default": "ab"},
    ),
    "whole": (int, Field(30, ge=0, le=99), {"type": "integer", "minimum": 0, "maximum": 99, "default": 30}),
    "positive": (int, Field(gt=0, lt=10), {"type": "integer", "minimum": 1, "maximum": 9}),
    "score": (float, 95.5, {"type": "number", "default": 95.5}),
    "flag": (bool, True, {"type": "boolean", "default": True}),
    "day": (date, date(2026, 1, 2), {"type": "string", "format": "date", "default": "2026-01-02"}),
    "moment": (datetime, ..., {"type": "string", "format": "date-time"}),
    "mail": (Annotated[str, Field(json_schema_extra={"format": "email"})], ..., {"type": "string", "format": "email"}),
    "page": (AnyUrl, ..., {"type": "string", "format": "uri", "minLength": 1}),
    "choice": (Literal["a", "b"], "a", {"type": "string", "enum": ["a", "b"], "default": "a"}),
    "single": (Literal["a"], ..., {"type": "string", "enum": ["a"]}),
    "colour": (Colour, Colour.BLUE, {"type": "string", "enum": ["red", "blue"], "default": "blue"}),
    "colour_said": (
        Colour,
        Field(title="Which?"),
        {"type": "string", "enum": ["red", "blue"], "title": "Which?"},
    ),
    "titled": (
        First | Second,
        ...,
        {"type": "string", "oneOf": [{"const": "v1", "title": "First"}, {"const": "v2", "title": "Second"}]},
    ),
    "several": (
        list[Literal["a", "b"]],
        Field(["a"], min_length=1, max_length=2),
        {
            "type": "array",
            "items": {"type": "string", "enum": ["a", "b"]},
            "minItems": 1,
            "maxItems": 2,
            "default": ["a"],
        },
    ),
    "several_colours": (set[Colour], ..., {"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}}),
    "several_titled": (
        list[First | Second],
        ...,
        {
            "type": "array",
            "items": {"anyOf": [{"const": "v1", "title": "First"}, {"const": "v2", "title": "Second"}]},
        },
    ),
    "optional": (str | None, None, {"type": "string"}),
    "optional_colour": (Colour | None, None, {"type": "string", "enum": ["red", "blue"]}),
    "optional_described": (int | None, Field(None, description="D"), {"type": "integer", "description": "D"}),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_becomes_its_form(name):
    annotation, default, expected = FIELDS[name]
    schema = form_schema(create_model("Model", **{name: (annotation, default)}))
    assert schema["properties"] == {name: expected}
    required = default is ... or (not isinstance(default, str) and name in {"positive", "colour_said"})
    assert schema.get("required", []) == ([name] if required else [])


def test_every_form_is_one_of_the_published_schema():
    """X-ELIC-02 to X-ELIC-07, by the schema of the revision."""
    if not SCHEMA.exists():
        pytest.skip("the published schema is not here")
    published = json.loads(SCHEMA.read_text())
    validator = jsonschema.Draft202012Validator(
        {"$ref": "#/$defs/ElicitRequestFormParams", "$defs": published["$defs"]}
    )
    model = create_model("Model", **{name: (kind, default) for name, (kind, default, _) in FIELDS.items()})
    validator.validate({"mode": "form", "message": "m", "requestedSchema": form_schema(model)})


def test_dataclasses_and_typed_dicts_are_forms_too():
    @dataclass
    class Point:
        x: int
        y: int = 0

    class Pair(TypedDict):
        a: str

    assert form_schema(Point)["required"] == ["x"]
    assert form_schema(Pair) == {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def test_a_model_without_fields_asks_for_consent_only():
    assert form_schema(create_model("Empty")) == {"type": "object", "properties": {}}


def test_a_schema_written_by_hand_is_kept_as_it_is():
    schema = {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
            "titledSingle": {"type": "string", "oneOf": [{"const": "value1", "title": "First"}]},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["One", "Two"]},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1"]}},
            "titledMulti": {"type": "array", "items": {"anyOf": [{"const": "value1", "title": "First"}]}},
        },
        "required": ["titledSingle"],
    }
    assert form_schema(schema) == schema


class Inner(BaseModel):
    a: int


@pytest.mark.parametrize(
    ("annotation", "default", "words"),
    [
        (Inner, ..., ["Model.x", "cannot be asked"]),
        (dict[str, str], ..., ["cannot be asked"]),
        (list[str], ..., ["list of choices"]),
        (list[int], ..., ["list of choices"]),
        (str | int, ..., ["Model.x is a union"]),
        (Literal[1, 2], ..., ["choices are texts"]),
        (Number, ..., ["choices are texts"]),
        (SecretStr, ..., ["Model.x", "secret", "elicit_url"]),
        (time, ..., ["'time'", "date-time"]),
        (str, Field(pattern="^a"), ["pattern", "description"]),
        (float, Field(gt=0), ["exclusiveMinimum", "ge="]),
        (int, Field(multiple_of=5), ["multipleOf"]),
        (Any, ..., ["cannot be asked"]),
        (object, ..., ["cannot be asked"]),
        (int, "five", ["default", "x"]),
    ],
)
def test_a_field_that_no_client_can_show_is_refused_by_name(annotation, default, words):
    with pytest.raises(DeclarationError) as caught:
        form_schema(create_model("Model", x=(annotation, default)))
    message = str(caught.value)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "array"}, "A form is"),
        ({"type": "object"}, "A form is"),
        ({"type": "object", "properties": {}, "additionalProperties": False}, "additionalProperties"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "requires a"),
        ({"type": "object", "properties": {"a": {"type": "object", "properties": {}}}}, "a cannot be asked"),
        ({"type": "object", "properties": {"a": True}}, "a cannot be asked"),
        ({"type": "object", "properties": {"a": {"type": "string", "oneOf": [{"const": "x"}]}}}, "title"),
        ({"type": "object", "properties": {"a": {"type": "string", "enum": []}}}, "at least one"),
        ({"type": "object", "properties": {"a": {"type": "string", "enum": ["x"], "enumNames": []}}}, "enumNames"),
        ({"type": "object", "properties": {"a": {"type": "string", "minimum": 1}}}, "minimum"),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}}, "a list has items"),
        ({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}, "default of a"),
        ({"type": "object", "properties": {"a": {"type": "string", "format": "ipv4"}}}, "'ipv4'"),
        ({"type": "nothing", "properties": {}}, "not a valid JSON Schema"),
    ],
)
def test_a_schema_outside_the_forms_is_refused(schema, word):
    with pytest.raises(DeclarationError, match=word):
        form_schema(schema)


@pytest.mark.parametrize("model", [int, str, list[int], dict[str, int], object(), "text", ["a"]])
def test_what_has_no_fields_is_no_form(model):
    with pytest.raises(DeclarationError):
        form_schema(model)
