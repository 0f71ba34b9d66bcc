"""Declaring what is sensitive, and what hides it."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field

from taskengine import DeclarationError, Sensitive, TaskEngine
from taskengine.errors import InvalidArguments
from taskengine.sensitive import HIDDEN, scrubber, shown_traceback, without_sensitive


def declared(function: Any, **options: Any) -> Any:
    return TaskEngine("x").add_tool(function, **options)


def test_a_marked_parameter_and_a_marked_tool_are_known_as_such() -> None:
    async def marked(
        user: str, password: Annotated[str, Field(min_length=3), Sensitive()], pin: Annotated[int, Sensitive]
    ) -> None:
        """Do something."""

    assert declared(marked).sensitive == ("password", "pin")
    assert declared(marked, sensitive=True).sensitive == ("*",)
    assert "Sensitive" not in str(declared(marked).input_schema)


def test_a_renamed_parameter_is_hidden_by_the_name_that_clients_use() -> None:
    async def marked(key: Annotated[str, Field(alias="apiKey"), Sensitive()]) -> None:
        """Do something."""

    assert declared(marked).sensitive == ("apiKey",)


def test_what_is_sensitive_cannot_be_repeated_in_a_header() -> None:
    async def marked(key: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Key"}), Sensitive()]) -> None:
        """Do something."""

    with pytest.raises(DeclarationError, match="key is sensitive, and clients repeat it in a header"):
        declared(marked)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_sensitive_is_true_or_false(value: Any) -> None:
    async def tool() -> None:
        """Do something."""

    with pytest.raises(DeclarationError, match="sensitive is"):
        declared(tool, sensitive=value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 3},
        {"type": "string", "pattern": "^[0-9]$"},
        {"enum": ["a", "b"]},
        {"const": 1},
        {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]},
        {"type": "object", "additionalProperties": False},
        {"type": "string", "format": "email", "maxLength": 1},
        {"not": {}},
    ],
)
@pytest.mark.parametrize("value", ["hunter2-hunter2", {"hunter2-hunter2": "hunter2-hunter2"}, ["hunter2-hunter2"]])
def test_no_rule_of_a_schema_repeats_a_sensitive_value(schema: dict[str, Any], value: Any) -> None:
    async def tool(**rest: Any) -> None:
        """Do something."""

    made = declared(tool, input_schema={"type": "object", "properties": {"secret": schema}}, sensitive=True)
    with pytest.raises(InvalidArguments) as refused:
        made.check_arguments({"secret": value})
    assert "hunter2" not in str(refused.value)


def test_a_value_is_hidden_where_it_is_quoted_nested_or_a_number() -> None:
    arguments = {"a": {"b": ['it\'s "secret"'], "c": 123456}, "d": "open", "e": "no", "f": True}
    scrub = scrubber(arguments, ["a", "e", "f"])
    text = f"{arguments['a']} open no True 123456"
    assert "secret" not in scrub(text)
    assert "123456" not in scrub(text)
    assert scrub("open no True").endswith("open no True")


def test_the_longer_value_is_hidden_before_one_that_is_within_it() -> None:
    assert scrubber({"a": "pass", "b": "password"}, ["a", "b"])("my password") == f"my {HIDDEN}"


def test_a_traceback_of_a_sensitive_tool_says_where_and_not_what() -> None:
    def fail() -> None:
        raise RuntimeError("hunter2")

    with pytest.raises(RuntimeError) as raised:
        fail()
    trace = shown_traceback(raised.value, {}, ("*",))
    assert trace.endswith(f"RuntimeError: {HIDDEN}\n")
    assert "test_sensitive.py" in trace
    assert "RuntimeError: hunter2" not in trace


def test_what_is_not_sensitive_is_shown_as_it_is() -> None:
    row = {"id": "t", "arguments": {"a": 1}, "result": {"x": 1}, "sensitive": []}
    assert without_sensitive(row) == {"id": "t", "arguments": {"a": 1}, "result": {"x": 1}}
