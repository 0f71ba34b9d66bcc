"""The context: what a tool asks reaches the port in one form, in both colours."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from taskengine import (
    BadAnswer,
    Context,
    DeclarationError,
    Form,
    MissingCapability,
    Roots,
    Sample,
    SyncContext,
    Url,
)
from taskengine.clientlog import LEVELS
from taskengine.errors import Suspended
from taskengine.records import Question
from taskengine.testing import EVERYTHING


class Name(BaseModel):
    name: str


class SyncFake:
    """A port that notes what it gets and answers from a dict; without an answer it suspends."""

    durable = None

    def __init__(self, answers: Mapping[str, Any] | None = None, capabilities: Mapping[str, Any] = EVERYTHING) -> None:
        self.answers, self.capabilities = answers or {}, capabilities
        self.task_id, self.attempt, self.cancelled = "tsk_1", 2, False
        self.first: dict[str, Any] = {}
        self.caller = None
        self.asked: list[list[Question]] = []
        self.calls: list[tuple[Any, ...]] = []

    def progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.calls.append((progress, total, message))

    def log(self, level: str, data: Any, logger: str | None) -> None:
        self.calls.append((level, data, logger))

    def ask(self, questions: Sequence[Question]) -> Mapping[str, Mapping[str, Any]]:
        self.asked.append(list(questions))
        if any(question.key not in self.answers for question in questions):
            raise Suspended
        return {question.key: self.answers[question.key] for question in questions}

    def tools_changed(self) -> None:
        self.calls.append(("tools_changed",))


class Fake:
    """The same for `Context`."""

    def __init__(self, sync: SyncFake) -> None:
        self.sync = sync

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.sync, name)
        if not inspect.ismethod(found):
            return found

        async def call(*args: Any) -> Any:
            return found(*args)

        return call


class Both:
    """A context of either colour, called the same way."""

    def __init__(self, colour: str, fake: SyncFake, ask_first: Any = None) -> None:
        self.ctx: Any = Context(Fake(fake), ask_first) if colour == "async" else SyncContext(fake, ask_first)

    async def do(self, path: str, *args: Any, **kwargs: Any) -> Any:
        target = self.ctx
        for part in path.split("."):
            target = getattr(target, part)
        value = target(*args, **kwargs)
        return await value if inspect.isawaitable(value) else value


@pytest.fixture(params=["async", "sync"])
def colour(request):
    return request.param


NAMED = {"action": "accept", "content": {"name": "Ann"}}


async def test_facts_about_the_call_are_passed_on(colour):
    fake = SyncFake()
    ctx = Both(colour, fake).ctx
    assert (ctx.task_id, ctx.attempt, ctx.cancelled) == ("tsk_1", 2, False)
    fake.cancelled = True
    assert ctx.cancelled
    assert ctx.capabilities == EVERYTHING


async def test_progress_and_logs_reach_the_port(colour):
    fake = SyncFake()
    both = Both(colour, fake)
    await both.do("progress", 1)
    await both.do("progress", 2.5, 10, "half")
    await both.do("log.info", {"when": date(2026, 1, 2)}, logger="mine")
    await both.do("log", "alert", "text")
    await both.do("tools_changed")
    assert fake.calls == [
        (1, None, None),
        (2.5, 10, "half"),
        ("info", {"when": "2026-01-02"}, "mine"),
        ("alert", "text", None),
        ("tools_changed",),
    ]


async def test_there_is_a_method_for_each_level(colour):
    fake = SyncFake()
    both = Both(colour, fake)
    for level in LEVELS:
        await both.do(f"log.{level}", level)
    assert fake.calls == [(level, level, None) for level in LEVELS]
    with pytest.raises(ValueError, match="'loud' is not a log level"):
        await both.do("log", "loud", "x")


async def test_a_log_line_never_fails_a_call(colour):
    fake = SyncFake()
    both = Both(colour, fake)
    loop: list[Any] = []
    loop.append(loop)
    for data in (object(), loop, float("nan"), "\ud800", {1j: b"\xff"}):
        await both.do("log.info", data)
    assert len(fake.calls) == 5
    assert fake.calls[2][1] == "nan"


async def test_a_progress_message_is_text_that_any_store_holds(colour):
    fake = SyncFake()
    await Both(colour, fake).do("progress", 1, message="a\0b\ud800")
    assert fake.calls == [(1, None, "a\ufffdb?")]


async def test_a_question_that_is_not_json_is_refused_before_it_is_asked(colour):
    fake = SyncFake()
    with pytest.raises(DeclarationError, match="'elicit-1' cannot be sent"):
        await Both(colour, fake).do("elicit", "\ud800?", Name)
    assert fake.asked == []


@pytest.mark.parametrize("numbers", [(float("nan"),), (float("inf"),), (1, float("nan"))])
async def test_progress_is_a_finite_number(colour, numbers):
    with pytest.raises(ValueError, match="finite"):
        await Both(colour, SyncFake()).do("progress", *numbers)


async def test_an_answered_question_gives_a_typed_answer(colour):
    fake = SyncFake({"elicit-1": NAMED})
    answer = await Both(colour, fake).do("elicit", "Name?", Name)
    assert (answer.action, answer.accepted, answer.data) == ("accept", True, Name(name="Ann"))
    ((question,),) = fake.asked
    assert (question.key, question.params["message"]) == ("elicit-1", "Name?")


async def test_a_declined_question_has_no_data(colour):
    answer = await Both(colour, SyncFake({"elicit-1": {"action": "decline"}})).do("elicit", "Name?", Name)
    assert (answer.accepted, answer.data) == (False, None)


async def test_an_open_question_suspends_and_so_does_everything_after_it(colour):
    fake = SyncFake()
    both = Both(colour, fake)
    with pytest.raises(Suspended):
        await both.do("elicit", "Name?", Name)
    for path, args in (("progress", (1,)), ("log.info", ("x",)), ("list_roots", ()), ("tools_changed", ())):
        with pytest.raises(Suspended):
            await both.do(path, *args)
    assert fake.calls == []
    assert len(fake.asked) == 1


async def test_keys_count_up_in_the_order_of_the_calls(colour):
    text = {"role": "assistant", "content": {"type": "text", "text": "t"}, "model": "m"}
    fake = SyncFake(
        {
            "elicit-1": NAMED,
            "elicit-2": {"action": "accept"},
            "mine": NAMED,
            "sample-1": text,
            "roots-1": {"roots": []},
            "elicit-3": NAMED,
        }
    )
    both = Both(colour, fake)
    await both.do("elicit", "1?", Name)
    await both.do("elicit_url", "2?", "https://example.org")
    await both.do("elicit", "3?", Name, key="mine")
    assert (await both.do("sample", "Hi", max_tokens=3)).text == "t"
    assert await both.do("list_roots") == []
    await both.do("elicit", "4?", Name)
    assert [question.key for asked in fake.asked for question in asked] == [
        "elicit-1", "elicit-2", "mine", "sample-1", "roots-1", "elicit-3",
    ]  # fmt: skip


async def test_a_key_made_up_steps_over_one_that_was_given(colour):
    fake = SyncFake({"elicit-1": NAMED, "elicit-2": NAMED})
    both = Both(colour, fake)
    await both.do("elicit", "1?", Name, key="elicit-1")
    await both.do("elicit", "2?", Name)
    assert [asked[0].key for asked in fake.asked] == ["elicit-1", "elicit-2"]


async def test_a_key_is_used_once_in_a_run(colour):
    both = Both(colour, SyncFake({"a": NAMED}))
    await both.do("elicit", "1?", Name, key="a")
    with pytest.raises(DeclarationError, match="'a' was used"):
        await both.do("elicit", "2?", Name, key="a")
    with pytest.raises(DeclarationError, match="'b' was used"):
        await both.do("elicit_all", [Form("1", Name, key="b"), Form("2", Name, key="b")])


async def test_several_questions_are_asked_at_once(colour):
    answers = {
        "user_name": NAMED,
        "greeting": {"role": "assistant", "content": {"type": "text", "text": "Hello"}, "model": "m"},
        "client_roots": {"roots": [{"uri": "file:///a"}]},
        "page": {"action": "cancel"},
    }
    asks = {
        "user_name": Form("Name?", Name),
        "greeting": Sample("Greet", max_tokens=100),
        "client_roots": Roots(),
        "page": Url("Look", "https://example.org"),
    }
    fake = SyncFake(answers)
    got = await Both(colour, fake).do("elicit_all", asks)
    assert [len(asked) for asked in fake.asked] == [4]
    assert (got["user_name"].data.name, got["greeting"].text, got["client_roots"][0].uri) == (
        "Ann",
        "Hello",
        "file:///a",
    )
    assert got["page"].action == "cancel"


async def test_a_list_of_questions_gives_a_list_of_answers(colour):
    fake = SyncFake({"elicit-1": {"action": "decline"}, "b": NAMED})
    one, two = await Both(colour, fake).do("elicit_all", [Form("1", Name), Form("2", Name, key="b")])
    assert (one.action, two.data.name) == ("decline", "Ann")


@pytest.mark.parametrize("asks", [[], {}, ["Name?"], {"a": Name}])
async def test_elicit_all_takes_questions(colour, asks):
    with pytest.raises(DeclarationError, match="elicit_all"):
        await Both(colour, SyncFake()).do("elicit_all", asks)


async def test_an_undeclared_capability_is_refused_before_anything_is_asked(colour):
    fake = SyncFake(capabilities={})
    both = Both(colour, fake)
    with pytest.raises(MissingCapability) as caught:
        await both.do("sample", "Hi", max_tokens=1)
    assert caught.value.data == {"requiredCapabilities": {"sampling": {}}}
    assert caught.value.code == -32021
    with pytest.raises(MissingCapability) as caught:
        await both.do("elicit_all", [Form("?", Name), Roots()])
    assert caught.value.required == {"elicitation": {}, "roots": {}}
    assert fake.asked == []


@pytest.mark.parametrize(
    ("declared", "supported"),
    [
        ({}, set()),
        ({"elicitation": {}}, {"elicitation"}),
        ({"elicitation": {"url": {}}}, {"elicitation.url"}),
        (EVERYTHING, {"elicitation", "elicitation.url", "sampling", "sampling.tools", "roots"}),
        ({"sampling": {}, "roots": {}}, {"sampling", "roots"}),
    ],
)
def test_a_tool_can_look_what_the_client_supports(declared, supported):
    ctx = SyncContext(SyncFake(capabilities=declared))
    features = ("elicitation", "elicitation.url", "sampling", "sampling.tools", "roots")
    assert {feature for feature in features if ctx.supports(feature)} == supported


async def test_a_form_no_client_can_show_is_refused_before_anything_is_asked(colour):
    class Nested(BaseModel):
        inner: Name

    fake = SyncFake()
    with pytest.raises(DeclarationError, match=r"Nested\.inner"):
        await Both(colour, fake).do("elicit", "?", Nested)
    assert fake.asked == []


async def test_an_answer_its_model_refuses_is_named(colour):
    class Strict(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def _known(cls, value: str) -> str:
            raise ValueError("unknown name")

    with pytest.raises(BadAnswer) as caught:
        await Both(colour, SyncFake({"elicit-1": NAMED})).do("elicit", "?", Strict)
    assert (caught.value.key, caught.value.reason) == ("elicit-1", "name: unknown name")


async def test_first_answers_are_parsed_and_their_keys_are_taken(colour):
    fake = SyncFake({"user_name": NAMED})
    fake.first = {"user_name": NAMED}
    both = Both(colour, fake, {"user_name": Form("Name?", Name)})
    assert both.ctx.first["user_name"].data == Name(name="Ann")
    with pytest.raises(TypeError):
        both.ctx.first["other"] = 1
    with pytest.raises(DeclarationError, match="user_name"):
        await both.do("elicit", "Name?", Name, key="user_name")


async def test_first_answers_of_a_later_declaration_may_be_missing(colour):
    """A task made before a deploy has no answer to a question that came with it."""
    assert Both(colour, SyncFake(), {"new": Form("?", Name)}).ctx.first == {}


async def test_both_colours_have_the_same_names():
    def names(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("__")
        }

    assert names(Context) == names(SyncContext)


async def test_two_questions_asked_side_by_side_get_keys_in_order():
    fake = SyncFake({"elicit-1": NAMED, "elicit-2": {"action": "decline"}})
    ctx = Context(Fake(fake))
    one, two = await asyncio.gather(ctx.elicit("1?", Name), ctx.elicit("2?", Name))
    assert (one.action, two.action) == ("accept", "decline")
