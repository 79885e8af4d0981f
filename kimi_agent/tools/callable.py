"""Tools that are classes: `CallableTool`, which has a JSON Schema, and `CallableTool2`, which has a pydantic model.

Subclass one, say its name, its description and what it takes, and write `__call__`. A `__call__` that is no
`async def` runs in a thread. What it returns is a `ToolReturnValue`; what it raises becomes one.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from types import SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from ..errors import FunctionCallException, FunctionSpecError, ToolArgumentsError
from .base import NAME_RULE, Tool, ToolReturnValue, is_safe_name
from .context import context_here
from .results import truncate
from .running import failure, run
from .texts import DEFAULT_TEXTS, MARKED_TEXTS, ToolTexts, fields_of, tool_error_from
from .threads import TOOL_THREADS

if TYPE_CHECKING:
    from .signature import Signature

__all__ = ["CallableTool", "CallableTool2", "check_return_type", "checked_value"]

Params = TypeVar("Params", bound=BaseModel)


class _Running(ABC):
    """How a tool runs that is a class."""

    @cached_property
    def in_thread(self) -> bool:
        """Whether it runs in a thread, where it cannot be stopped."""
        from .signature import is_async

        return not is_async(self)

    @property
    def base(self) -> Tool:
        """Its definition for the model; always the same object."""
        return self._base

    @cached_property
    @abstractmethod
    def _base(self) -> Tool: ...

    @abstractmethod
    async def _prepared(self, arguments: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """What to call it with, by position and by name.

        Raises:
            ToolArgumentsError: the arguments do not fit.
        """

    async def invoke(self, arguments: Any, *, texts: ToolTexts = DEFAULT_TEXTS) -> ToolReturnValue:
        """Check the arguments and run the tool.

        Args:
            arguments: as JSON gives them.
            texts: not needed; the tool says everything itself.

        Raises:
            ToolArgumentsError: the arguments do not fit.
            WrappedCallException: the tool raised, or returned something else than a `ToolReturnValue`.
        """
        positional, named = await self._checked(arguments)
        try:
            return checked_value(await run(cast(Any, self), self.in_thread, *positional, **named))
        except BaseException as error:
            raise failure(error, True)  # noqa: B904

    async def check_arguments(self, arguments: Any) -> Mapping[str, Any]:
        """The arguments as the tool would get them, by name; those by position under their numbers.

        Raises:
            ToolArgumentsError: they do not fit.
            WrappedCallException: a validator of the tool's author raised.
        """
        positional, named = await self._checked(arguments)
        if len(positional) == 1 and isinstance(positional[0], BaseModel):
            return dict(positional[0])
        given = {name: value for name, value in named.items() if name not in self._contexts}
        return {**{str(place): value for place, value in enumerate(positional)}, **given}

    async def _checked(self, arguments: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
        try:
            positional, named = await self._prepared(arguments)
        except ToolArgumentsError:
            raise
        except BaseException as error:  # from a validator of the tool's author
            raise failure(error, True)  # noqa: B904  the cause is set, or it is the error itself
        return positional, {**named, **dict.fromkeys(self._contexts, context_here())}

    @cached_property
    def _contexts(self) -> tuple[str, ...]:
        """The parameters of `__call__` that take the `ToolContext`."""
        from .signature import context_parameters

        return context_parameters(cast(Any, self).__call__)

    async def call(self, arguments: Any) -> ToolReturnValue:
        """Like `invoke`, with what goes wrong as a value."""
        try:
            return await self.invoke(arguments)
        except FunctionCallException as error:
            return tool_error_from(error, MARKED_TEXTS)


def checked_value(value: Any) -> ToolReturnValue:
    """What a tool returned, if it may.

    Raises:
        TypeError: it is no `ToolReturnValue`.
    """
    if isinstance(value, ToolReturnValue):
        return value
    raise TypeError(f"Invalid return type: {type(value).__name__}; a tool returns ToolOk, ToolError or their like")


def _check_name(name: str, owner: str) -> None:
    if not (is_safe_name(name) or name.startswith("$")):  # the latter are Kimi's own
        problem = f"Kimi refuses the name {name!r}" if name else "it has no name"
        raise FunctionSpecError(f"{owner}: {problem}; set it in the class, or pass name=, with {NAME_RULE}")


class CallableTool(Tool, _Running):
    """A tool whose arguments a JSON Schema describes.

        class Add(CallableTool):
            name: str = "add"
            description: str = "Add two integers."
            parameters: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}, ...}}

            async def __call__(self, a: int, b: int) -> ToolReturnValue:
                return ToolOk(output=str(a + b))

    The arguments are checked against `parameters`. An object is passed by name, an array by position, anything else as
    the only argument.

    Raises:
        FunctionSpecError: `parameters` is no JSON Schema, or Kimi refuses the name.
    """

    if TYPE_CHECKING:  # subclasses write it as what it is before it is frozen
        parameters: dict[str, Any]  # pyright: ignore[reportIncompatibleVariableOverride]

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[ToolReturnValue] | ToolReturnValue:
        """Run the tool."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise FunctionSpecError(f"{type(self).__name__}: {fields_of(error)}") from None
        _check_name(self.name, type(self).__name__)
        try:
            if not isinstance(self.parameters, Mapping):
                raise FunctionSpecError("the parameters are no JSON object")
            _validator(self._schema)
        except ValueError as error:
            raise FunctionSpecError(f"{type(self).__name__} ({self.name!r}): {error}") from error

    @cached_property
    def _base(self) -> Tool:
        return Tool(name=self.name, description=self.description, parameters=self.parameters)

    @cached_property
    def _schema(self) -> bytes:
        try:
            return to_json(self.parameters)
        except ValueError as error:
            raise FunctionSpecError(f"the parameters of {self.name!r} are no JSON: {error}") from error

    async def _prepared(self, arguments: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
        if _is_quick(self._schema, arguments):
            self._check(arguments)
        else:
            await TOOL_THREADS.run(self._check, arguments)
        positional, named = _spread(arguments)
        if self._parameters is not None:
            try:
                self._parameters.bind(*positional, **named, **dict.fromkeys(self._contexts))
            except TypeError as error:  # a schema may let through what no parameter takes
                raise ToolArgumentsError(str(error)) from None
        return positional, named

    @cached_property
    def _parameters(self) -> inspect.Signature | None:
        """Of `__call__` as it will be called; `None` when that cannot be told."""
        try:
            return inspect.signature(self.__call__, follow_wrapped=False)
        except (TypeError, ValueError):
            return None

    def _check(self, arguments: Any) -> None:
        from referencing.exceptions import Unresolvable

        try:
            problems = list(_problems(_validator(self._schema), arguments))
        except RecursionError:
            raise ToolArgumentsError("the arguments are nested too deeply") from None
        except Unresolvable as error:
            raise FunctionSpecError(
                f"the parameters of {self.name!r} refer to {error.ref}, which is not there"
            ) from None
        if problems:
            raise ToolArgumentsError("\n".join(problems))


class CallableTool2(_Running, Generic[Params]):
    """A tool whose arguments are a pydantic model.

        class AddParams(BaseModel):
            a: int
            b: int

        class Add(CallableTool2[AddParams]):
            name: str = "add"
            description: str = "Add two integers."
            params: type[AddParams] = AddParams

            async def __call__(self, params: AddParams) -> ToolReturnValue:
                return ToolOk(output=str(params.a + params.b))

    Args:
        name: for the model; that of the class unless given.
        description: when to call it and what it gives; that of the class unless given.
        params: the model; that of the class unless given.

    Raises:
        FunctionSpecError: one of them is neither given nor in the class, or is of another type.
    """

    name: str
    description: str
    params: type[Params]

    def __init__(
        self, name: str | None = None, description: str | None = None, params: type[Params] | None = None
    ) -> None:
        self.name = self._given("name", name)
        self.description = self._given("description", description)
        self.params = self._given("params", params)
        if not isinstance(self.name, str) or not isinstance(self.description, str):
            raise FunctionSpecError(f"{type(self).__name__}: name and description are texts")
        _check_name(self.name, type(self).__name__)
        if not (isinstance(self.params, type) and issubclass(self.params, BaseModel)):
            raise FunctionSpecError(f"{type(self).__name__}: params is a pydantic model, not {self.params!r}")
        self.base  # noqa: B018  now is the time to complain

    def _given(self, field: str, value: Any) -> Any:
        value = getattr(self, field, None) if value is None else value
        if not value:
            raise FunctionSpecError(f"{type(self).__name__} has no {field}; set it in the class, or pass {field}=")
        return value

    @abstractmethod
    def __call__(self, params: Params) -> Awaitable[ToolReturnValue] | ToolReturnValue:
        """Run the tool."""

    @cached_property
    def _base(self) -> Tool:
        parameters = _signature(self.params).json_schema
        return Tool(name=self.name, description=self.description, parameters=cast(Any, parameters))

    async def _prepared(self, arguments: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
        return (_signature(self.params).validate(arguments),), {}


def _spread(arguments: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Arguments by position and by name: an array, an object, or the only one."""
    if isinstance(arguments, list):
        return cast("list[Any]", arguments), {}
    return ((), cast("dict[str, Any]", arguments)) if isinstance(arguments, dict) else ((arguments,), {})


@lru_cache(maxsize=512)
def _signature(params: type[BaseModel]) -> Signature:
    from .signature import model_signature

    return model_signature(params)


# ==== arguments that a JSON Schema describes ====

_MAX_PROBLEMS: Final = 20
_MAX_SHOWN: Final = 200


_SLOW_KEYWORDS: Final = (b'"$ref"', b'"$dynamicRef"', b'"pattern', b'"uniqueItems"')
"""They can take any time: references that branch, patterns that backtrack, each item compared with each."""
_QUICK_LENGTH: Final = 50_000


def _is_quick(schema: bytes, arguments: Any) -> bool:
    """Whether the arguments can be checked on the event loop."""
    return not any(word in schema for word in _SLOW_KEYWORDS) and len(repr(arguments)) < _QUICK_LENGTH


@lru_cache(maxsize=512)
def _validator(schema: bytes) -> Any:
    """Checks values against the JSON Schema `schema`. It fetches nothing: what a reference leads to is in there."""
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    decoded = json.loads(schema)
    try:
        kind: Any = validator_for(decoded, default=Draft202012Validator)
        kind.check_schema(decoded)
    except (AttributeError, TypeError):
        raise FunctionSpecError("the parameters are no JSON Schema: $schema is no text") from None
    except SchemaError as error:
        raise FunctionSpecError(f"the parameters are no JSON Schema: {error.json_path}: {error.message}") from None
    return kind(decoded, registry=cast(Any, Registry)())


def _problems(validator: Any, arguments: Any) -> Iterator[str]:
    """A line for each thing that is wrong: where, and what."""
    for number, error in enumerate(validator.iter_errors(arguments)):
        if number == _MAX_PROBLEMS:
            yield "and more problems"
            return
        path = truncate(error.json_path.removeprefix("$").removeprefix("."), _MAX_SHOWN)
        text = truncate(error.message, _MAX_SHOWN)
        yield f"{path}: {text}" if path else text


# ==== what __call__ says that it returns ====


def check_return_type(tool: object) -> None:
    """Refuse a tool of this room that says that it returns something else than a `ToolReturnValue`.

    A union of subclasses will do, and so will nothing. What cannot be resolved is believed.

    Raises:
        FunctionSpecError: it is refused; the text names the tool and the annotation.
    """
    if not isinstance(tool, _Running):
        return
    wanted = _return_type(cast(Any, type(tool)).__call__)
    if not _is_return_value(wanted):
        raise FunctionSpecError(
            f"{type(tool).__name__}.__call__ returns {_shown(wanted)}; a tool returns a ToolReturnValue, "
            "such as ToolOk or ToolError; wrap other functions: AIFunction(...)"
        )


def _return_type(function: Any) -> Any:
    """What `function` says that it returns; `Any` when it says nothing, or names what only type checkers know."""
    said = {key: hint for key, hint in getattr(function, "__annotations__", {}).items() if key == "return"}
    try:
        hints = get_type_hints(SimpleNamespace(__annotations__=said), globalns=getattr(function, "__globals__", {}))
    except Exception:
        return Any
    return hints.get("return", Any)


def _is_return_value(annotation: Any) -> bool:
    if (value := getattr(annotation, "__value__", None)) is not None:  # of a `type` statement
        return _is_return_value(value)
    if isinstance(annotation, TypeVar):
        return annotation.__bound__ is None or _is_return_value(annotation.__bound__)
    if annotation is Any:
        return True
    if get_origin(annotation) in (Union, UnionType, Awaitable):
        return all(map(_is_return_value, get_args(annotation)))
    return isinstance(annotation, type) and issubclass(annotation, ToolReturnValue)


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
