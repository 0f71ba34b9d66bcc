"""Results: what a function returned becomes content, structured content, or a clear refusal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import mcp_types
import mcp_types._v2025_11_25 as legacy
import mcp_types._v2026_07_28 as modern
import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from taskengine.content import encode_json, to_result
from taskengine.declaration import make_tool
from taskengine.errors import ResultError
from taskengine.steps import Codec

PNG = "iVBORw0KGgo="


class Report(BaseModel):
    rows: int
    when: date = Field(date(2026, 1, 1), alias="createdAt")


@dataclass
class Point:
    x: float


class Pair(TypedDict):
    a: int


class Colour(StrEnum):
    RED = "red"


def result(value: Any, returns: Any = ..., **options: Any) -> dict[str, Any]:
    def function(): ...

    if returns is not ...:
        function.__annotations__["return"] = returns
    return to_result(make_tool(function, description="d", **options), value)


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {"content": []}),
        ("hello", text("hello")),
        ("", text("")),
        (5, text("5")),
        (2.5, text("2.5")),
        (True, text("true")),
        (Decimal("1.50"), text("1.50")),
        (date(2026, 1, 2), text("2026-01-02")),
        (Path("a/b"), text("a/b")),
        (Colour.RED, text("red")),
    ],
)
def test_plain_values_are_text(value, expected):
    assert result(value) == expected


@pytest.mark.parametrize(
    ("value", "structured"),
    [
        ({"a": 1, "b": [None]}, {"a": 1, "b": [None]}),
        (Report(rows=3), {"rows": 3, "createdAt": "2026-01-01"}),
        (Point(1.5), {"x": 1.5}),
        ([1, 2], [1, 2]),
        (["a", "b"], ["a", "b"]),
        ((Point(1.0),), [{"x": 1.0}]),
        ([], []),
        ({"when": date(2026, 1, 2), 3: {4}}, {"when": "2026-01-02", "3": [4]}),
    ],
)
def test_objects_and_lists_are_structured_and_their_json_is_the_text(value, structured):
    made = result(value)
    assert made["structuredContent"] == structured
    assert json.loads(made["content"][0]["text"]) == structured
    assert "structuredContent" not in result(value, structured=False)


@pytest.mark.parametrize(
    ("returns", "value", "structured"),
    [
        (Report, Report(rows=1), {"rows": 1, "createdAt": "2026-01-01"}),
        (Report, {"rows": 2, "createdAt": "2026-02-02"}, {"rows": 2, "createdAt": "2026-02-02"}),
        (Point, Point(2.0), {"x": 2.0}),
        (Pair, {"a": 1}, {"a": 1}),
        (int, 5, 5),
        (float, 2.5, 2.5),
        (bool, False, False),
        (list[Point], [Point(1.0)], [{"x": 1.0}]),
        (dict[str, date], {"d": date(2026, 1, 2)}, {"d": "2026-01-02"}),
        (Report | None, None, None),
        (tuple[int, str], (1, "a"), [1, "a"]),
        (Colour, Colour.RED, "red"),
    ],
)
def test_a_declared_type_gives_structured_content_of_that_type(returns, value, structured):
    made = result(value, returns)
    assert made["structuredContent"] == structured
    assert json.loads(made["content"][0]["text"]) == structured


@pytest.mark.parametrize(
    ("returns", "value", "words"),
    [
        (Report, {"rows": "many"}, ["rows", "integer"]),
        (Report, None, ["NoneType"]),
        (int, 2.5, ["float"]),
        (int, "text", ["str"]),
        (list[int], [1, "x"], ["1"]),
        (float, float("nan"), ["NaN"]),
    ],
)
def test_another_value_than_declared_is_refused(returns, value, words):
    with pytest.raises(ResultError) as caught:
        result(value, returns)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_hand_written_output_schema_is_kept_to():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert result({"n": 1}, output_schema=schema)["structuredContent"] == {"n": 1}
    assert result(Pair(a=1), output_schema={"type": "object"})["structuredContent"] == {"a": 1}
    with pytest.raises(ResultError, match="`n` is missing"):
        result({}, output_schema=schema)


@pytest.mark.parametrize("types", [mcp_types, legacy, modern])
def test_content_blocks_of_every_revision_are_taken(types):
    blocks = [
        types.TextContent(type="text", text="t"),
        types.ImageContent(type="image", data=PNG, mimeType="image/png"),
        types.AudioContent(type="audio", data=PNG, mimeType="audio/wav"),
        types.EmbeddedResource(
            type="resource", resource=types.TextResourceContents(uri="test://r", mimeType="text/plain", text="x")
        ),
        types.ResourceLink(type="resource_link", name="n", uri="https://example.org/r"),
    ]
    expected = [
        {"type": "text", "text": "t"},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        {"type": "audio", "data": PNG, "mimeType": "audio/wav"},
        {"type": "resource", "resource": {"uri": "test://r", "mimeType": "text/plain", "text": "x"}},
        {"type": "resource_link", "name": "n", "uri": "https://example.org/r"},
    ]
    assert result(blocks) == {"content": expected}
    assert result(tuple(blocks)) == {"content": expected}
    for block, wire in zip(blocks, expected, strict=True):
        assert result(block) == {"content": [wire]}


def test_lists_may_mix_blocks_with_other_values():
    image = mcp_types.ImageContent(data=PNG, mime_type="image/png")
    assert result(["look:", image, {"n": 1}])["content"] == [
        {"type": "text", "text": "look:"},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        {"type": "text", "text": '{"n":1}'},
    ]


def test_annotations_and_meta_of_blocks_are_kept():
    block = mcp_types.TextContent(
        text="t", annotations=mcp_types.Annotations(audience=["user"], priority=0.5), _meta={"example.org/a": None}
    )
    assert result(block)["content"] == [
        {
            "type": "text",
            "text": "t",
            "annotations": {"audience": ["user"], "priority": 0.5},
            "_meta": {"example.org/a": None},
        }
    ]


def test_a_whole_result_is_kept_as_it_is():
    whole = mcp_types.CallToolResult(
        content=[mcp_types.TextContent(text="bad")],
        structured_content={"a": None},
        is_error=True,
        _meta={"example.org/k": 1},
    )
    assert result(whole) == {
        "content": [{"type": "text", "text": "bad"}],
        "structuredContent": {"a": None},
        "isError": True,
        "_meta": {"example.org/k": 1},
    }
    assert result(mcp_types.CallToolResult(content=[])) == {"content": []}
    assert result(modern.CallToolResult(content=[], result_type="complete", is_error=True)) == {
        "content": [],
        "isError": True,
    }


def test_a_whole_result_keeps_to_the_output_schema_unless_it_is_an_error():
    schema = {"type": "object", "required": ["n"]}
    good = mcp_types.CallToolResult(content=[], structured_content={"n": 1})
    assert result(good, output_schema=schema)["structuredContent"] == {"n": 1}
    with pytest.raises(ResultError, match="no structured content"):
        result(mcp_types.CallToolResult(content=[]), output_schema=schema)
    with pytest.raises(ResultError, match="`n` is missing"):
        result(mcp_types.CallToolResult(content=[], structured_content={}), output_schema=schema)
    assert result(mcp_types.CallToolResult(content=[], is_error=True), output_schema=schema)["isError"] is True


def test_a_derived_block_is_a_block():
    class Note(mcp_types.TextContent):
        pass

    assert result(Note(text="n")) == text("n")


@pytest.mark.parametrize("value", [object(), {"a": object()}, [lambda: None], iter, b"\xff\xfe"])
def test_what_has_no_json_form_is_refused_by_its_type(value):
    with pytest.raises(ResultError) as caught:
        result(value)
    assert "no JSON form" in str(caught.value)


def test_a_value_that_contains_itself_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ResultError):
        result(loop)
    with pytest.raises(ResultError, match="contains itself"):
        encode_json(loop)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (float("nan"), "NaN"),
        ({"a": [float("inf")]}, "infinity"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ({1, 2}, "set"),
        ({(1, 2): 3}, "tuple"),
        (object(), "object"),
    ],
)
def test_encoding_names_what_json_cannot_hold(value, word):
    with pytest.raises(ResultError, match=word):
        encode_json(value)


def test_too_deep_a_value_is_refused():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ResultError):
        encode_json(deep)
    with pytest.raises(ResultError):
        result(deep)


def test_encoding_is_compact_and_keeps_every_character():
    assert encode_json({"a": [1, "é🎉\0"], "b": None}) == '{"a":[1,"é🎉\\u0000"],"b":null}'


def test_the_result_of_a_step_is_measured_in_bytes() -> None:
    def give() -> str:
        raise AssertionError("only its annotation counts")

    codec = Codec("shout", give, max_bytes=12)
    assert codec.dump("€€€") == '"€€€"'
    with pytest.raises(ResultError, match="returned 14 bytes as JSON, and the limit is 12"):
        codec.dump("€€€€")
