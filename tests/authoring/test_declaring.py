"""Declaring tools: what a function becomes, and the sentence for each declaration that cannot work."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import Enum
from typing import Annotated, Any, Literal, NoReturn

import jsonschema
import mcp_types
import pytest
from pydantic import AfterValidator, BaseModel, Field
from typing_extensions import TypedDict

from taskengine import BadAnswer, Context, DeclarationError, Form, Roots, Sample, SyncContext, TaskEngine, Tool, Url
from taskengine.declaration import make_tool


class City(BaseModel):
    """A place."""

    name: str = Field(min_length=1)
    people: int = 0


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


class Window(TypedDict):
    start: date
    end: date


class Name(BaseModel):
    name: str


def gives_city() -> City:
    """Give a city."""
    return City(name="Oslo")


@pytest.fixture
def engine() -> TaskEngine:
    return TaskEngine("test")


def declared(function: Callable[..., Any], **options: Any) -> Tool:
    function.__doc__ = function.__doc__ or "A tool."
    return make_tool(function, **options)


def test_a_tool_takes_name_and_description_from_its_function(engine):
    @engine.tool
    async def build_report(dataset: str) -> str:
        """Build the report.

        It takes a while.
        """
        return dataset

    tool = engine.get_tool("build_report")
    assert tool is not None
    assert (tool.name, tool.title, tool.task, tool.queue) == ("build_report", None, "optional", "default")
    assert tool.description == "Build the report.\n\nIt takes a while."
    assert tool.is_async
    assert tool.durable
    assert engine.get_tool("other") is None


def test_the_decorated_function_stays_a_plain_function(engine):
    @engine.tool(task="forbidden")
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    assert add(1, 2) == 3


def test_every_option_is_kept(engine):
    @engine.tool(
        name="report.build",
        title="Build",
        description="Builds.",
        task="required",
        ttl="7d",
        poll_interval="5s",
        timeout=timedelta(hours=6),
        quick_wait="0",
        queue="heavy",
        annotations={"readOnlyHint": True, "title": "B"},
        icons=[{"src": "https://example.org/i.png", "mimeType": "image/png"}],
        meta={"example.org/team": "data"},
    )
    def build() -> None: ...

    tool = engine.tools["report.build"]
    assert (tool.title, tool.description, tool.task, tool.queue) == ("Build", "Builds.", "required", "heavy")
    assert (tool.ttl, tool.poll_interval) == (timedelta(days=7), timedelta(seconds=5))
    assert (tool.timeout, tool.quick_wait) == (timedelta(hours=6), timedelta(0))
    assert tool.annotations == {"readOnlyHint": True, "title": "B"}
    assert tool.icons == [{"src": "https://example.org/i.png", "mimeType": "image/png"}]
    assert tool.meta == {"example.org/team": "data"}


def test_protocol_models_serve_as_annotations_and_icons():
    tool = declared(
        lambda: None,
        name="t",
        annotations=mcp_types.ToolAnnotations(read_only_hint=True),
        icons=[mcp_types.Icon(src="https://example.org/i.png"), "https://example.org/j.png"],
        description="d",
    )
    assert tool.annotations == {"readOnlyHint": True}
    assert tool.icons == [{"src": "https://example.org/i.png"}, {"src": "https://example.org/j.png"}]


def test_parameters_become_the_input_schema():
    def tool(
        *,
        dataset: Annotated[str, Field(description="Which one.", min_length=1)],
        city: City,
        points: list[Point],
        window: Window,
        colour: Colour = Colour.RED,
        mode: Literal["fast", "slow"] = "fast",
        limit: int = Field(10, ge=1, le=100, description="At most."),
        note: str | None = None,
        extra: dict[str, int | str] | None = None,
    ) -> None: ...

    schema = declared(tool).input_schema
    jsonschema.Draft202012Validator.check_schema(schema)
    properties = schema["properties"]
    assert list(properties) == ["dataset", "city", "points", "window", "colour", "mode", "limit", "note", "extra"]
    assert properties["dataset"] == {"type": "string", "minLength": 1, "description": "Which one."}
    assert properties["limit"] == {
        "type": "integer", "default": 10, "minimum": 1, "maximum": 100, "description": "At most.",
    }  # fmt: skip
    assert properties["mode"] == {"type": "string", "enum": ["fast", "slow"], "default": "fast"}
    assert properties["colour"]["default"] == "red"
    assert properties["note"] == {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    assert schema["required"] == ["dataset", "city", "points", "window"]
    assert schema["additionalProperties"] is False
    assert set(schema["$defs"]) == {"City", "Point", "Window", "Colour"}
    assert "title" not in schema


def test_a_tool_without_parameters_has_the_empty_closed_object():
    async def tool(ctx: Context) -> None: ...

    assert declared(tool).input_schema == {"type": "object", "additionalProperties": False}


def test_the_context_is_not_in_the_schema():
    def plain(a: int, ctx: SyncContext) -> None: ...
    def other(a: int, ctx: Context) -> None: ...
    async def maybe(a: int, ctx: Context | None = None) -> None: ...
    async def annotated(a: int, *, where: Annotated[Context, "injected"]) -> None: ...

    for function in (plain, other, maybe, annotated):
        tool = declared(function)
        assert list(tool.input_schema["properties"]) == ["a"]
        assert tool.takes_context


def test_parameters_may_have_names_that_models_could_not():
    def tool(schema: str, copy: int, model_config: bool, json: str = "x", _hidden: int = 1) -> None: ...

    made = declared(tool)
    assert list(made.input_schema["properties"]) == ["schema", "copy", "model_config", "json", "_hidden"]
    bound = made.bind({"schema": "s", "copy": 1, "model_config": True}, None)
    assert bound == {"schema": "s", "copy": 1, "model_config": True, "json": "x", "_hidden": 1}


def test_an_alias_gives_an_argument_another_name():
    def tool(kind: Annotated[str, Field(alias="type")], from_: str = Field("x", alias="from")) -> None: ...

    made = declared(tool)
    assert list(made.input_schema["properties"]) == ["type", "from"]
    assert made.bind({"type": "a", "from": "b"}, None) == {"kind": "a", "from_": "b"}


def test_a_default_without_a_json_form_is_no_fault():
    marker = object()

    def tool(a: Any = marker) -> None: ...

    made = declared(tool)
    assert made.input_schema["properties"]["a"] == {}
    assert made.bind({}, None)["a"] is marker


def test_models_declared_inside_a_function_are_found(engine):
    class Local(BaseModel):
        n: int

    @engine.tool
    async def tool(local: Local) -> Local:
        """Give it back."""
        return local

    assert engine.tools["tool"].output_schema["properties"] == {"n": {"type": "integer"}}
    assert engine.add_tool(lambda: None, name="other", description="d").name == "other"


def test_a_module_may_import_the_context_for_type_checking_only():
    module: dict[str, Any] = {}
    exec("from __future__ import annotations\nasync def tool(ctx: Context) -> None:\n    'A tool.'", module)
    assert make_tool(module["tool"]).takes_context


def test_another_class_named_context_is_not_ours():
    source = "class Context(str): ...\nasync def tool(a: Context) -> None:\n    'A tool.'"
    module: dict[str, Any] = {"__name__": "elsewhere"}
    exec(f"from __future__ import annotations\n{source}", module)
    with pytest.raises(DeclarationError, match="type of a"):
        make_tool(module["tool"])


def test_a_function_from_elsewhere_is_read_with_its_own_names(engine):
    class City(BaseModel):
        other: int

    assert City
    tool = engine.add_tool(gives_city)
    assert "people" in tool.output_schema["properties"]


def test_methods_partials_and_callable_objects_are_tools(engine):
    class Service:
        async def method(self, a: int) -> str:
            """A method."""
            return str(a)

        async def __call__(self, a: int) -> str:
            """A callable."""
            return str(a)

    def function(a: int, b: int) -> str:
        """A function."""
        return str(a + b)

    assert engine.add_tool(Service().method).is_async
    assert engine.add_tool(Service(), name="callable", description="d").is_async
    partial = engine.add_tool(functools.partial(function, b=2), name="partial")
    assert partial.description == "A function."
    assert not partial.is_async
    assert "a" in partial.input_schema["properties"]


def test_wrapped_functions_keep_their_signature(engine):
    def traced(function):
        @functools.wraps(function)
        async def wrapper(*args, **kwargs):
            return await function(*args, **kwargs)

        return wrapper

    @engine.tool
    @traced
    async def tool(a: int) -> str:
        """A tool."""
        return str(a)

    assert list(engine.tools["tool"].input_schema["properties"]) == ["a"]
    assert engine.tools["tool"].is_async


def test_a_hand_written_schema_is_listed_verbatim():
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"a": {"$anchor": "here", "type": "string"}},
        "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"$ref": "#here"}},
        "if": {"properties": {"a": {"const": "x"}}},
        "then": {"required": ["b"]},
        "additionalProperties": False,
    }

    def rest(**arguments: Any) -> None: ...
    def named(a: str = "", b=None) -> None: ...

    for function in (rest, named):
        tool = declared(function, input_schema=schema)
        assert tool.input_schema == schema
        assert list(tool.input_schema) == list(schema)
    assert declared(rest, input_schema=schema).bind({"a": "1", "b": "2"}, None) == {"a": "1", "b": "2"}


def test_a_hand_written_schema_may_be_of_an_older_dialect():
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "definitions": {"n": {"type": "integer"}},
        "properties": {"a": {"$ref": "#/definitions/n"}},
    }

    def tool(a: int) -> None: ...

    assert declared(tool, input_schema=schema).input_schema["$schema"].endswith("draft-07/schema#")


@pytest.mark.parametrize(
    ("returns", "schema"),
    [
        (City, {"type": "object"}),
        (Point, {"type": "object"}),
        (Window, {"type": "object"}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (City | None, {}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Annotated[int, Field(ge=1)], {"type": "integer", "minimum": 1}),
    ],
)
def test_a_return_type_with_structure_gives_the_output_schema(returns, schema):
    def tool(): ...

    tool.__annotations__["return"] = returns
    found = declared(tool).output_schema
    assert found is not None
    assert schema.items() <= found.items()


@pytest.mark.parametrize(
    "returns",
    [
        None,
        str,
        Any,
        object,
        list,
        str | None,
        mcp_types.TextContent,
        list[mcp_types.TextContent | mcp_types.ImageContent],
        list[str | mcp_types.ImageContent],
        mcp_types.TextContent | str,
        mcp_types.CallToolResult,
        City | mcp_types.CallToolResult,
        list[Any],
        NoReturn,
        Annotated[str, "note"],
    ],
)
def test_text_blocks_and_whole_results_have_no_output_schema(returns):
    def tool(): ...

    tool.__annotations__["return"] = returns
    assert declared(tool).output_schema is None


def test_structured_content_can_be_forced_and_forbidden():
    def text() -> str: ...
    def model() -> City: ...

    assert declared(text, structured=True).output_schema == {"type": "string"}
    assert declared(model, structured=False).output_schema is None
    assert declared(text, output_schema={"type": "array"}).output_schema == {"type": "array"}


def test_sync_tools_ride_on_a_queue_of_their_own(engine):
    @engine.tool(queue="heavy")
    def one() -> None:
        """1"""

    @engine.tool(queue="heavy")
    async def two() -> None:
        """2"""

    @engine.tool(task="forbidden")
    def three() -> None:
        """3"""

    assert [tool.route for tool in engine.tools.values()] == ["heavy.sync", "heavy", "default.sync"]
    assert engine.routes == ["heavy", "heavy.sync"]


def test_tools_keep_the_order_of_declaration(engine):
    for name in ("zebra", "ant", "Middle"):
        engine.add_tool(lambda: None, name=name, description="d")
    assert list(engine.tools) == ["zebra", "ant", "Middle"]


def test_changes_of_the_list_are_announced(engine):
    calls = []
    engine.on_tools_changed.append(lambda: calls.append(list(engine.tools)))
    engine.add_tool(lambda: None, name="a", description="d")
    before = engine.tools
    engine.remove_tool("a")
    assert calls == [["a"], []]
    assert list(before) == ["a"], "a listing in progress is not disturbed"


def test_an_engine_takes_its_tools_at_once():
    def one() -> None:
        """1"""

    class Local(BaseModel):
        n: int

    def two(a: Local) -> None:
        """2"""

    ready = make_tool(one, name="ready")
    engine = TaskEngine("e", version="1.2", instructions="Do.", tools=[one, two, ready])
    assert list(engine.tools) == ["one", "two", "ready"]
    assert (engine.version, engine.instructions) == ("1.2", "Do.")
    assert "3 tools" in repr(engine)


def test_questions_can_be_asked_before_the_task_is_made():
    tool = declared(lambda: None, name="t", description="d", ask_first={"user_name": Form("Name?", Name)})
    (question,) = tool.first_questions
    assert (question.key, question.method) == ("user_name", "elicitation/create")
    assert question.params == {
        "mode": "form",
        "message": "Name?",
        "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    }
    every = {"a": Url("Look", "https://example.org"), "b": Sample("Hi", 5), "c": Roots()}
    assert len(declared(lambda: None, name="t", description="d", ask_first=every).first_questions) == 3


def test_first_answers_are_checked_by_schema_and_by_model():
    def known(name: str) -> str:
        if name != "Ann":
            raise ValueError("unknown name")
        return name

    class Known(BaseModel):
        name: Annotated[str, AfterValidator(known)]

    tool = declared(lambda: None, name="t", description="d", ask_first={"who": Form("Who?", Known)})
    tool.check_first("who", {"action": "accept", "content": {"name": "Ann"}})
    tool.check_first("who", {"action": "decline"})
    for response, reason in (
        ({"action": "accept", "content": {"name": "Bo"}}, "unknown name"),
        ({"action": "accept", "content": {}}, "`name` is missing"),
        (12345, "object"),
    ):
        with pytest.raises(BadAnswer, match=reason):
            tool.check_first("who", response)


def refused(function: Any, **options: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        make_tool(function, **options)
    return str(caught.value)


def good() -> None:
    """A tool."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "with space"}, ["with space", "name="]),
        ({"name": ""}, ["name="]),
        ({"name": "a" * 65}, ["64"]),
        ({"name": "a/b"}, ["a/b"]),
        ({"description": "  "}, ["good", "docstring"]),
        ({"task": "never"}, ["task", "'never'", '"forbidden"', '"optional"', '"required"']),
        ({"ttl": "7 fortnights"}, ["good: ttl", "7 fortnights", '"90s"']),
        ({"ttl": 60}, ["ttl", "60"]),
        ({"ttl": "0"}, ["ttl", "zero"]),
        ({"timeout": timedelta(0)}, ["timeout", "zero"]),
        ({"timeout": timedelta(seconds=-1)}, ["timeout", "negative"]),
        ({"poll_interval": "0s"}, ["poll_interval", "zero"]),
        ({"quick_wait": "soon"}, ["quick_wait", "soon"]),
        ({"task": "forbidden", "ttl": "1d"}, ["ttl", "forbidden"]),
        ({"task": "forbidden", "ask_first": {"a": Roots()}}, ["ask_first", "forbidden"]),
        ({"queue": ""}, ["queue"]),
        ({"queue": "a b"}, ["queue"]),
        ({"queue": "x.sync"}, ["queue", ".sync"]),
        ({"title": 3}, ["title", "3"]),
        ({"annotations": {"read_only_hint": True}}, ["read_only_hint", "readOnlyHint"]),
        ({"annotations": {"readOnlyHint": "yes"}}, ["readOnlyHint", "bool"]),
        ({"annotations": ["readOnlyHint"]}, ["annotations", "dict"]),
        ({"icons": [{"url": "x"}]}, ["icon", "src"]),
        ({"meta": {"a": object()}}, ["meta", "JSON"]),
        ({"ask_first": {"a": "What?"}}, ["ask_first['a']", "Form"]),
        ({"ask_first": [Roots()]}, ["ask_first", "dict"]),
        ({"ask_first": {"": Roots()}}, ["good", "key"]),
        ({"input_schema": {"type": "array"}}, ["input schema", '"type": "object"']),
        ({"input_schema": {"properties": {}}}, ["input schema", '"type": "object"']),
        ({"input_schema": {"type": "object", "properties": {"a": {"type": "text"}}}}, ["input schema", "not a valid"]),
        ({"input_schema": {"type": "object", "required": "a"}}, ["input schema", "required"]),
        ({"input_schema": {"type": "object", "$schema": "https://example.org/mine"}}, ["input schema", "example.org"]),
        ({"input_schema": {"type": "object", "properties": {"a": {}}}}, ["a", "does not take", "**kwargs"]),
        ({"input_schema": "object"}, ["input_schema", "dict"]),
        ({"output_schema": {"type": "thing"}}, ["output schema", "not a valid"]),
        ({"output_schema": {}, "structured": False}, ["structured=False"]),
    ],
)
def test_a_bad_option_is_refused_with_a_sentence(options, words):
    message = refused(good, **options)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("reference", ["https://example.org/schema", "other.json", "https://example.org/s#/$defs/a"])
def test_a_schema_that_refers_elsewhere_is_refused(reference):
    schema = {"type": "object", "properties": {}, "allOf": [{"$ref": reference}]}
    message = refused(good, input_schema=schema)
    assert reference in message
    assert "$defs" in message


def test_a_reference_within_the_schema_may_use_its_id():
    schema = {
        "$id": "https://example.org/s",
        "type": "object",
        "$defs": {"a": {}},
        "$ref": "https://example.org/s#/$defs/a",
    }
    assert make_tool(good, input_schema=schema).input_schema == schema


def test_a_dangling_reference_is_refused():
    message = refused(good, input_schema={"type": "object", "allOf": [{"$ref": "#/$defs/none"}]})
    assert "not a valid JSON Schema" in message


def test_a_schema_without_bounds_is_refused():
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"not": deep}
    assert "too large" in refused(good, input_schema={"type": "object", "not": deep})
    wide = {"type": "object", "properties": {}, "anyOf": [{}] * 20_000}
    assert "too large" in refused(good, input_schema=wide)


class Strange:
    pass


def test_a_bad_signature_is_refused_with_a_sentence():
    def star(*values: int) -> None: ...
    def kwargs(**values: int) -> None: ...
    def positional(a: int, /) -> None: ...
    def untyped(a, b: int) -> None: ...
    def strange(a: int, b: Strange) -> None: ...
    def callback(a: Callable[[], int]) -> None: ...
    def unnamed_context(ctx) -> None: ...
    def two(a: SyncContext, b: Context) -> None: ...
    async def wrong(ctx: SyncContext) -> None: ...
    def unknown(a: Missing) -> None: ...  # noqa: F821
    def generator() -> Iterator[int]:
        yield 1

    def returns_strange() -> Strange: ...

    cases = {
        star: ["star", "*values"],
        kwargs: ["kwargs", "**values", "input_schema"],
        positional: ["a is positional-only", "/"],
        untyped: ["untyped", "a has no type"],
        strange: ["strange", "type of b", "JSON"],
        callback: ["type of a"],
        unnamed_context: ["ctx", "Context"],
        two: ["two context parameters", "a and b"],
        wrong: ["wrong is async", "not SyncContext"],
        unknown: ["'Missing'", "import"],
        generator: ["generator", "ctx.progress"],
        returns_strange: ["returns", "JSON", "structured=False"],
    }
    for function, words in cases.items():
        message = refused(function, description="d")
        assert all(word in message for word in words), message


def test_a_needed_parameter_that_the_hand_written_schema_lacks_is_refused():
    def tool(a: int, b: int = 0) -> None: ...

    message = refused(tool, description="d", input_schema={"type": "object", "properties": {}})
    assert "needs a" in message


def test_what_is_not_a_function_is_refused(engine):
    assert "not a function" in refused(City)
    assert "not a function" in refused(3)
    assert "name=" in refused(lambda: None, description="d")
    assert "docstring" in refused(lambda: None, name="x")
    with pytest.raises(DeclarationError, match="name='reports'"):
        engine.tool("reports")
    with pytest.raises(DeclarationError, match="needs a name"):
        TaskEngine(" ")


def test_a_second_tool_of_one_name_is_refused(engine):
    engine.tool(good)
    with pytest.raises(DeclarationError, match="two tools named 'good'"):
        engine.tool(good)
    with pytest.raises(DeclarationError, match="no tool 'bad'"):
        engine.remove_tool("bad")


def test_structured_output_without_a_type_is_refused():
    def tool(): ...

    assert "return type" in refused(tool, description="d", structured=True)


def header(schema: dict[str, Any], **root: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schema, **root}


def test_header_parameters_are_found_through_properties():
    def tool(
        region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
        dry: Annotated[bool, Field(json_schema_extra={"x-mcp-header": "Dry-Run"})] = False,
    ) -> None: ...

    found = [(p.name, p.path, p.type) for p in declared(tool).header_parameters]
    assert found == [("Region", ("region",), "string"), ("Dry-Run", ("dry",), "boolean")]
    nested = header({"a": header({"b": {"type": "integer", "x-mcp-header": "B"}}), "x-mcp-header": {"type": "string"}})
    (parameter,) = declared(lambda **kwargs: None, name="t", description="d", input_schema=nested).header_parameters
    assert (parameter.name, parameter.path, parameter.type) == ("B", ("a", "b"), "integer")
    assert parameter.value({"a": {"b": 7}}) == 7
    assert parameter.value({"a": None}) is None
    assert parameter.value({}) is None


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        (header({"a": {"type": "string", "x-mcp-header": ""}}), "header name"),
        (header({"a": {"type": "string", "x-mcp-header": "My Region"}}), "header name"),
        (header({"a": {"type": "string", "x-mcp-header": "Région"}}), "header name"),
        (header({"a": {"type": "string", "x-mcp-header": 3}}), "header name"),
        (header({"a": {"type": "number", "x-mcp-header": "A"}}), "a number"),
        (header({"a": {"type": ["string", "null"], "x-mcp-header": "A"}}), "a string or null"),
        (header({"a": {"x-mcp-header": "A"}}), "without one type"),
        (header({"a": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}}), "not reachable"),
        (header({}, allOf=[header({"a": {"type": "string", "x-mcp-header": "A"}})]), "not reachable"),
        (header({}, **{"$defs": {"a": {"type": "string", "x-mcp-header": "A"}}}), "not reachable"),
        (header({}, **{"x-mcp-header": "A"}), "the root"),
        (
            header({"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}),
            "repeats",
        ),
        (header({"a": {"type": "integer", "maximum": 2**60, "x-mcp-header": "A"}}), "header can carry"),
    ],
)
def test_a_header_that_clients_would_refuse_is_refused(schema, word):
    assert word in refused(lambda **kwargs: None, name="t", description="d", input_schema=schema)


def test_an_optional_header_parameter_needs_a_plain_default():
    def tool(region: Annotated[str | None, Field(json_schema_extra={"x-mcp-header": "Region"})] = None) -> None: ...

    assert "default that is not None" in refused(tool, description="d")


@pytest.mark.parametrize(
    "options",
    [{"title": "\ud800"}, {"description": "\ud800"}, {"meta": {"a": "\udfff"}}, {"annotations": {"title": "\ud800"}},
     {"icons": ["\ud800"]}],
)  # fmt: skip
def test_what_cannot_be_listed_is_refused_since_it_would_hide_all_tools(options):
    def fine() -> str:
        """Do it."""
        return ""

    with pytest.raises(DeclarationError, match=f"fine: {next(iter(options))} cannot be listed"):
        make_tool(fine, **options)


@pytest.mark.parametrize("option", ["version", "title", "instructions", "website_url"])
@pytest.mark.parametrize("value", [5, "a\ud800"])
def test_what_an_engine_says_of_itself_is_text(option, value):
    with pytest.raises(DeclarationError, match=f"reports: {option} is"):
        TaskEngine("reports", **{option: value})
