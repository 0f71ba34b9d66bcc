"""Arguments: what fits reaches the function in its own types; what does not is explained to a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel, Field

from taskengine import Context
from taskengine.declaration import make_tool
from taskengine.errors import InvalidArguments
from taskengine.tool import Tool


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    name: str
    tags: set[str] = set()


@dataclass
class Point:
    x: float


def refusal(tool: Tool, arguments: dict[str, Any]) -> str:
    with pytest.raises(InvalidArguments) as caught:
        tool.check_arguments(arguments)
    return str(caught.value)


def made(function: Any, **options: Any) -> Tool:
    return make_tool(function, description="d", **options)


def test_arguments_arrive_in_the_types_of_the_function():
    def tool(
        *,
        when: date,
        at: datetime,
        colour: Colour,
        inner: Inner,
        points: list[Point],
        pair: tuple[int, str],
        key: UUID,
        price: Decimal,
        wait: timedelta,
        ratio: float,
    ) -> None: ...

    arguments = {
        "when": "2026-11-22",
        "at": "2026-11-22T12:00:00Z",
        "colour": "red",
        "inner": {"name": "n", "tags": ["a", "b"]},
        "points": [{"x": 1}, {"x": 2.5}],
        "pair": [1, "x"],
        "key": "12345678-1234-5678-1234-567812345678",
        "price": "9.99",
        "wait": "PT90S",
        "ratio": 1,
    }
    made_tool = made(tool)
    made_tool.check_arguments(arguments)
    bound = made_tool.bind(arguments, None)
    assert bound["when"] == date(2026, 11, 22)
    assert bound["colour"] is Colour.RED
    assert bound["inner"] == Inner(name="n", tags={"a", "b"})
    assert bound["points"] == [Point(1.0), Point(2.5)]
    assert bound["pair"] == (1, "x")
    assert bound["price"] == Decimal("9.99")
    assert bound["wait"] == timedelta(seconds=90)
    assert isinstance(bound["ratio"], float)


def test_the_context_goes_to_its_parameter():
    async def tool(a: int, where: Context) -> None: ...

    assert made(tool).bind({"a": 1}, "the context") == {"a": 1, "where": "the context"}


def test_mutable_defaults_are_not_shared_between_calls():
    def tool(items: list[int] = []) -> None: ...  # noqa: B006

    one = made(tool)
    one.bind({}, None)["items"].append(1)
    assert one.bind({}, None)["items"] == []


def test_every_wrong_argument_is_named_with_what_is_expected():
    def tool(
        dataset: Annotated[str, Field(description="Name of the dataset.")],
        limit: Annotated[int, Field(ge=1)] = 1,
        mode: Literal["fast", "slow"] = "fast",
        inner: Inner | None = None,
    ) -> None: ...

    text = refusal(made(tool, name="report"), {"limit": "ten", "mode": "quick", "inner": {"tags": 3}, "dataste": "x"})
    assert text.splitlines()[0].startswith("The arguments do not fit the input schema of report")
    assert "- `dataset` is missing: give a string. Name of the dataset." in text
    assert '- `limit` must be an integer, not "ten"' in text
    assert '- `mode` must be one of "fast", "slow", not "quick"' in text
    assert "- `inner` fits none of the forms allowed: `inner.name` is missing: give a string; or " in text
    assert "- `dataste` is not expected here; known names: `dataset`, `limit`, `mode`, `inner`" in text


def test_nested_trouble_is_named_by_its_path():
    def tool(points: list[Inner]) -> None: ...

    text = refusal(made(tool), {"points": [{"name": "a"}, {"name": 1}, {}, {"name": "b", "more": 1}]})
    assert "`points[1].name` must be a string, not 1" in text
    assert "`points[2].name` is missing" in text


def test_numbers_out_of_range_are_explained():
    def tool(n: Annotated[int, Field(ge=1, le=9)], s: Annotated[str, Field(max_length=3)]) -> None: ...

    text = refusal(made(tool), {"n": 12, "s": "long one"})
    assert "`n`: 12 is greater than the maximum of 9" in text
    assert "`s`: " in text


def test_text_is_not_taken_for_a_number():
    def tool(n: int, flag: bool = False) -> None: ...

    assert "`n` must be an integer" in refusal(made(tool), {"n": "5"})
    assert "`flag` must be a boolean" in refusal(made(tool), {"n": 5, "flag": "true"})
    made(tool).check_arguments({"n": 5.0})


def test_a_validator_of_the_author_speaks_in_its_own_words():
    def even(value: int) -> int:
        if value % 2:
            raise ValueError("give an even number")
        return value

    def tool(n: Annotated[int, AfterValidator(even)]) -> None: ...

    assert "- `n`: give an even number" in refusal(made(tool, scope=locals()), {"n": 3})
    made(tool, scope=locals()).check_arguments({"n": 4})


def test_huge_values_and_long_lists_of_trouble_are_cut():
    def tool(n: int, items: list[int]) -> None: ...

    text = refusal(made(tool), {"n": "x" * 100_000, "items": ["y"] * 1_000})
    assert len(text) < 3_000
    assert "and more" in text


def test_a_tool_without_parameters_takes_none():
    def tool() -> None: ...

    made(tool).check_arguments({})
    assert "`a` is not expected here; known names: none" in refusal(made(tool), {"a": 1})


def test_half_a_surrogate_pair_is_refused():
    def tool(a: str) -> None: ...

    assert "surrogate" in refusal(made(tool), {"a": "\ud800"})


def test_infinity_is_refused():
    def tool(a: float) -> None: ...

    assert refusal(made(tool), {"a": float("inf")})


def test_a_hand_written_schema_decides():
    schema = {
        "type": "object",
        "properties": {"phone": {"type": "string"}, "email": {"type": "string", "minLength": 3}},
        "anyOf": [{"required": ["phone"]}, {"required": ["email"]}],
        "additionalProperties": False,
    }
    tool = made(lambda **given: None, name="t", input_schema=schema)
    tool.check_arguments({"phone": "1"})
    assert "`phone` is missing" in refusal(tool, {})
    assert "`email`: " in refusal(tool, {"email": "a"})
    assert tool.bind({"phone": "1"}, None) == {"phone": "1"}


def test_types_beside_a_hand_written_schema_convert():
    schema = {"type": "object", "properties": {"when": {"type": "string"}}, "required": ["when"]}

    def tool(when: date, other: int = 1) -> None: ...

    one = made(tool, input_schema=schema)
    assert one.bind({"when": "2026-01-02", "unknown": 1}, None) == {"when": date(2026, 1, 2), "other": 1}
    assert "`when`" in refusal(one, {"when": "soon"})


def test_references_are_followed_in_explanations():
    schema = {
        "type": "object",
        "$defs": {"p": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
        "properties": {"at": {"$ref": "#/$defs/p"}},
    }
    tool = made(lambda **given: None, name="t", input_schema=schema)
    assert "`at.x` is missing: give a number" in refusal(tool, {"at": {}})


def test_a_header_integer_stays_exact():
    def tool(n: Annotated[int, Field(json_schema_extra={"x-mcp-header": "N"})]) -> None: ...

    one = made(tool)
    one.check_arguments({"n": 2**53 - 1})
    assert "header" in refusal(one, {"n": 2**53})
