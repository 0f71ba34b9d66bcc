"""From a function and its options to a tool: all that is checked where it is declared.

Whatever is wrong with a declaration is found here, at import, and said in a sentence that names what to change.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_jsonable_python

from taskengine.auth.config import is_scope
from taskengine.cleanup import check_cleanup
from taskengine.content import clean_text, encode_json
from taskengine.durations import DurationLike, parse_duration
from taskengine.errors import DeclarationError, ResultError
from taskengine.limits import Limit, check_limits, check_priority
from taskengine.questions import Ask, Form, Roots, Sample, Url
from taskengine.schema import Schema, header_parameters
from taskengine.sensitive import ALL
from taskengine.signature import Signature, declares_structure, read_signature, return_schema
from taskengine.steps import Retries
from taskengine.tool import SYNC_SUFFIX, TaskMode, Tool

__all__ = ["make_tool", "plain_icons"]

MODES = get_args(TaskMode)

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HINTS = {
    "title": str,
    "readOnlyHint": bool,
    "destructiveHint": bool,
    "idempotentHint": bool,
    "openWorldHint": bool,
}


def make_tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    task: TaskMode = "optional",
    ttl: DurationLike | None = None,
    poll_interval: DurationLike | None = None,
    timeout: DurationLike | None = None,
    quick_wait: DurationLike | None = None,
    inline_wait: DurationLike | None = None,
    bridge: bool = True,
    dedupe: bool | DurationLike = False,
    sensitive: bool = False,
    version: str | None = None,
    retries: int = 0,
    backoff: DurationLike | Sequence[DurationLike] | None = None,
    answer_by: DurationLike | None = None,
    queue: str = "default",
    annotations: Any = None,
    icons: Sequence[Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    input_schema: Mapping[str, Any] | None = None,
    output_schema: Mapping[str, Any] | None = None,
    ask_first: Mapping[str, Ask] | None = None,
    structured: bool | None = None,
    on_cancel: Callable[..., Any] | None = None,
    limits: Sequence[Limit] = (),
    priority: int = 0,
    max_priority: int | None = None,
    scopes: Sequence[str] = (),
    token: bool = False,
    scope: Mapping[str, Any] | None = None,
) -> Tool:
    """The tool that `function` is. Names in its annotations are also looked up in `scope`.

    Raises DeclarationError, a sentence that says what to change.
    """
    what = _named(function, name)
    if task not in MODES:
        raise DeclarationError(f'{what}: task is {task!r}: write "forbidden", "optional" or "required"')
    if not _is_queue(queue):
        raise DeclarationError(
            f"{what}: queue is {queue!r}: give up to 64 letters, digits and _ . -, not ending in {SYNC_SUFFIX}"
        )
    durations: dict[str, Any] = {
        "ttl": _duration(what, "ttl", ttl),
        "poll_interval": _duration(what, "poll_interval", poll_interval),
        "timeout": _duration(what, "timeout", timeout),
        "quick_wait": _duration(what, "quick_wait", quick_wait, zero=True),
        "inline_wait": _duration(what, "inline_wait", inline_wait, zero=True),
        "answer_by": _duration(what, "answer_by", answer_by),
        "dedupe_for": None if isinstance(dedupe, bool) else _duration(what, "dedupe", dedupe),
    }
    if task == "forbidden":
        set_here = {
            **durations,
            "dedupe": dedupe if dedupe is True else None,
            "version": version,
            "retries": retries or None,
            "backoff": backoff,
            "token": token or None,
            "limits": limits or None,
            "priority": priority or None,
            "max_priority": max_priority,
        }
        for option in (name for name in set_here if name != "timeout"):
            if set_here[option] is not None:
                said = option.removesuffix("_for")
                raise DeclarationError(
                    f'{what}: {said} is for tasks, and task="forbidden" makes none: leave one of the two out'
                )
    signature = read_signature(function, what, scope or {}, free=input_schema is not None)
    texts: dict[str, Any] = {
        "title": _text(what, "title", title),
        "description": _description(what, function, description),
        "annotations": _annotations(what, annotations),
        "icons": plain_icons(what, icons),
        "meta": _object(what, "meta", meta),
    }
    for option, value in texts.items():
        _check_listable(what, option, value)
    check_cleanup(what, on_cancel, is_async=signature.is_async, durable=task != "forbidden")
    if backoff is not None and not retries:
        raise DeclarationError(f"{what}: backoff without retries has no effect: give retries= as well")
    compiled = _input(what, signature, input_schema)
    own_priority, highest = check_priority(what, priority, max_priority)
    adapter, output = _output(what, signature, output_schema, structured)
    return Tool(
        name=what,
        **texts,
        input_schema=compiled.document,
        output_schema=None if output is None else output.document,
        task=task,
        **durations,
        bridge=bridge,
        dedupe=dedupe is True,
        sensitive=_sensitive(what, signature, compiled, sensitive),
        version=_version(what, version),
        retries=Retries.parse(what, retries, "1s" if backoff is None else backoff),
        queue=queue,
        is_async=signature.is_async,
        ask_first=_asks(what, task, ask_first),
        header_parameters=header_parameters(compiled.document, what),
        structured=structured,
        limits=check_limits(what, limits, None if signature.takes_any else compiled.document.get("properties", {})),
        priority=own_priority,
        max_priority=highest,
        scopes=_scopes(what, scopes),
        token=token,
        on_cancel=on_cancel,
        function=function,
        _signature=signature,
        _input=compiled,
        _output=output,
        _returns=adapter,
    )


def _sensitive(what: str, signature: Signature, compiled: Schema, whole: Any) -> tuple[str, ...]:
    if not isinstance(whole, bool):
        raise DeclarationError(f"{what}: sensitive is {whole!r}: give True, or mark parameters with Sensitive()")
    hidden = (ALL,) if whole else signature.sensitive
    for parameter in header_parameters(compiled.document, what):
        if whole or parameter.path[0] in hidden:
            raise DeclarationError(
                f"{what}: {parameter.path[0]} is sensitive, and clients repeat it in a header, which proxies log: "
                "leave one of the two out"
            )
    return hidden


def _is_queue(queue: Any) -> bool:
    return isinstance(queue, str) and bool(_QUEUE.fullmatch(queue)) and not queue.endswith(SYNC_SUFFIX)


def _named(function: Any, name: str | None) -> str:
    if not callable(function) or inspect.isclass(function):
        raise DeclarationError(f"{function!r} is not a function: a tool is a def or an async def")
    found = getattr(function, "__name__", None) if name is None else name
    if not isinstance(found, str) or not _NAME.fullmatch(found):
        raise DeclarationError(
            f"{found if found is not None else function!r} is not a tool name: give name= with 1 to 64 characters "
            "of A-Z a-z 0-9 _ - ."
        )
    return found


def _description(what: str, function: Any, description: str | None) -> str:
    source = getattr(function, "func", function)
    text = inspect.getdoc(source) if description is None else description
    if not isinstance(text, str) or not text.strip():
        raise DeclarationError(f"{what} has no description: write a docstring that tells a model what it does")
    return text.strip()


def _text(what: str, option: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DeclarationError(f"{what}: {option} is {value!r}: give text")
    return value


def _scopes(what: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(scope, str) and is_scope(scope) for scope in value):
        raise DeclarationError(f"{what}: scopes is {value!r}: give a list of scopes, each without spaces and quotes")
    if "offline_access" in value:
        raise DeclarationError(f"{what}: offline_access is between a client and its authorization server: leave it out")
    return tuple(dict.fromkeys(value))


def _version(what: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value.strip() and clean_text(value) == value):
        raise DeclarationError(f"{what}: version is {value!r}: give text")
    return value


def _check_listable(what: str, option: str, value: Any) -> None:
    """One tool that cannot be sent would hide all the others (tools/list is one message)."""
    try:
        encode_json(value)
    except ResultError as error:
        raise DeclarationError(f"{what}: {option} cannot be listed: {error}") from None


def _duration(what: str, option: str, value: DurationLike | None, *, zero: bool = False) -> timedelta | None:
    if value is None:
        return None
    try:
        duration = parse_duration(value)
    except ValueError as error:
        raise DeclarationError(f"{what}: {option}: {error}") from None
    if not duration and not zero:
        raise DeclarationError(f"{what}: {option} is zero: give a longer one, or leave it out")
    return duration


def _input(what: str, signature: Signature, given: Mapping[str, Any] | None) -> Schema:
    if given is None:
        return Schema(signature.schema(), f"{what}: the input schema")
    document = _object(what, "input_schema", given) or {}
    if document.get("type") != "object":
        raise DeclarationError(f'{what}: the input schema must have "type": "object" at its root')
    compiled = Schema(document, f"{what}: the input schema")
    named = set(document.get("properties", {}))
    unknown = sorted(named - set(signature.wire_names))
    if unknown and not signature.takes_any:
        raise DeclarationError(
            f"{what}: the input schema has {', '.join(unknown)}, which the function does not take: "
            "add parameters, or **kwargs for the rest"
        )
    unfilled = sorted(signature.required - named)
    if unfilled:
        raise DeclarationError(
            f"{what}: the function needs {', '.join(unfilled)}, which the input schema lacks: "
            "add them to it, or give them defaults"
        )
    return compiled


def _output(
    what: str, signature: Signature, given: Mapping[str, Any] | None, structured: bool | None
) -> tuple[TypeAdapter[Any] | None, Schema | None]:
    if given is not None:
        if structured is False:
            raise DeclarationError(f"{what}: structured=False and an output schema contradict each other: drop one")
        document = _object(what, "output_schema", given) or {}
        return None, Schema(document, f"{what}: the output schema")
    if structured is False or (structured is None and not declares_structure(signature.returns)):
        return None, None
    if signature.returns is inspect.Parameter.empty:
        raise DeclarationError(f"{what}: structured=True needs a return type or an output_schema")
    adapter, document = return_schema(signature.returns, what)
    return adapter, Schema(document, f"{what}: the output schema")


def _object(what: str, option: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        plain = to_jsonable_python(value, by_alias=True)
    except ValueError as error:
        raise DeclarationError(f"{what}: {option} is not JSON: {error}") from None
    if not isinstance(plain, dict):
        raise DeclarationError(f"{what}: {option} is {value!r}: give a dict")
    return plain


def _annotations(what: str, value: Any) -> dict[str, Any] | None:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True, exclude_none=True)
    hints = _object(what, "annotations", value)
    for hint, given in (hints or {}).items():
        if hint not in _HINTS:
            raise DeclarationError(f"{what}: {hint!r} is not an annotation: known are {', '.join(_HINTS)}")
        if not isinstance(given, _HINTS[hint]):
            raise DeclarationError(f"{what}: the annotation {hint} is {given!r}: give a {_HINTS[hint].__name__}")
    return hints


def plain_icons(what: str, value: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    """Icons as they are listed; a text is an address. Raises DeclarationError, naming `what`."""
    if value is None:
        return None
    icons = []
    for icon in value if isinstance(value, (list, tuple)) else [value]:
        given = icon.model_dump(mode="json", by_alias=True, exclude_none=True) if isinstance(icon, BaseModel) else icon
        plain = {"src": given} if isinstance(given, str) else _object(what, "icons", given) or {}
        if not isinstance(plain.get("src"), str):
            raise DeclarationError(f'{what}: an icon is {{"src": "https://…", "mimeType": …, "sizes": […]}}')
        icons.append(plain)
    return icons


def _asks(what: str, task: str, asks: Mapping[str, Ask] | None) -> Mapping[str, Ask]:
    if not asks:
        return MappingProxyType({})
    if task == "forbidden":
        raise DeclarationError(
            f'{what}: ask_first asks before a task is made, and task="forbidden" makes none: '
            "use ctx.elicit in the function"
        )
    if not isinstance(asks, Mapping):
        raise DeclarationError(f'{what}: ask_first is a dict of questions: {{"name": Form("…", Model)}}')
    for key, ask in asks.items():
        if not isinstance(ask, (Form, Url, Sample, Roots)):
            raise DeclarationError(f"{what}: ask_first[{key!r}] is not a question: give a Form, Url, Sample or Roots")
        try:
            ask.question(key)
        except DeclarationError as error:
            raise DeclarationError(f"{what}: {error}") from None
    return MappingProxyType(dict(asks))
