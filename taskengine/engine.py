"""TaskEngine: the tools an application declares, and what it says about itself."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, overload

from taskengine.bridge import HANDLE_TOOLS
from taskengine.content import clean_text
from taskengine.declaration import make_tool, plain_icons
from taskengine.durations import DurationLike
from taskengine.errors import DeclarationError
from taskengine.identity import AccessToken, Identity
from taskengine.limits import Limit
from taskengine.questions import Ask
from taskengine.tool import TaskMode, Tool

__all__ = ["TaskEngine"]

F = TypeVar("F", bound=Callable[..., Any])
Renewal = Callable[[AccessToken, Identity], Awaitable[AccessToken]]


class TaskEngine:
    """A named set of tools, in the order of their declaration.

    Front ends, workers and tests import the same engine. Nothing is contacted here.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0",
        title: str | None = None,
        instructions: str | None = None,
        website_url: str | None = None,
        icons: Sequence[Any] | None = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
    ) -> None:
        self.name = _checked_name(name)
        self.version = _text(name, "version", version) or "0"
        self.title = _text(name, "title", title)
        self.instructions = _text(name, "instructions", instructions)
        self.website_url = _text(name, "website_url", website_url)
        self.icons = plain_icons(self.name, icons)
        self.on_tools_changed: list[Callable[[], None]] = []
        """Called after every later change of the tools."""
        self.token_renewal: Renewal | None = None
        """Gives another token for one that a task was handed over and that expires."""
        self._tools: dict[str, Tool] = {}
        scope = _caller()
        for tool in tools:
            self._add(tool if isinstance(tool, Tool) else _make(tool, scope, {}))

    def __repr__(self) -> str:
        return f"TaskEngine({self.name!r}, {len(self._tools)} tools)"

    @overload
    def tool(self, fn: F, /) -> F: ...
    @overload
    def tool(
        self,
        fn: None = None,
        /,
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
    ) -> Callable[[F], F]: ...
    def tool(self, fn: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
        """Declare a function as a tool; the function itself is left as it is. Bare or with options.

        `task`: "forbidden" runs in the front end and makes no task; "optional" and "required" are durable.
        `ttl`, `poll_interval`, `timeout`, `quick_wait`, `inline_wait`: "90s", "6h", "7d" or a timedelta. For clients
        without tasks: `bridge` gives them the task by tools of the engine, and with `dedupe=True` the same call again
        joins the task that runs for it; `dedupe="10m"` gives every client the task of the same call that lives, or has
        succeeded and began within that time. `sensitive` hides what its calls have to do with from operators.
        `retries` and `backoff` are for a function that raised, `answer_by` limits how long its questions wait, and
        `version` names its code (docs/durability.md). `input_schema` and `output_schema` are
        listed as given. `ask_first` is asked before the task is made. `structured` forces
        (True) or forbids (False) structured content. `on_cancel` is called with a `Cancelled` after the cancel of a
        task whose function had begun. `scopes` are what a caller's token must have, and with `token` its tasks may use
        that token (docs/security.md). `limits` says how many of its calls run at once, such as
        `[per("owner", 2), total(20)]`; of what waits a higher `priority` goes first, and a call may ask for one up to
        `max_priority` (docs/limits.md). Raises DeclarationError, a sentence that says what to change.
        """
        scope = _caller()
        if fn is not None and not callable(fn):
            raise DeclarationError(f"{fn!r} is not a function: options of a tool have names, such as name={fn!r}")

        def declare(function: F) -> F:
            self._add(_make(function, scope, options))
            return function

        return declare if fn is None else declare(fn)

    def renews_tokens(self, function: Renewal) -> Renewal:
        """Declare an async function that gives another token for one that was handed over and expires, for example by
        token exchange (RFC 8693); the decorated function is left as it is. Raises DeclarationError."""
        if not inspect.iscoroutinefunction(function):
            raise DeclarationError(f"{self.name}: what renews tokens is an async def with the token and its identity")
        self.token_renewal = function
        return function

    def add_tool(self, fn: Callable[..., Any] | Tool, **options: Any) -> Tool:
        """Add a function as a tool, or a Tool as it is; options as for `tool`. Connected clients are told."""
        tool = fn if isinstance(fn, Tool) else _make(fn, _caller(), options)
        self._add(tool)
        return tool

    def remove_tool(self, name: str) -> None:
        """Take a tool away; its running tasks go on in workers that still have it. Raises DeclarationError when
        there is none of that name."""
        if name not in self._tools:
            raise DeclarationError(f"There is no tool {name!r} to remove; there are {', '.join(self._tools) or 'none'}")
        self._tools = {key: tool for key, tool in self._tools.items() if key != name}
        self._changed()

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by name, in the order of declaration."""
        return MappingProxyType(self._tools)

    def get_tool(self, name: str) -> Tool | None:
        return self._tools.get(name)

    @property
    def wants_tokens(self) -> bool:
        """Whether a tool gets the token of its caller."""
        return any(tool.token for tool in self._tools.values())

    @property
    def routes(self) -> list[str]:
        """The queues that workers must serve so that every durable tool runs."""
        return sorted({tool.route for tool in self._tools.values() if tool.durable})

    def _add(self, tool: Tool) -> None:
        if tool.name in HANDLE_TOOLS:
            raise DeclarationError(f"{tool.name} is the name of a tool of the engine itself: give another with name=")
        if tool.name in self._tools:
            raise DeclarationError(f"There are two tools named {tool.name!r}: give one another name with name=")
        self._tools = {**self._tools, tool.name: tool}
        self._changed()

    def _changed(self) -> None:
        for callback in list(self.on_tools_changed):
            callback()


class _Scope(NamedTuple):
    local: Mapping[str, Any]
    module: Mapping[str, Any]


def _caller() -> _Scope:
    """Where the caller of our caller stands: annotations of functions declared there may use its local names."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    return _Scope({}, {}) if frame is None else _Scope(frame.f_locals, frame.f_globals)


def _make(function: Callable[..., Any], scope: _Scope, options: Mapping[str, Any]) -> Tool:
    plain = inspect.unwrap(function)
    local = getattr(plain, "__globals__", None) is scope.module and "<locals>" in getattr(plain, "__qualname__", "")
    return make_tool(function, scope=scope.local if local else {}, **options)


def _checked_name(name: Any) -> str:
    if isinstance(name, str) and name.strip() and clean_text(name) == name:
        return name
    raise DeclarationError('A TaskEngine needs a name: TaskEngine("reports")')


def _text(name: str, option: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and clean_text(value) == value):
        return value
    raise DeclarationError(f"{name}: {option} is {value!r}: give text, without NUL and halves of surrogate pairs")
