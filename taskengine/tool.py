"""A tool: a function with its schemas and its policy, made once where it is declared (`declaration`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from taskengine.cleanup import Cancelled
from taskengine.errors import BadAnswer, InvalidArguments
from taskengine.limits import Limit, slots_of
from taskengine.questions import Ask, check_answer
from taskengine.records import Question, Slot
from taskengine.schema import SAFE_INTEGER, HeaderParameter, Hides, Schema
from taskengine.sensitive import ALL
from taskengine.signature import Signature
from taskengine.steps import Retries

__all__ = ["SYNC_SUFFIX", "HeaderParameter", "TaskMode", "Tool"]

TaskMode = Literal["forbidden", "optional", "required"]
SYNC_SUFFIX = ".sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A declared tool. Schemas, annotations, icons and meta are as they are listed; do not change them."""

    name: str
    title: str | None
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    annotations: dict[str, Any] | None
    icons: list[dict[str, Any]] | None
    meta: dict[str, Any] | None
    task: TaskMode
    ttl: timedelta | None
    """Retention from creation; None for the setting. The setting `max_ttl` limits it."""
    poll_interval: timedelta | None
    """The longest poll interval to suggest; None for the engine's rule."""
    timeout: timedelta | None
    """How long the function may run in all its attempts together; None for no limit."""
    quick_wait: timedelta | None
    """How long a call waits for a plain result before it answers with the task; None for the setting."""
    inline_wait: timedelta | None
    """How long a call of a client without tasks stays open before it ends with the task's id; None for the setting."""
    bridge: bool
    """Whether hosts that know no tasks get the task by the engine's own tools (see `bridge`)."""
    dedupe: bool
    """Whether the same call of such a host joins the task that runs for it already."""
    dedupe_for: timedelta | None
    """How long after its creation a task that lives or has succeeded is the task of every same call; None: never."""
    sensitive: tuple[str, ...]
    """The parameters whose values operators must not see; `*` for all that its calls have to do with."""
    version: str | None
    """Of its code; said when a task that waited meets code that does something else."""
    retries: Retries
    """How often a call is tried again whose function raised."""
    answer_by: timedelta | None
    """How long to wait for an answer to a question that says nothing else; None for no limit."""
    queue: str
    is_async: bool
    ask_first: Mapping[str, Ask]
    """What is asked before the task is made, by key."""
    header_parameters: tuple[HeaderParameter, ...]
    structured: bool | None
    limits: tuple[Limit, ...]
    """How many of its calls run at once."""
    priority: int
    """Of its calls; what is higher goes first."""
    max_priority: int
    """The highest that a call may ask for."""
    scopes: tuple[str, ...]
    """What a token must have to call it, beside the scopes of `tools/call`."""
    token: bool
    """Whether its tasks get the token of their caller, sealed (`ctx.token`)."""
    on_cancel: Callable[..., Any] | None = field(repr=False)
    """Undoes what the function had begun, after a cancel (see `cleanup`)."""
    function: Callable[..., Any] = field(repr=False)
    _signature: Signature = field(repr=False)
    _input: Schema = field(repr=False)
    _output: Schema | None = field(repr=False)
    _returns: TypeAdapter[Any] | None = field(repr=False)

    @property
    def durable(self) -> bool:
        """Every call is a task with a row; else it runs in the front end."""
        return self.task != "forbidden"

    @property
    def route(self) -> str:
        """The queue its doorbells ride on: sync tools run in processes, and have a queue of their own."""
        return self.queue if self.is_async else f"{self.queue}{SYNC_SUFFIX}"

    @property
    def takes_context(self) -> bool:
        return self._signature.context is not None

    @property
    def first_questions(self) -> tuple[Question, ...]:
        """The `ask_first` questions as records."""
        return tuple(ask.question(key) for key, ask in self.ask_first.items())

    @property
    def hides(self) -> Hides:
        """Whether a place in the arguments, as a path from the root, is nothing to be shown."""
        return lambda path: ALL in self.sensitive or (bool(path) and path[0] in self.sensitive)

    def slots(self, owner: str, arguments: Mapping[str, Any]) -> tuple[Slot, ...]:
        """What a call of this owner counts against while it runs."""
        return slots_of(self.name, self.limits, owner, arguments)

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """The arguments fit. Raises InvalidArguments, which tells a model what to correct, otherwise (X-TOOL-21)."""
        try:
            problems = self._input.problems(dict(arguments), self.hides)
        except ValueError:
            problems = ["they hold a text or a number that JSON cannot: half a surrogate pair, or infinity"]
        problems += [
            f"`{'.'.join(parameter.path)}` is past {SAFE_INTEGER}, the largest integer a header can carry"
            for parameter in self.header_parameters
            if isinstance(value := parameter.value(arguments), int) and abs(value) > SAFE_INTEGER
        ]
        if problems:
            raise InvalidArguments(self._refusal(problems))
        self.bind(arguments, None)

    def check_first(self, key: str, response: Any) -> None:
        """The response answers the `ask_first` question `key`, by its schema and by its model. Raises BadAnswer."""
        ask = self.ask_first[key]
        check_answer(ask.question(key), response)
        try:
            ask.parse(response)
        except ValueError as error:
            raise BadAnswer(key, str(error)) from None

    def bind(self, arguments: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """The function's keyword arguments, in its own types; `context` goes to the parameter that takes it.

        Raises InvalidArguments.
        """
        try:
            return self._signature.bind(arguments, context, self.hides)
        except InvalidArguments as error:
            raise InvalidArguments(self._refusal(str(error).splitlines())) from None

    def cancelled(self, task_id: str, attempt: int, arguments: Mapping[str, Any]) -> Cancelled:
        """What `on_cancel` is told. Arguments that fit no longer, since the tool has changed, are as they were sent."""
        try:
            bound = self._signature.bind(arguments, None)
        except InvalidArguments:
            bound = dict(arguments)
        context = self._signature.context
        shown = {key: bound[key] for key in bound if key != context}
        return Cancelled(task_id, self.name, attempt, shown, self.sensitive)

    def dump_return(self, value: Any) -> Any:
        """The JSON of a returned value by the declared type. Raises pydantic's errors when it is of another."""
        if self._returns is None:
            return to_jsonable_python(value, by_alias=True)
        return self._returns.dump_python(
            self._returns.validate_python(value), mode="json", by_alias=True, warnings="error"
        )

    def output_problems(self, structured: Any) -> list[str]:
        """Where structured content departs from the output schema."""
        return self._output.problems(structured) if self._output is not None else []

    def _refusal(self, problems: Sequence[str]) -> str:
        lines = "\n".join(f"- {problem}" for problem in problems)
        return f"The arguments do not fit the input schema of {self.name}. Correct them and call again:\n{lines}"
