"""What a tool can ask its client: forms, visits to a URL, model samples, roots. Pure.

An *ask* (`Form`, `Url`, `Sample`, `Roots`) is what an author writes; a `Question` is its neutral record with a key;
an answer is what the client's raw response becomes for the author. Params are in the 2026-07-28 shape.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from taskengine.content import clean_text
from taskengine.errors import BadAnswer, DeclarationError
from taskengine.forms import form_schema
from taskengine.records import Question
from taskengine.schema import Schema

__all__ = [
    "Answer",
    "Ask",
    "Form",
    "Root",
    "Roots",
    "Sample",
    "SampleAnswer",
    "Url",
    "check_answer",
    "form_schema",
    "missing_capabilities",
    "required_capability",
]

ELICIT = "elicitation/create"
SAMPLE = "sampling/createMessage"
ROOTS = "roots/list"

T = TypeVar("T")
Action = Literal["accept", "decline", "cancel"]


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What somebody did with a form or a URL. For a URL, `accept` means consent only (X-ELIC-23)."""

    action: Action
    data: T | None = None
    """The filled form; None unless it was accepted."""

    @property
    def accepted(self) -> bool:
        return self.action == "accept"


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """A message that the client's model wrote (X-SAMP-07)."""

    role: str
    content: list[dict[str, Any]]
    """Its blocks, as on the wire: `text`, `image`, `audio`, `tool_use`."""
    model: str
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        """The text blocks together."""
        return "".join(block["text"] for block in self.content if block.get("type") == "text")

    @property
    def tool_uses(self) -> list[dict[str, Any]]:
        return [block for block in self.content if block.get("type") == "tool_use"]


@dataclass(frozen=True, slots=True)
class Root:
    """A place the client offers to work in (X-ROOT-01)."""

    uri: str
    name: str | None = None


@dataclass(frozen=True)
class Form(Generic[T]):
    """Ask somebody to fill in a form: a model, dataclass or TypedDict, or a `requestedSchema` written by hand."""

    message: str
    model: type[T] | Mapping[str, Any]
    key: str | None = None
    default: T | None = None
    """The answer when nobody gives one in time (`answer_by`)."""
    kind = "elicit"

    def __post_init__(self) -> None:
        _check_text(self.message, "A form")
        form_schema(self.model)
        if self.default is not None and not isinstance(self.model, Mapping):
            try:
                _adapter(cast("Any", self.model)).validate_python(self.default)
            except ValidationError as error:
                raise DeclarationError(
                    f"The default answer {self.default!r} is not what the form asks for: {_problems(error)}"
                ) from None

    def question(self, key: str) -> Question:
        params = {"mode": "form", "message": _shown(self.message), "requestedSchema": form_schema(self.model)}
        return Question(_check_key(key), ELICIT, params)

    def parse(self, response: Mapping[str, Any]) -> Answer[T]:
        """Raises ValueError, saying why, when the model refuses what its form allowed."""
        action: Action = response["action"]
        if action != "accept":
            return Answer(action)
        model: Any = self.model
        known = form_schema(model)["properties"]
        content = {name: value for name, value in (response.get("content") or {}).items() if name in known}
        if isinstance(self.model, Mapping):
            return Answer(action, cast("T", content))
        try:
            return Answer(action, cast("T", _adapter(model).validate_python(content)))
        except ValidationError as error:
            raise ValueError(_problems(error)) from None


@dataclass(frozen=True)
class Url:
    """Ask somebody to open a page, for anything that must not pass through the client (X-ELIC-12, X-ELIC-18)."""

    message: str
    url: str
    key: str | None = None
    kind = "elicit"

    def __post_init__(self) -> None:
        _check_text(self.message, "A URL question")
        try:
            parts = urlsplit(self.url)
        except (ValueError, AttributeError):
            raise DeclarationError(f"{self.url!r} is not a web address: give https://host/…") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise DeclarationError(f"{self.url!r} is not a web address: give https://host/…")
        if parts.username or parts.password:
            raise DeclarationError("The address of a URL question carries a user or password: leave them out")

    def question(self, key: str) -> Question:
        return Question(_check_key(key), ELICIT, {"mode": "url", "message": _shown(self.message), "url": self.url})

    def parse(self, response: Mapping[str, Any]) -> Answer[None]:
        return Answer(response["action"])


@dataclass(frozen=True)
class Sample:
    """Ask the client's model for a message (X-SAMP-02, X-SAMP-09).

    `messages` is a text, or a list of messages: texts, dicts or `mcp_types.SamplingMessage`. Tools take dicts or
    `mcp_types.Tool`; they need the capability `sampling.tools` (X-SAMP-03).
    """

    messages: str | Sequence[Any]
    max_tokens: int
    system: str | None = None
    tools: Sequence[Any] | None = None
    tool_choice: Any = None
    model_preferences: Any = None
    temperature: float | None = None
    stop_sequences: Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None
    key: str | None = None
    kind = "sample"
    params: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise DeclarationError(f"max_tokens is {self.max_tokens!r}: give the most tokens to write, 1 or more")
        given = [self.messages] if isinstance(self.messages, str) else list(self.messages)
        params: dict[str, Any] = {"messages": [_message(message) for message in given], "maxTokens": self.max_tokens}
        _check_messages(params["messages"])
        choice = {"mode": self.tool_choice} if isinstance(self.tool_choice, str) else self.tool_choice
        optional = {
            "systemPrompt": self.system,
            "tools": None if self.tools is None else list(self.tools),
            "toolChoice": choice,
            "modelPreferences": self.model_preferences,
            "temperature": self.temperature,
            "stopSequences": None if self.stop_sequences is None else list(self.stop_sequences),
            "metadata": self.metadata,
        }
        params.update({name: _plain(value) for name, value in optional.items() if value is not None})
        object.__setattr__(self, "params", params)

    def question(self, key: str) -> Question:
        return Question(_check_key(key), SAMPLE, self.params)

    def parse(self, response: Mapping[str, Any]) -> SampleAnswer:
        content = response["content"]
        blocks = list(content) if isinstance(content, list) else [content]
        return SampleAnswer(response["role"], blocks, response["model"], response.get("stopReason"))


@dataclass(frozen=True)
class Roots:
    """Ask the client which places it works in."""

    key: str | None = None
    kind = "roots"

    def question(self, key: str) -> Question:
        return Question(_check_key(key), ROOTS, {})

    def parse(self, response: Mapping[str, Any]) -> list[Root]:
        return [Root(root["uri"], root.get("name")) for root in response["roots"]]


Ask = Form[Any] | Url | Sample | Roots


def required_capability(question: Question) -> dict[str, Any]:
    """The `ClientCapabilities` that asking this needs (M-CAP-03, M-CAP-04)."""
    if question.method == ELICIT:
        return {"elicitation": {"url": {}}} if question.params.get("mode") == "url" else {"elicitation": {}}
    if question.method == SAMPLE:
        uses_tools = "tools" in question.params or "toolChoice" in question.params
        return {"sampling": {"tools": {}}} if uses_tools else {"sampling": {}}
    return {"roots": {}}


def missing_capabilities(questions: Iterable[Question], declared: Mapping[str, Any]) -> dict[str, Any]:
    """All that these questions need and the client did not declare, as one `ClientCapabilities`; {} when nothing.

    `elicitation` without a mode means forms (M-CAP-05); any object declares (M-CAP-10).
    """
    missing: dict[str, dict[str, Any]] = {}
    for question in questions:
        for name, parts in required_capability(question).items():
            have = declared.get(name)
            if name == "elicitation":
                mode = "url" if "url" in parts else "form"
                if not _declares_mode(have, mode):
                    missing.setdefault(name, {})[mode] = {}
            elif not isinstance(have, Mapping) or any(not isinstance(have.get(part), Mapping) for part in parts):
                missing.setdefault(name, {}).update(parts)
    if list(missing.get("elicitation", ())) == ["form"] and not isinstance(declared.get("elicitation"), Mapping):
        missing["elicitation"] = {}
    return missing


def _declares_mode(elicitation: Any, mode: str) -> bool:
    if not isinstance(elicitation, Mapping):
        return False
    if mode == "form" and "form" not in elicitation and "url" not in elicitation:
        return True
    return isinstance(elicitation.get(mode), Mapping)


_BLOCKS: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "image": {"data": str, "mimeType": str},
    "audio": {"data": str, "mimeType": str},
    "tool_use": {"id": str, "name": str, "input": Mapping},
    "tool_result": {"toolUseId": str, "content": list},
}


def check_answer(question: Question, response: Any) -> None:
    """The response can be used as an answer. Raises BadAnswer, saying why, otherwise (M-TASK-59).

    Members of a form's content that its schema does not name are no fault (X-ELIC-17).
    """
    if not isinstance(response, Mapping):
        raise BadAnswer(question.key, "give a result object")
    if question.method == ELICIT:
        reason = _elicitation_problem(question.params, response)
    elif question.method == SAMPLE:
        reason = _sample_problem(response)
    else:
        reason = _roots_problem(response)
    if reason:
        raise BadAnswer(question.key, reason)


def _elicitation_problem(params: Mapping[str, Any], response: Mapping[str, Any]) -> str | None:
    action = response.get("action")
    if action not in ("accept", "decline", "cancel"):
        return 'action must be "accept", "decline" or "cancel"'
    if action != "accept" or params.get("mode") == "url":
        return None
    content = response.get("content", {})
    if not isinstance(content, Mapping):
        return "content must be an object with the filled fields"
    problems = _compiled(json.dumps(params["requestedSchema"])).problems(dict(content))
    return "; ".join(problems) or None


def _sample_problem(response: Mapping[str, Any]) -> str | None:
    if response.get("role") not in ("user", "assistant"):
        return 'role must be "user" or "assistant"'
    if not isinstance(response.get("model"), str):
        return "model must name the model that wrote the message"
    if not isinstance(response.get("stopReason", ""), str):
        return "stopReason must be text"
    content = response.get("content")
    blocks = content if isinstance(content, list) else [content]
    for block in blocks:
        needed = _BLOCKS.get(str(block.get("type"))) if isinstance(block, Mapping) else None
        if block is None or needed is None:
            return f"content must be blocks of type {', '.join(_BLOCKS)}"
        for member, kind in needed.items():
            if not isinstance(block.get(member), kind):
                return f"a {block['type']} block must have {member}"
    return None


def _roots_problem(response: Mapping[str, Any]) -> str | None:
    roots = response.get("roots")
    if not isinstance(roots, list):
        return "roots must be a list"
    for root in roots:
        if not isinstance(root, Mapping) or not _is_uri(root.get("uri")):
            return 'each root must have a uri such as "file:///home/me"'
        if not isinstance(root.get("name", ""), str):
            return "the name of a root must be text"
    return None


def _is_uri(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(urlsplit(text).scheme)
    except ValueError:
        return False


@lru_cache(maxsize=512)
def _compiled(document: str) -> Schema:
    return Schema(json.loads(document), "the form", formats=True)


@lru_cache(maxsize=256)
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'the form'}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    )


def _check_key(key: Any) -> str:
    if not (isinstance(key, str) and 1 <= len(key) <= 128):
        raise DeclarationError(f"The key {key!r} of a question is not a text of 1 to 128 characters")
    if clean_text(key) != key:
        raise DeclarationError(f"The key {key!r} of a question has NUL or half a surrogate pair: leave it out")
    return key


def _check_text(message: Any, what: str) -> None:
    if not isinstance(message, str) or not message.strip():
        raise DeclarationError(f"{what} needs a message that says what is asked")


def _shown(message: str) -> str:
    """The message without NUL, which it may have from an argument and which no store of text takes."""
    return message.replace("\0", "\ufffd")


def _plain(value: Any) -> Any:
    """JSON of what an author gave; protocol models by their wire names."""
    try:
        return to_jsonable_python(value, by_alias=True, exclude_none=True)
    except (PydanticSerializationError, ValueError) as error:
        raise DeclarationError(f"A question cannot be sent as JSON: {error}") from None


def _message(message: Any) -> dict[str, Any]:
    if isinstance(message, str):
        return {"role": "user", "content": {"type": "text", "text": message}}
    plain = _plain(message)
    if isinstance(message, BaseModel) and "role" not in plain:  # a content block by itself
        plain = {"role": "user", "content": plain}
    if not isinstance(plain, dict) or plain.get("role") not in ("user", "assistant") or "content" not in plain:
        raise DeclarationError('A message to sample from is a text or {"role": "user" or "assistant", "content": …}')
    if isinstance(plain["content"], str):
        plain["content"] = {"type": "text", "text": plain["content"]}
    return plain


def _check_messages(messages: list[dict[str, Any]]) -> None:
    """Tool uses and tool results are balanced (X-SAMP-04, X-SAMP-05). Raises DeclarationError otherwise."""
    if not messages:
        raise DeclarationError("A sample needs at least one message")
    open_uses: list[str] = []
    for message in messages:
        content = message["content"]
        blocks = content if isinstance(content, list) else [content]
        results = [block["toolUseId"] for block in blocks if block.get("type") == "tool_result"]
        if results and (message["role"] != "user" or len(results) != len(blocks)):
            raise DeclarationError("Tool results stand in a user message of their own")
        if sorted(results) != sorted(open_uses):
            raise DeclarationError("Each tool use needs its result in the message right after it, and no other")
        open_uses = [block["id"] for block in blocks if block.get("type") == "tool_use"]
    if open_uses:
        raise DeclarationError("Each tool use needs its result in the message right after it, and no other")
