"""From a function's signature to its arguments: their model, the context parameter, the return type."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ForwardRef, Never, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_json

from taskengine.content import is_protocol_type
from taskengine.context import Context, SyncContext
from taskengine.errors import DeclarationError, InvalidArguments
from taskengine.schema import Hides, PlainJsonSchema
from taskengine.sensitive import Sensitive

__all__ = ["Signature", "declares_structure", "read_signature", "return_schema"]

Parameter = inspect.Parameter


@dataclass(frozen=True, slots=True)
class Signature:
    """What a tool's function takes and gives."""

    model: type[BaseModel]
    names: Mapping[str, str]
    """Parameter by field of the model."""
    wire_names: tuple[str, ...]
    """The arguments as clients name them."""
    required: frozenset[str]
    """Those of them without a default."""
    sensitive: tuple[str, ...]
    """The arguments marked `Sensitive()`, as clients name them."""
    context: str | None
    """The parameter that takes the context."""
    takes_any: bool
    """The function has `**kwargs`."""
    returns: Any
    is_async: bool

    def schema(self) -> dict[str, Any]:
        """The 2020-12 input schema; without parameters the empty object (X-TOOL-10)."""
        if not self.names:
            return {"type": "object", "additionalProperties": False}
        document = self.model.model_json_schema(schema_generator=PlainJsonSchema)
        document.pop("title", None)
        return document

    def bind(self, arguments: Mapping[str, Any], context: Any, hides: Hides = lambda _: False) -> dict[str, Any]:
        """The keyword arguments for the function. Raises InvalidArguments, naming each that does not fit.

        Of a place that `hides` names nothing is said but that it does not fit: a validator may quote its value.
        """
        try:
            model = self.model.model_validate_json(to_json(arguments))
        except ValidationError as error:
            problems = "\n".join(_sentence(problem, hides) for problem in error.errors(include_url=False))
            raise InvalidArguments(problems) from None
        except (PydanticSerializationError, UnicodeEncodeError):
            raise InvalidArguments("a text in them is not valid Unicode: it has half a surrogate pair") from None
        bound = {parameter: getattr(model, name) for name, parameter in self.names.items()}
        if self.takes_any:
            bound.update(model.model_extra or {})
        if self.context is not None:
            bound[self.context] = context
        return bound


def read_signature(
    function: Callable[..., Any], what: str, scope: Mapping[str, Any], *, free: bool = False
) -> Signature:
    """Read `function`; names in its annotations are also looked up in `scope`.

    With `free` (a hand-written schema) parameters may be unannotated and `**kwargs` may take the rest.
    Raises DeclarationError, saying what to change, for a signature that cannot be a tool's.
    """
    call = function if inspect.isroutine(function) else getattr(function, "func", None) or type(function).__call__
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise DeclarationError(f"{what} is a generator: return the result, and report on the way with ctx.progress")
    try:
        signature = inspect.signature(function, eval_str=True, locals=_names_beside(call, scope))
    except NameError as error:
        raise DeclarationError(
            f"{what}: the annotations use {error.name!r}, which is not known when the tool is declared: "
            "import it at run time, not only for type checking"
        ) from None
    except (SyntaxError, TypeError, ValueError) as error:
        raise DeclarationError(f"{what}: its annotations cannot be read ({error})") from None

    context: str | None = None
    takes_any = False
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    for parameter in signature.parameters.values():
        kind = _context_kind(parameter.annotation)
        if kind is not None:
            if context is not None:
                raise DeclarationError(f"{what} has two context parameters, {context} and {parameter.name}: keep one")
            if is_async and kind is SyncContext:
                raise DeclarationError(f"{what} is async: annotate {parameter.name} as Context, not SyncContext")
            if parameter.kind is Parameter.POSITIONAL_ONLY:
                raise DeclarationError(f"{what}: {parameter.name} is positional-only: remove the `/`")
            context = parameter.name
        elif parameter.kind is Parameter.VAR_KEYWORD and free:
            takes_any = True
        else:
            field = f"p{len(fields)}"
            fields[field] = _field(parameter, what, free=free)
            names[field] = parameter.name
    model = _build(fields, names, what, extra="allow" if takes_any else "ignore" if free else "forbid")
    infos = model.model_fields.items()
    return Signature(
        model=model,
        names=names,
        wire_names=tuple(_wire_name(field, info) for field, info in infos),
        required=frozenset(_wire_name(field, info) for field, info in infos if info.is_required()),
        sensitive=tuple(_wire_name(field, info) for field, info in infos if any(map(_is_sensitive, info.metadata))),
        context=context,
        takes_any=takes_any,
        returns=signature.return_annotation,
        is_async=is_async,
    )


_CONTEXTS: dict[str, Any] = {"Context": Context, "SyncContext": SyncContext}


def _names_beside(call: Any, scope: Mapping[str, Any]) -> dict[str, Any]:
    """Names for annotations beside the function's module: those of `scope`, and ours for a module that imports them
    for type checking only."""
    module = getattr(inspect.unwrap(getattr(call, "__func__", call)), "__globals__", {})
    return {**{name: kind for name, kind in _CONTEXTS.items() if name not in module}, **scope}


def _context_kind(annotation: Any) -> type[Context] | type[SyncContext] | None:
    if get_origin(annotation) in {Annotated, Union, types.UnionType}:
        return next((kind for part in get_args(annotation) if (kind := _context_kind(part))), None)
    if isinstance(annotation, type) and issubclass(annotation, (Context, SyncContext)):
        return SyncContext if issubclass(annotation, SyncContext) else Context
    return None


def _field(parameter: inspect.Parameter, what: str, *, free: bool) -> Any:
    name, annotation = parameter.name, parameter.annotation
    if parameter.kind in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
        stars = "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**"
        advice = "" if stars == "*" else ", or give an input_schema"
        raise DeclarationError(f"{what} takes {stars}{name}: a tool's parameters are named, each with its type{advice}")
    if parameter.kind is Parameter.POSITIONAL_ONLY:
        raise DeclarationError(f"{what}: {name} is positional-only, but arguments come by name: remove the `/`")
    if annotation is Parameter.empty:
        if name in {"ctx", "context"}:
            raise DeclarationError(f"{what}: annotate {name} as Context, or give it the type of an argument")
        if not free:
            raise DeclarationError(f"{what}: {name} has no type: annotate it, or give an input_schema")
        annotation = Any
    default = ... if parameter.default is Parameter.empty else parameter.default
    given = [item for item in (*getattr(annotation, "__metadata__", ()), default) if isinstance(item, FieldInfo)]
    if any(info.alias or info.validation_alias for info in given):
        return (annotation, default)
    return (Annotated[annotation, Field(alias=name)], default)


def _build(fields: dict[str, Any], names: dict[str, str], what: str, extra: Any) -> type[BaseModel]:
    config = ConfigDict(extra=extra, protected_namespaces=())
    try:
        model: type[BaseModel] = create_model("Arguments", __config__=config, **fields)
        model.model_json_schema(schema_generator=PlainJsonSchema)
    except (PydanticUserError, PydanticInvalidForJsonSchema, TypeError) as error:
        for field, definition in fields.items():
            try:
                create_model("One", **{field: definition}).model_json_schema()
            except (PydanticUserError, PydanticInvalidForJsonSchema, TypeError) as reason:
                raise DeclarationError(
                    f"{what}: the type of {names[field]} has no JSON form: use a plain type, a model or a dataclass "
                    f"({_first_line(reason)})"
                ) from None
        raise DeclarationError(f"{what}: its parameters cannot be read: {_first_line(error)}") from None
    return model


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _wire_name(field: str, info: FieldInfo) -> str:
    return info.validation_alias if isinstance(info.validation_alias, str) else info.alias or field


def _is_sensitive(mark: Any) -> bool:
    return isinstance(mark, Sensitive) or mark is Sensitive


def _sentence(problem: Any, hides: Hides) -> str:
    if hides(problem["loc"]):
        return f"`{problem['loc'][0]}` does not fit" if problem["loc"] else "they do not fit"
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"`{where.removeprefix('.')}`: {message}" if where else message


_UNSTRUCTURED: tuple[Any, ...] = (
    Parameter.empty, None, type(None), Any, str, object, list, tuple, NoReturn, Never,
)  # fmt: skip


def declares_structure(returns: Any) -> bool:
    """Whether a return annotation promises structured content: anything but text, blocks, whole results, None, Any."""
    if any(returns is plain for plain in _UNSTRUCTURED) or isinstance(returns, (str, ForwardRef)):
        return False
    origin = get_origin(returns)
    if origin is Annotated:
        return declares_structure(get_args(returns)[0])
    if origin in {Union, types.UnionType}:
        parts = [part for part in get_args(returns) if part is not type(None)]
        return not any(_has_content(part) for part in parts) and any(declares_structure(part) for part in parts)
    return not _has_content(returns)


def _has_content(annotation: Any) -> bool:
    """Whether content blocks or whole results occur in it."""
    if annotation is Any:
        return True
    if isinstance(annotation, type) and not get_args(annotation):
        return is_protocol_type(annotation) is not None
    return get_origin(annotation) in {list, tuple, Union, types.UnionType, Annotated} and any(
        _has_content(part) for part in get_args(annotation) if isinstance(part, type) or get_args(part)
    )


def return_schema(returns: Any, what: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """The adapter for a return type and its output schema. Raises DeclarationError when there is none."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(returns)
        schema = adapter.json_schema(mode="serialization", schema_generator=PlainJsonSchema)
    except (PydanticUserError, PydanticInvalidForJsonSchema, TypeError) as error:
        raise DeclarationError(
            f"{what}: the type it returns has no JSON form: return a plain type, a model or a dataclass, "
            f"or pass structured=False to send text only ({_first_line(error)})"
        ) from None
    return adapter, schema
