"""The fixture tools that the official conformance suite calls, under the names and with the texts it expects.

Written as any application would write its tools: whatever the suite finds out, it finds out about the engine. The
order counts: the suite probes headers with the first tool that is listed (C-10).
"""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from typing import Annotated, Any, Literal

from mcp_types import AudioContent, EmbeddedResource, ImageContent, TextContent, TextResourceContents
from pydantic import BaseModel, Field

from taskengine import Answer, Context, Form, ProtocolError, Roots, Sample, TaskEngine, ToolError

__all__ = ["engine"]

engine = TaskEngine("taskengine-conformance", version="1", instructions="Fixtures of the MCP conformance suite.")

ONE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGO4YGAAAAMEATF0v3V3AAAAAElFTkSuQmCC"
"""A PNG picture of 1 by 1, as base64."""
PAUSE_S = 0.05
"""Between two notifications of one call."""


class Name(BaseModel):
    name: str


class Colour(BaseModel):
    color: str


class Confirmation(BaseModel):
    confirm: bool


class Ok(BaseModel):
    ok: bool


class Account(BaseModel):
    username: str
    email: str


# Both wires: quick tools


@engine.tool(task="forbidden")
def test_simple_text() -> str:
    """Return one text."""
    return "This is a simple text response for testing."


@engine.tool(task="forbidden")
def test_image_content() -> ImageContent:
    """Return a picture."""
    return picture()


@engine.tool(task="forbidden")
def test_audio_content() -> AudioContent:
    """Return a sound."""
    return AudioContent(type="audio", data=silence(), mime_type="audio/wav")


@engine.tool(task="forbidden")
def test_embedded_resource() -> EmbeddedResource:
    """Return a resource with its content."""
    return resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")


@engine.tool(task="forbidden")
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Return a text, a picture and a resource."""
    return [
        TextContent(type="text", text="Multiple content types test:"),
        picture(),
        resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ]


@engine.tool(task="forbidden")
def test_error_handling() -> str:
    """Fail, as tools do."""
    raise ToolError("This tool intentionally returns an error for testing")


@engine.tool(task="forbidden")
async def test_tool_with_progress(ctx: Context) -> str:
    """Report progress three times."""
    for done in (0, 50, 100):
        await ctx.progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(PAUSE_S)
    return "The work was reported in three steps."


@engine.tool(
    task="forbidden",
    input_schema={
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
    },
)
def json_schema_2020_12_tool(**contact: Any) -> str:
    """Show every keyword of JSON Schema 2020-12 that the suite looks for."""
    return f"Known are: {', '.join(sorted(contact))}"


# Both wires, asked for by the suite on the older one


@engine.tool(task="forbidden")
async def test_tool_with_logging(ctx: Context) -> str:
    """Log three lines."""
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.log.info(line)
        await asyncio.sleep(PAUSE_S)
    return "Three lines were logged."


@engine.tool(task="forbidden")
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Have the client's model answer a prompt."""
    answer = await ctx.sample(prompt, max_tokens=100)
    return f"LLM response: {answer.text}"


@engine.tool(task="forbidden")
async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask somebody for a user name and an address."""
    return shown(await ctx.elicit(message, Account))


class Defaults(BaseModel):
    """One field of every simple type, each with a default."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


@engine.tool(task="forbidden")
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask with a form whose fields have defaults."""
    return shown(await ctx.elicit("Please review the values", Defaults))


@engine.tool(task="forbidden")
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask with a form that has every kind of choice."""
    plain, titled = ["option1", "option2", "option3"], [("value1", "First"), ("value2", "Second"), ("value3", "Third")]
    choices = [{"const": value, "title": title} for value, title in titled]
    form = {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": choices},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": choices}},
        },
    }
    return shown(await ctx.elicit("Please choose", form))


@engine.tool(task="forbidden")
async def test_reconnection() -> str:
    """Take long enough for the client to come back for the result."""
    await asyncio.sleep(1.2)
    return "The result came after the connection was closed."


# 2026-07-28: one request at a time


@engine.tool(task="forbidden")
async def test_missing_capability(ctx: Context) -> str:
    """Need something that the caller did not declare."""
    return (await ctx.sample("Say hello", max_tokens=100)).text


@engine.tool(task="forbidden")
async def test_streaming_elicitation(ctx: Context) -> str:
    """Ask somebody to confirm."""
    return shown(await ctx.elicit("Please confirm", Confirmation))


@engine.tool(task="forbidden")
async def test_logging_tool(ctx: Context) -> str:
    """Log a line, for clients that want lines."""
    await ctx.log.info("This reaches only a client that gave a logLevel")
    return "A line was logged."


@engine.tool(task="forbidden")
async def test_trigger_tool_change(ctx: Context) -> str:
    """Announce that the list of tools changed."""
    await ctx.tools_changed()
    return "The change was announced."


@engine.tool(task="forbidden")
def test_custom_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take a parameter that is mirrored in a header."""
    return f"The region is {region}"


@engine.tool(task="forbidden")
async def test_input_required_result_elicitation(ctx: Context) -> str:
    """Greet somebody whose name must be asked for."""
    return greeting(await ctx.elicit("What is your name?", Name, key="user_name"))


@engine.tool(task="forbidden")
async def test_input_required_result_sampling(ctx: Context) -> str:
    """Have the client's model name a capital."""
    answer = await ctx.sample("What is the capital of France?", max_tokens=100, key="capital_question")
    return f"The model says: {answer.text}"


@engine.tool(task="forbidden")
async def test_input_required_result_list_roots(ctx: Context) -> str:
    """Name the places the client works in."""
    roots = await ctx.list_roots(key="client_roots")
    return f"Roots: {', '.join(root.uri for root in roots)}"


@engine.tool(task="forbidden")
async def test_input_required_result_request_state(ctx: Context) -> str:
    """Go on with the state that the client brought back."""
    answer = await ctx.elicit("Please confirm", Ok, key="confirm")
    return f"state-ok, {shown(answer)}"


@engine.tool(task="forbidden")
async def test_input_required_result_multiple_inputs(ctx: Context) -> str:
    """Ask for three kinds of things at once."""
    answers = await ctx.elicit_all(
        {
            "user_name": Form("What is your name?", Name),
            "greeting": Sample("Generate a greeting", 50),
            "client_roots": Roots(),
        }
    )
    return f"{greeting(answers['user_name'])} {answers['greeting'].text} ({len(answers['client_roots'])} roots)"


@engine.tool(task="forbidden")
async def test_input_required_result_multi_round(ctx: Context) -> str:
    """Ask twice, one after the other."""
    name = await ctx.elicit("Step 1: What is your name?", Name, key="step1")
    colour = await ctx.elicit("Step 2: What is your favorite color?", Colour, key="step2")
    return f"{shown(name)}; {shown(colour)}"


@engine.tool(task="forbidden")
async def test_input_required_result_tampered_state(ctx: Context) -> str:
    """Ask, with a state that nobody may change on the way."""
    return shown(await ctx.elicit("Please confirm", Ok, key="confirm"))


@engine.tool(task="forbidden")
async def test_input_required_result_capabilities(ctx: Context) -> str:
    """Ask in a way that the client has."""
    if ctx.supports("elicitation"):
        return greeting(await ctx.elicit("What is your name?", Name, key="user_name"))
    return (await ctx.sample("Make up a name", max_tokens=50, key="made_up_name")).text


# 2026-07-28: tasks


@engine.tool(task="forbidden")
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"


@engine.tool(ttl="1h", timeout="5m")
async def slow_compute(seconds: Annotated[float, Field(ge=0, le=120)], label: str = "") -> str:
    """Take as many seconds as asked for."""
    await asyncio.sleep(seconds)
    return f"Computed {label or 'something'} in {seconds:g} s"


@engine.tool(task="required", bridge=False, ttl="1h")
async def failing_job() -> str:
    """Work for a second, and fail as a tool."""
    await asyncio.sleep(1)
    raise ToolError("The job failed after a second of work")


@engine.tool(task="required", bridge=False, ttl="1h")
async def protocol_error_job() -> str:
    """Fail as a request."""
    raise ProtocolError(-31500, "The job broke down", {"part": "conveyor"})


@engine.tool(ttl="1h")
async def confirm_delete(filename: str, ctx: Context) -> str:
    """Delete a file, if somebody agrees. No file is touched."""
    answer = await ctx.elicit(f"Delete {filename}?", Confirmation)
    agreed = answer.data is not None and answer.data.confirm
    return f"{filename} was {'deleted' if agreed else 'kept'}"


@engine.tool(ttl="1h")
async def multi_input(ctx: Context) -> str:
    """Ask two questions at once."""
    name, confirmation = await ctx.elicit_all(
        [Form("What is your name?", Name), Form("Shall this go on?", Confirmation)]
    )
    return f"{shown(name)}; {shown(confirmation)}"


@engine.tool(task="required", bridge=False, ttl="1h", ask_first={"user_name": Form("What is your name?", Name)})
async def test_tool_with_task(ctx: Context) -> str:
    """Greet, in a task that is made once the name is known."""
    return greeting(ctx.first["user_name"])


def picture() -> ImageContent:
    return ImageContent(type="image", data=ONE_PIXEL, mime_type="image/png")


def silence() -> str:
    """A millisecond of it as a WAV file, as base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(b"\x80" * 8)
    return base64.b64encode(file.getvalue()).decode()


def resource(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def greeting(answer: Answer[Name]) -> str:
    return f"Hello, {answer.data.name}!" if answer.data is not None else "Hello, whoever you are!"


def shown(answer: Answer[Any]) -> str:
    """What somebody answered, in words."""
    data = answer.data.model_dump_json() if isinstance(answer.data, BaseModel) else answer.data
    return f"User response: {answer.action} {data or ''}".rstrip()
