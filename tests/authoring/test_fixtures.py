"""The fixture tools of the conformance suite can be written with the API as it is (requirements.md, 3.2 to 3.6)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Annotated, Any

import mcp_types
import pytest
from pydantic import BaseModel, Field

from taskengine import Context, Form, ProtocolError, Roots, Sample, TaskEngine, ToolError
from taskengine.testing import call

engine = TaskEngine("fixtures")
PIXEL = "iVBORw0KGgo="


class Name(BaseModel):
    name: str


class Color(BaseModel):
    color: str


class Ok(BaseModel):
    ok: bool


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Annotated[str, Field(json_schema_extra={"enum": ["active", "inactive", "pending"]})] = "active"
    verified: bool = True


@engine.tool(task="forbidden")
async def test_multiple_content_types() -> list[mcp_types.ContentBlock]:
    """Several kinds of content."""
    return [
        mcp_types.TextContent(text="Multiple content types test:"),
        mcp_types.ImageContent(data=PIXEL, mime_type="image/png"),
        mcp_types.EmbeddedResource(
            resource=mcp_types.TextResourceContents(
                uri="test://mixed-content-resource", mime_type="application/json", text='{"test":"data","value":123}'
            )
        ),
    ]


@engine.tool(task="forbidden")
async def test_error_handling() -> None:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


@engine.tool(task="forbidden")
async def test_tool_with_progress(ctx: Context) -> str:
    """Report progress."""
    for step in (0, 50, 100):
        await ctx.progress(step, 100)
        await asyncio.sleep(0)
    return "done"


JSON_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@engine.tool(task="forbidden", input_schema=JSON_SCHEMA)
async def json_schema_2020_12_tool(**arguments: Any) -> str:
    """Take a contact."""
    return str(sorted(arguments))


@engine.tool(task="forbidden")
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask with defaults."""
    answer = await ctx.elicit("Please review", Defaults)
    return f"{answer.action}: {answer.data}"


ENUMS = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": [{"const": f"value{n}", "title": f"Value {n}"} for n in (1, 2, 3)]},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {
            "type": "array",
            "items": {"anyOf": [{"const": f"value{n}", "title": f"Value {n}"} for n in (1, 2, 3)]},
        },
    },
}


@engine.tool(task="forbidden")
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask for every kind of choice."""
    answer = await ctx.elicit("Choose", ENUMS)
    return f"{answer.action}: {answer.data}"


@engine.tool(task="forbidden")
async def test_custom_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take a region."""
    return region


@engine.tool(task="forbidden")
async def test_missing_capability(ctx: Context) -> str:
    """Need sampling."""
    return (await ctx.sample("Hi", max_tokens=1)).text


@engine.tool(task="forbidden")
async def test_trigger_tool_change(ctx: Context) -> str:
    """Announce a change."""
    await ctx.tools_changed()
    return "announced"


@engine.tool(task="forbidden")
async def test_input_required_result_elicitation(ctx: Context) -> str:
    """Ask for a name."""
    answer = await ctx.elicit("What is your name?", Name, key="user_name")
    return f"Hello, {answer.data.name}!" if answer.data else "Hello!"


@engine.tool(task="forbidden")
async def test_input_required_result_multiple_inputs(ctx: Context) -> str:
    """Ask for three things."""
    answers = await ctx.elicit_all(
        {
            "user_name": Form("What is your name?", Name),
            "greeting": Sample("Write a greeting", max_tokens=100),
            "client_roots": Roots(),
        }
    )
    return f"{answers['user_name'].data.name} {answers['greeting'].text} {len(answers['client_roots'])}"


@engine.tool(task="forbidden")
async def test_input_required_result_multi_round(ctx: Context) -> str:
    """Ask twice."""
    one = await ctx.elicit("Name?", Name, key="step1")
    two = await ctx.elicit("Color?", Color, key="step2")
    return f"{one.data} {two.data}"


@engine.tool(task="forbidden")
async def test_input_required_result_capabilities(ctx: Context) -> str:
    """Ask only as declared."""
    if ctx.supports("elicitation"):
        await ctx.elicit("Name?", Name)
    elif ctx.supports("sampling"):
        await ctx.sample("Hi", max_tokens=100)
    return "done"


@engine.tool(task="required")
async def failing_job() -> None:
    """Fail after a while."""
    raise ToolError("failed")


@engine.tool
async def protocol_error_job() -> None:
    """End with a JSON-RPC error."""
    raise ProtocolError(-32603, "broken")


@engine.tool(task="required", ask_first={"user_name": Form("What is your name?", Name)})
async def test_tool_with_task(ctx: Context) -> str:
    """Ask, then run as a task."""
    return f"Hello, {ctx.first['user_name'].data.name}!"


for _function in list(engine.tools):
    globals().pop(_function)  # they are tools, not tests


async def test_a_call_without_arguments_is_enough_for_tools_without_parameters():
    assert (await call(engine, "test_multiple_content_types")).result == {
        "content": [
            {"type": "text", "text": "Multiple content types test:"},
            {"type": "image", "data": PIXEL, "mimeType": "image/png"},
            {
                "type": "resource",
                "resource": {
                    "uri": "test://mixed-content-resource",
                    "mimeType": "application/json",
                    "text": '{"test":"data","value":123}',
                },
            },
        ]
    }
    failed = await call(engine, "test_error_handling")
    assert (failed.is_error, failed.text) == (True, "This tool intentionally returns an error for testing")
    assert [entry.progress for entry in (await call(engine, "test_tool_with_progress")).progress] == [0, 50, 100]
    assert (await call(engine, "test_trigger_tool_change")).tools_changed == 1
    assert (await call(engine, "failing_job")).is_error
    assert (await call(engine, "protocol_error_job")).error == {"code": -32603, "message": "broken"}


async def test_the_hand_written_schema_is_listed_verbatim():
    assert engine.tools["json_schema_2020_12_tool"].input_schema == JSON_SCHEMA
    assert (await call(engine, "json_schema_2020_12_tool", {"name": "a", "email": "b"})).text == "['email', 'name']"
    assert "`phone` is missing" in (await call(engine, "json_schema_2020_12_tool", {"contactMethod": "phone"})).text


async def test_defaults_of_a_form_reach_the_client():
    run = await call(engine, "test_elicitation_sep1034_defaults")
    assert run.questions[0].params["requestedSchema"] == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        },
    }
    await run.answer({"elicit-1": {"score": 1.5}})
    assert run.text.startswith("accept: ")


async def test_every_kind_of_choice_can_be_asked_and_answered():
    run = await call(engine, "test_elicitation_sep1330_enums")
    assert run.questions[0].params["requestedSchema"] == ENUMS
    content = {
        "untitledSingle": "option1",
        "titledSingle": "value1",
        "legacyEnum": "opt1",
        "untitledMulti": ["option1", "option2"],
        "titledMulti": ["value1", "value2"],
    }
    await run.answer({"elicit-1": content})
    assert run.text == f"accept: {content}"


async def test_questions_carry_the_keys_the_suite_looks_for():
    run = await call(engine, "test_input_required_result_elicitation")
    (question,) = run.questions
    assert (question.key, question.params["message"]) == ("user_name", "What is your name?")
    await run.answer({"user_name": {"name": "Bo", "extra": True}})
    assert run.text == "Hello, Bo!"
    several = await call(engine, "test_input_required_result_multiple_inputs")
    assert {question.key: question.method for question in several.questions} == {
        "user_name": "elicitation/create",
        "greeting": "sampling/createMessage",
        "client_roots": "roots/list",
    }
    rounds = await call(engine, "test_input_required_result_multi_round", answers={"step1": {"name": "a"}})
    assert [question.key for question in rounds.questions] == ["step2"]


async def test_undeclared_ways_are_not_used():
    missing = await call(engine, "test_missing_capability", capabilities={})
    assert missing.error is not None
    assert missing.error["data"]["requiredCapabilities"] == {"sampling": {}}
    run = await call(engine, "test_input_required_result_capabilities", capabilities={"sampling": {}})
    assert [question.method for question in run.questions] == ["sampling/createMessage"]


async def test_a_task_can_be_asked_for_before_it_is_made():
    run = await call(engine, "test_tool_with_task", answers={"user_name": {"name": "Alice"}})
    assert "Alice" in run.text
    (parameter,) = engine.tools["test_custom_header"].header_parameters
    assert (parameter.name, parameter.type) == ("Region", "string")


@pytest.mark.parametrize("module", ["mcp_types", "starlette", "celery", "sqlalchemy", "asyncpg", "pydantic_settings"])
def test_importing_the_package_loads_nothing_heavy(module):
    """Every process that runs sync tools imports the package."""
    code = f"import sys, taskengine, taskengine.calling; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
