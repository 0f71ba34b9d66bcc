"""Questions: their records, the capabilities they need, and what is an answer."""

from __future__ import annotations

from typing import Any, Literal

import mcp_types
import pytest
from pydantic import BaseModel, Field, field_validator

from taskengine import Answer, DeclarationError, Form, Root, Roots, Sample, SampleAnswer, Url
from taskengine.errors import BadAnswer
from taskengine.questions import check_answer, missing_capabilities, required_capability


class Person(BaseModel):
    name: str = Field(min_length=1)
    age: float = 0
    kind: Literal["a", "b"] = "a"


FORM = Form("Who?", Person).question("who")
URL = Url("Sign in", "https://example.org/in").question("go")
SAMPLE = Sample("Hi", max_tokens=5).question("say")
TOOLED = Sample("Hi", max_tokens=5, tools=[{"name": "t", "inputSchema": {"type": "object"}}]).question("use")
ROOTS = Roots().question("where")


def test_a_form_question_has_message_and_schema():
    assert (FORM.key, FORM.method) == ("who", "elicitation/create")
    assert FORM.params["mode"] == "form"
    assert FORM.params["message"] == "Who?"
    assert FORM.params["requestedSchema"]["required"] == ["name"]


def test_a_url_question_has_no_elicitation_id():
    assert URL.params == {"mode": "url", "message": "Sign in", "url": "https://example.org/in"}


def test_a_text_is_a_user_message_to_sample_from():
    assert SAMPLE.method == "sampling/createMessage"
    assert SAMPLE.params == {
        "messages": [{"role": "user", "content": {"type": "text", "text": "Hi"}}],
        "maxTokens": 5,
    }


def test_roots_have_empty_params():
    assert (ROOTS.method, ROOTS.params) == ("roots/list", {})


def test_every_option_of_sampling_travels_under_its_wire_name():
    sample = Sample(
        [
            "Hello",
            mcp_types.SamplingMessage(role="assistant", content=mcp_types.TextContent(text="Yes?")),
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            mcp_types.ImageContent(data="aGk=", mime_type="image/png"),
            {"role": "user", "content": "short"},
        ],
        max_tokens=7,
        system="Be brief.",
        tools=[mcp_types.Tool(name="t", input_schema={"type": "object"})],
        tool_choice="required",
        model_preferences={"hints": [{"name": "m"}], "costPriority": 0.5},
        temperature=0.2,
        stop_sequences=["END"],
        metadata={"a": None},
    )
    assert sample.question("k").params == {
        "messages": [
            {"role": "user", "content": {"type": "text", "text": "Hello"}},
            {"role": "assistant", "content": {"type": "text", "text": "Yes?"}},
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "user", "content": {"type": "image", "data": "aGk=", "mimeType": "image/png"}},
            {"role": "user", "content": {"type": "text", "text": "short"}},
        ],
        "maxTokens": 7,
        "systemPrompt": "Be brief.",
        "tools": [{"name": "t", "inputSchema": {"type": "object"}}],
        "toolChoice": {"mode": "required"},
        "modelPreferences": {"hints": [{"name": "m"}], "costPriority": 0.5},
        "temperature": 0.2,
        "stopSequences": ["END"],
        "metadata": {"a": None},
    }


USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "t", "input": {}}]}
RESULT = {"type": "tool_result", "toolUseId": "1", "content": []}


def test_a_tool_use_followed_by_its_result_is_balanced():
    Sample(["Hi", USE, {"role": "user", "content": [RESULT]}], max_tokens=5)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["Hi", USE],
        ["Hi", USE, "and?"],
        ["Hi", {"role": "user", "content": [RESULT]}],
        ["Hi", USE, {"role": "user", "content": [RESULT, {"type": "text", "text": "x"}]}],
        ["Hi", USE, {"role": "assistant", "content": [RESULT]}],
        [{"role": "system", "content": "x"}],
        [{"text": "x"}],
        [3],
        [{"role": "user", "content": object()}],
    ],
)
def test_messages_no_client_would_take_are_refused(messages):
    with pytest.raises(DeclarationError):
        Sample(messages, max_tokens=5)


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True, "5"])
def test_max_tokens_is_a_positive_integer(tokens):
    with pytest.raises(DeclarationError, match="max_tokens"):
        Sample("Hi", max_tokens=tokens)


@pytest.mark.parametrize(
    "url", ["example.org", "ftp://example.org", "https://", "javascript:alert(1)", "/path", "http://[::1", 5]
)
def test_a_url_is_a_web_address(url):
    with pytest.raises(DeclarationError, match="web address"):
        Url("Go", url)


def test_a_url_carries_no_password():
    with pytest.raises(DeclarationError, match="password"):
        Url("Go", "https://me:secret@example.org/")


@pytest.mark.parametrize("ask", [lambda: Form(" ", Person), lambda: Url("", "https://a.b"), lambda: Form(3, Person)])
def test_a_question_says_what_is_asked(ask):
    with pytest.raises(DeclarationError, match="message"):
        ask()


@pytest.mark.parametrize("key", ["", "k" * 129, 5, "a\0b", "a\ud800"])
def test_a_key_is_a_short_text(key):
    with pytest.raises(DeclarationError, match="key"):
        Roots().question(key)


def test_a_message_loses_the_nul_that_no_store_takes():
    for ask in (Form("Delete a\0b?", Person), Url("Delete a\0b?", "https://a.b")):
        assert ask.question("k").params["message"] == "Delete a\ufffdb?"


def test_each_question_needs_its_capability():
    assert required_capability(FORM) == {"elicitation": {}}
    assert required_capability(URL) == {"elicitation": {"url": {}}}
    assert required_capability(SAMPLE) == {"sampling": {}}
    assert required_capability(TOOLED) == {"sampling": {"tools": {}}}
    assert required_capability(ROOTS) == {"roots": {}}


@pytest.mark.parametrize(
    ("questions", "declared", "missing"),
    [
        ([FORM], {}, {"elicitation": {}}),
        ([FORM], {"elicitation": {}}, {}),
        ([FORM], {"elicitation": {"form": {}}}, {}),
        ([FORM], {"elicitation": {"form": {"x": 1}, "url": {}}}, {}),
        ([FORM], {"elicitation": {"other": True}}, {}),
        ([FORM], {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        ([FORM], {"elicitation": True}, {"elicitation": {}}),
        ([FORM], {"elicitation": None}, {"elicitation": {}}),
        ([URL], {}, {"elicitation": {"url": {}}}),
        ([URL], {"elicitation": {}}, {"elicitation": {"url": {}}}),
        ([URL], {"elicitation": {"url": {}}}, {}),
        ([URL], {"elicitation": {"url": True}}, {"elicitation": {"url": {}}}),
        ([FORM, URL], {}, {"elicitation": {"form": {}, "url": {}}}),
        ([SAMPLE], {}, {"sampling": {}}),
        ([SAMPLE], {"sampling": {"any": 1}}, {}),
        ([TOOLED], {"sampling": {}}, {"sampling": {"tools": {}}}),
        ([SAMPLE, TOOLED], {}, {"sampling": {"tools": {}}}),
        ([TOOLED, SAMPLE], {"sampling": {"tools": {}}}, {}),
        ([ROOTS], {"roots": {"listChanged": True}}, {}),
        ([FORM, SAMPLE, ROOTS], {"sampling": {}}, {"elicitation": {}, "roots": {}}),
        ([], {}, {}),
    ],
)
def test_all_that_is_missing_is_named_at_once(questions, declared, missing):
    assert missing_capabilities(questions, declared) == missing


TEXT = {"type": "text", "text": "Hello"}


@pytest.mark.parametrize(
    ("question", "response"),
    [
        (FORM, {"action": "accept", "content": {"name": "A"}}),
        (FORM, {"action": "accept", "content": {"name": "A", "age": 2.5, "kind": "b"}}),
        (FORM, {"action": "accept", "content": {"name": "A", "confirm": True, "other": ["x"]}}),
        (FORM, {"action": "decline"}),
        (FORM, {"action": "cancel", "content": None}),
        (URL, {"action": "accept"}),
        (URL, {"action": "accept", "content": {"ignored": 1}}),
        (SAMPLE, {"role": "assistant", "content": TEXT, "model": "m"}),
        (SAMPLE, {"role": "assistant", "content": [TEXT, TEXT], "model": "m", "stopReason": "mine", "_meta": {}}),
        (SAMPLE, {"role": "assistant", "content": [], "model": "m"}),
        (TOOLED, {"role": "assistant", "content": USE["content"], "model": "m", "stopReason": "toolUse"}),
        (ROOTS, {"roots": []}),
        (ROOTS, {"roots": [{"uri": "file:///a"}, {"uri": "file:///b", "name": "b"}]}),
    ],
)
def test_a_good_answer_passes(question, response):
    check_answer(question, response)


@pytest.mark.parametrize(
    ("question", "response", "word"),
    [
        (FORM, 12345, "object"),
        (FORM, None, "object"),
        (FORM, {}, "action"),
        (FORM, {"action": "yes"}, "action"),
        (FORM, {"action": ["accept"]}, "action"),
        (FORM, {"action": "accept"}, "`name` is missing"),
        (FORM, {"action": "accept", "content": []}, "content"),
        (FORM, {"action": "accept", "content": {"name": ""}}, "`name`"),
        (FORM, {"action": "accept", "content": {"name": 3, "kind": "c"}}, "`kind` must be one of"),
        (SAMPLE, {"action": "accept"}, "role"),
        (SAMPLE, {"role": "system", "content": TEXT, "model": "m"}, "role"),
        (SAMPLE, {"role": "assistant", "content": TEXT}, "model"),
        (SAMPLE, {"role": "assistant", "content": "text", "model": "m"}, "content"),
        (SAMPLE, {"role": "assistant", "content": {"type": "text"}, "model": "m"}, "text block must have text"),
        (SAMPLE, {"role": "assistant", "content": {"type": "film"}, "model": "m"}, "blocks"),
        (SAMPLE, {"role": "assistant", "model": "m"}, "content"),
        (SAMPLE, {"role": "assistant", "content": TEXT, "model": "m", "stopReason": 1}, "stopReason"),
        (ROOTS, {}, "roots"),
        (ROOTS, {"roots": ["file:///a"]}, "uri"),
        (ROOTS, {"roots": [{"uri": "somewhere"}]}, "uri"),
        (ROOTS, {"roots": [{"uri": "http://[::1"}]}, "uri"),
        (ROOTS, {"roots": [{"uri": "file:///a", "name": 3}]}, "name"),
    ],
)
def test_a_bad_answer_is_refused_with_its_reason(question, response, word):
    with pytest.raises(BadAnswer) as caught:
        check_answer(question, response)
    assert caught.value.key == question.key
    assert word in caught.value.reason


def test_formats_of_a_form_are_checked():
    schema = {
        "type": "object",
        "properties": {"day": {"type": "string", "format": "date"}, "mail": {"type": "string", "format": "email"}},
    }
    question = Form("When?", schema).question("k")
    check_answer(question, {"action": "accept", "content": {"day": "2026-11-22", "mail": "a@example.org"}})
    for content in ({"day": "soon"}, {"mail": "nobody"}):
        with pytest.raises(BadAnswer):
            check_answer(question, {"action": "accept", "content": content})


def test_answers_become_objects_of_their_own():
    assert Form("Who?", Person).parse({"action": "accept", "content": {"name": "A", "other": 1}}) == Answer(
        "accept", Person(name="A")
    )
    assert Form("Who?", {"type": "object", "properties": {"n": {"type": "string"}}}).parse(
        {"action": "accept", "content": {"n": "x", "other": 1}}
    ) == Answer("accept", {"n": "x"})
    assert Form("Who?", Person).parse({"action": "decline", "content": {"name": "A"}}) == Answer("decline", None)
    assert Url("Go", "https://a.b").parse({"action": "accept"}).accepted
    assert not Url("Go", "https://a.b").parse({"action": "cancel"}).accepted
    assert Roots().parse({"roots": [{"uri": "file:///a", "name": "a"}]}) == [Root("file:///a", "a")]


def test_a_sampled_message_gives_its_text_and_tool_uses():
    answer = Sample("Hi", 5).parse(
        {"role": "assistant", "content": [TEXT, USE["content"][0], TEXT], "model": "m", "stopReason": "toolUse"}
    )
    assert isinstance(answer, SampleAnswer)
    assert (answer.text, answer.model, answer.stop_reason) == ("HelloHello", "m", "toolUse")
    assert answer.tool_uses == USE["content"]
    assert Sample("Hi", 5).parse({"role": "assistant", "content": TEXT, "model": "m"}).content == [TEXT]


def test_a_model_may_refuse_what_its_form_allowed():
    class Even(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def _even(cls, value: int) -> int:
            if value % 2:
                raise ValueError("give an even number")
            return value

    with pytest.raises(ValueError, match="n: give an even number"):
        Form("Even?", Even).parse({"action": "accept", "content": {"n": 3}})


def test_answers_compare_and_show_their_data():
    answer: Answer[Any] = Answer("accept", 1)
    assert repr(answer) == "Answer(action='accept', data=1)"
