"""One step: how often it is tried, and how its result becomes text that gives the same result back."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

from taskengine.calls import REFUSALS
from taskengine.content import clean_text
from taskengine.durations import DurationLike, describe, parse_duration
from taskengine.errors import (
    DeclarationError,
    EngineError,
    ProtocolError,
    ResultError,
    StepFailed,
    ToolError,
)

__all__ = ["Codec", "Retries", "dump_failure", "dump_refusal", "load_failure", "parse_delay", "worth_retrying"]

LONGEST_BACKOFF = timedelta(hours=1)
MAX_MESSAGE = 2_000
_DELIBERATE = (ToolError, ProtocolError, EngineError)
"""What a function raises on purpose, or the engine for a mistake in the code: another try would bring the same."""
_REFUSED: dict[str, type[EngineError]] = {**REFUSALS, ResultError.__name__: ResultError}
_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often something that failed is tried again, and how long after."""

    count: int = 0
    waits: tuple[timedelta, ...] = (timedelta(seconds=1),)
    doubling: bool = True

    @classmethod
    def parse(cls, what: str, retries: Any, backoff: DurationLike | Sequence[DurationLike]) -> Retries:
        """`backoff` is the first wait, which doubles with each try up to an hour, or a list of all, whose last one
        counts for the rest. Raises DeclarationError, naming `what`."""
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise DeclarationError(f"{what}: retries is {retries!r}: give how often to try again, 0 or more")
        given = [backoff] if isinstance(backoff, (str, timedelta)) else backoff
        try:
            waits = tuple(parse_duration(each) for each in given)
        except (ValueError, TypeError) as error:
            raise DeclarationError(f"{what}: backoff: {error}") from None
        if not waits:
            raise DeclarationError(f'{what}: backoff is empty: give "1s", or a list such as ["1s", "10s"]')
        return cls(retries, waits, doubling=isinstance(backoff, (str, timedelta)))

    def wait_after(self, failures: int) -> timedelta | None:
        """How long to wait after that many failures; None when that was the last try."""
        if failures > self.count:
            return None
        if not self.doubling:
            return self.waits[min(failures, len(self.waits)) - 1]
        first = self.waits[0]
        if first >= LONGEST_BACKOFF:
            return first
        doublings: int = min(failures - 1, 40)
        return min(first * (1 << doublings), LONGEST_BACKOFF)


def parse_delay(what: str, delay: Any) -> timedelta:
    """Seconds, "90s" or a timedelta. Raises DeclarationError."""
    if isinstance(delay, (int, float)) and not isinstance(delay, bool):
        if not math.isfinite(delay) or delay < 0 or delay > timedelta.max.total_seconds() / 1000:
            raise DeclarationError(f"{what}: {delay!r} is no delay: give seconds, zero or more")
        return timedelta(seconds=delay)
    try:
        return parse_duration(delay)
    except ValueError as error:
        raise DeclarationError(f"{what}: {error}") from None


def worth_retrying(error: BaseException) -> bool:
    """Whether trying again may help: an exception, and none that was raised on purpose."""
    return isinstance(error, Exception) and (not isinstance(error, _DELIBERATE) or isinstance(error, StepFailed))


def dump_failure(error: BaseException, tries: int) -> str:
    """The JSON by which a later attempt raises what this one did."""
    facts: dict[str, Any] = {"tries": tries, "error": type(error).__name__, "message": message_of(error)}
    if isinstance(error, ProtocolError):
        facts |= {"code": error.code, "data": error.data, "message": error.message}
    elif isinstance(error, ToolError):
        facts["deliberate"] = True
    try:
        return json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError):  # the data of a ProtocolError is not JSON
        return json.dumps({**facts, "data": None})


def dump_refusal(error: EngineError) -> str:
    """The same for what the engine refused, and did not do."""
    return json.dumps({"refused": type(error).__name__, "message": str(error)})


def load_failure(step: str, text: str) -> Exception:
    facts = json.loads(text)
    if "refused" in facts:
        return _REFUSED[facts["refused"]](facts["message"])
    if "code" in facts:
        return ProtocolError(facts["code"], facts["message"], facts["data"])
    if facts.get("deliberate"):
        return ToolError(facts["message"])
    return StepFailed(step, facts["error"], facts["message"], facts["tries"])


def message_of(error: BaseException) -> str:
    try:
        return clean_text(str(error))[:MAX_MESSAGE]
    except Exception:  # a broken __str__ must not hide the failure
        return "(its message cannot be read)"


class Codec:
    """A step's result as JSON text and back: by the function's return annotation, or plain JSON without one."""

    def __init__(self, step: str, function: Callable[..., Any], max_bytes: int) -> None:
        """Raises ResultError when the annotation is of a kind that pydantic cannot store."""
        self._step = step
        self._max_bytes = max_bytes
        try:
            self._adapter = _adapter_of(function)
        except TypeError:  # not hashable
            self._adapter = _adapter(_returns(function))
        except _NoSchema as error:
            raise ResultError(
                f"The step {step!r} returns {error.args[0]}, which cannot be kept as JSON and read back: return plain "
                "values, a model, a dataclass or a TypedDict"
            ) from None

    def dump(self, value: Any) -> str:
        """Raises ResultError, naming the type of what cannot be kept."""
        if self._adapter is None:
            try:
                stranger = _stranger(value)
            except RecursionError:
                stranger = "a value that is nested without an end"
            if stranger is not None:
                raise ResultError(
                    f"The step {self._step!r} returned {stranger}, and its function has no return annotation to read "
                    "it back by: annotate what it returns, or return text, numbers, lists and dicts with text as keys"
                )
            text = json.dumps(value, separators=(",", ":"))
        else:
            try:
                text = self._adapter.dump_json(value, by_alias=True, warnings="error").decode()
                self._adapter.validate_json(text)
            except Exception as error:  # a validator of the model's may raise anything
                raise ResultError(
                    f"The step {self._step!r} returned a value of type {type(value).__name__} that cannot be kept as "
                    f"JSON and read back as its function declares: {_first_line(error)}"
                ) from None
        size = len(text.encode())
        if size > self._max_bytes:
            raise ResultError(
                f"The step {self._step!r} returned {size:,} bytes as JSON, and the limit is {self._max_bytes:,} "
                "(max_result_bytes): return less, or a link to the whole"
            )
        return text

    def load(self, text: str) -> Any:
        """Raises ResultError when the annotation is another one now and does not fit what was kept."""
        if self._adapter is None:
            return json.loads(text)
        try:
            return self._adapter.validate_json(text)
        except Exception as error:
            raise ResultError(_first_line(error)) from None


class _NoSchema(Exception):
    """The name of a type that pydantic knows nothing of."""


@lru_cache(maxsize=1024)
def _adapter_of(function: Callable[..., Any]) -> TypeAdapter[Any] | None:
    return _adapter(_returns(function))


def _returns(function: Callable[..., Any]) -> Any:
    """The type a function gives, also through `partial` and `Awaitable`; Any when it does not say."""
    while isinstance(function, partial):
        function = function.func
    plain = inspect.unwrap(function)
    if not inspect.isroutine(plain) and not inspect.isclass(plain):
        plain = type(plain).__call__
    try:
        hint = get_type_hints(plain, include_extras=True).get("return", Any)
    except (NameError, TypeError):
        return Any
    if isinstance(hint, type) and issubclass(hint, (Awaitable, Coroutine)):
        return Any
    if get_origin(hint) in {Awaitable, Coroutine}:
        return get_args(hint)[-1]
    return hint


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    if hint is Any or hint is object:
        return None
    try:
        try:
            return TypeAdapter(hint, config=_CONFIG)
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
            return TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError):
        raise _NoSchema(_name(hint)) from None


def _stranger(value: Any) -> str | None:
    """What in `value` plain JSON would not give back as it is."""
    if value is None or type(value) in {bool, int}:
        return None
    if type(value) is float:
        return None if math.isfinite(value) else f"the number {value}"
    if type(value) is str:
        return None if clean_text(value.replace("\0", "")) == value.replace("\0", "") else "text that is not Unicode"
    if type(value) is list:
        return next((found for item in value if (found := _stranger(item))), None)
    if type(value) is dict:
        if not all(type(key) is str for key in value):
            return "a dict whose keys are not all text"
        return next((found for item in value.values() if (found := _stranger(item))), None)
    return f"a value of type {type(value).__name__}"


def _name(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) else str(hint)


def _first_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return str(error).partition("\n")[0][:300]


def timed_out(limit: timedelta) -> TimeoutError:
    return TimeoutError(f"it ran longer than {describe(limit)}")
