"""A Python function that the model may call.

What a function takes, its schema and its definition are read once, when a class first needs them, and belong to the
class; what belongs to an instance is the bound function and `enabled`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast, get_args, overload

from ..errors import FunctionCallException, FunctionSpecError, ToolArgumentsError
from ..kinds import NUMBER, TEXT_OR_NONE, Kinds, problem
from .approval import ApprovalRule
from .base import NAME_RULE, Tool, ToolReturnValue, is_safe_name
from .context import context_here
from .param import AIParam
from .results import to_return_value
from .running import failure, run
from .texts import DEFAULT_TEXTS, MARKED_TEXTS, ToolTexts, tool_error_from

if TYPE_CHECKING:
    from .signature import Signature

__all__ = ["AIFunction", "AIParam", "ai_function", "as_function", "functions_of"]

F = TypeVar("F", bound="Callable[..., Any] | staticmethod[..., Any] | classmethod[Any, ..., Any]")
After = Literal["assistant", "user"]


class FunctionOptions(TypedDict, total=False):
    """What the author of a function may say about it beside its code; `ai_function` tells what each means."""

    after: After
    name: str | None
    desc: str | None
    auto_retry: bool
    json_schema: Mapping[str, Any] | None
    auto_truncate: int | None
    enabled: bool
    timeout: float | None
    sequential: bool
    approval: ApprovalRule
    fatal: tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class _Options:
    """`FunctionOptions`, all of them."""

    after: After = "assistant"
    name: str | None = None
    desc: str | None = None
    auto_retry: bool = True
    json_schema: Mapping[str, Any] | None = None
    auto_truncate: int | None = None
    enabled: bool = True
    timeout: float | None = None
    sequential: bool = False
    approval: ApprovalRule = False
    fatal: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if (wrong := problem(_KINDS, self.as_dict())) is not None:
            raise FunctionSpecError(wrong)

    def as_dict(self) -> FunctionOptions:
        """The same by name."""
        return cast(FunctionOptions, {field.name: getattr(self, field.name) for field in fields(self)})


def _is_one_of_two(after: Any) -> bool:
    return after in get_args(After)


def _is_mapping(schema: Any) -> bool:
    return schema is None or isinstance(schema, Mapping)


def _is_above_zero(timeout: Any) -> bool:
    return timeout is None or (isinstance(timeout, NUMBER) and timeout > 0)


def _is_rule(approval: Any) -> bool:
    return isinstance(approval, bool) or callable(approval)


def _are_exceptions(fatal: Any) -> bool:
    kinds = cast(tuple[Any, ...], fatal) if isinstance(fatal, tuple) else (None,)
    return all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds)


_KINDS: Final[Kinds] = {
    "after": (_is_one_of_two, "'assistant' or 'user'"),
    "name": (TEXT_OR_NONE, "text, or None"),
    "desc": (TEXT_OR_NONE, "text, or None"),
    "json_schema": (_is_mapping, "a mapping, or None"),
    "auto_truncate": (NUMBER | None, "a number of characters, or None"),
    "timeout": (_is_above_zero, "more than 0 seconds, or None"),
    "approval": (_is_rule, "true, false, or a function of the arguments"),
    "fatal": (_are_exceptions, "a tuple of classes of exceptions"),
}


@dataclass(frozen=True, slots=True)
class _Spec:
    """All that does not depend on an instance."""

    tool: Tool
    options: _Options
    signature: Signature
    in_thread: bool


def _spec_of(function: Any, options: _Options) -> _Spec:
    from .signature import is_async, name_of, qualified_name_of, read_signature  # only who has functions pays for it

    signature = read_signature(function, json_schema=options.json_schema)
    name = _checked_name(options.name or name_of(function), qualified_name_of(function))
    description = signature.description if options.desc is None else options.desc
    tool = Tool(name=name, description=description, parameters=cast(Any, signature.json_schema))
    return _Spec(tool, options, signature, in_thread=not is_async(function))


def _checked_name(name: str, where: str) -> str:
    if not is_safe_name(name):
        raise FunctionSpecError(f"{where}: Kimi refuses the function name {name!r}; pass name= with {NAME_RULE}")
    return name


class AIFunction:
    """A function that the model may call, made from any callable. Decorated methods become one by themselves.

    A function that is no `async def` runs in a thread. `await function(**arguments)` checks the arguments and gives
    what the function returns.

    Args:
        inner: a function, bound method, partial or callable object; every parameter has a type.
        after: who speaks after the call: the assistant, or the user.
        name: for the model; the function's own name unless given.
        desc: when to call it and what it gives; the docstring unless given.
        auto_retry: whether the model may try again after an error.
        json_schema: describes the arguments instead of the generated schema; they are checked against the types.
        auto_truncate: the most characters of a result that the model gets.
        enabled: whether the model is told of it; may be changed at any time.
        timeout: seconds until a call is given up; unless given, what the agent says. `math.inf` is no limit.
        sequential: whether it runs alone: after the calls before it in the message, and before those after it.
        approval: whether somebody has to approve each call, or a function of the checked arguments that says so.
        fatal: exceptions that the model is not asked to mend: they end the round.

    Raises:
        FunctionSpecError: the function cannot be described to a model, or an option is none.
    """

    __slots__ = ("__weakref__", "_inner", "_spec", "enabled")

    enabled: bool

    def __init__(
        self,
        inner: Callable[..., Any],
        *,
        after: After = "assistant",
        name: str | None = None,
        desc: str | None = None,
        auto_retry: bool = True,
        json_schema: Mapping[str, Any] | None = None,
        auto_truncate: int | None = None,
        enabled: bool = True,
        timeout: float | None = None,
        sequential: bool = False,
        approval: ApprovalRule = False,
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        options = _Options(
            after=after,
            name=name,
            desc=desc,
            auto_retry=auto_retry,
            json_schema=json_schema,
            auto_truncate=auto_truncate,
            enabled=enabled,
            timeout=timeout,
            sequential=sequential,
            approval=approval,
            fatal=fatal,
        )
        self._spec = _spec_of(inner, options)
        self._inner = inner
        self.enabled = enabled

    def __repr__(self) -> str:
        from .signature import qualified_name_of

        return f"AIFunction({self.name!r}, {qualified_name_of(self._inner)})"

    @property
    def inner(self) -> Callable[..., Any]:
        """The function itself."""
        return self._inner

    @property
    def name(self) -> str:
        """The name that the model uses."""
        return self._spec.tool.name

    @property
    def desc(self) -> str:
        """What the model is told about it."""
        return self._spec.tool.description

    @property
    def after(self) -> After:
        """Who speaks after the call."""
        return self._spec.options.after

    @property
    def auto_retry(self) -> bool:
        """Whether the model may try again after an error."""
        return self._spec.options.auto_retry

    @property
    def auto_truncate(self) -> int | None:
        """The most characters of a result that the model gets; `None` for no limit."""
        return self._spec.options.auto_truncate

    @property
    def timeout(self) -> float | None:
        """Seconds until a call is given up; `None`: as the agent says."""
        return self._spec.options.timeout

    @property
    def sequential(self) -> bool:
        """Whether it runs alone."""
        return self._spec.options.sequential

    @property
    def approval(self) -> ApprovalRule:
        """Whether somebody has to approve its calls, or what says so."""
        return self._spec.options.approval

    @property
    def fatal(self) -> tuple[type[Exception], ...]:
        """The exceptions that end the round."""
        return self._spec.options.fatal

    @property
    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments, a copy at each access."""
        return copy.deepcopy(self._spec.signature.json_schema)

    @property
    def base(self) -> Tool:
        """The definition for the model; always the same object."""
        return self._spec.tool

    @property
    def in_thread(self) -> bool:
        """Whether it runs in a thread, where it cannot be stopped."""
        return self._spec.in_thread

    def takes_whole(self, value: object) -> str | None:
        """The name of the only parameter, if that takes `value` as it is; else its fields are the arguments."""
        only = self._spec.signature.only
        return only[0] if only is not None and isinstance(value, only[1]) else None

    async def __call__(self, /, **arguments: Any) -> Any:
        """Run the function with checked arguments and give what it returns.

        Raises:
            ToolArgumentsError: the arguments do not fit.
            BaseException: what the function raises.
        """
        return await self._run(self._spec.signature.validate(arguments, retry=self.auto_retry))

    async def invoke(self, arguments: Mapping[str, Any], *, texts: ToolTexts = DEFAULT_TEXTS) -> ToolReturnValue:
        """Check the arguments, run the function and convert what it returns for the model.

        Args:
            arguments: by name, as JSON gives them.
            texts: what to say for `None`.

        Raises:
            ToolArgumentsError: the arguments do not fit.
            WrappedCallException: the function raised, or its result has no text.
        """
        values = self._checked(arguments)
        try:
            return to_return_value(await self._run(values), texts, self.auto_truncate)
        except BaseException as error:
            raise failure(error, self.auto_retry)  # noqa: B904

    async def call(self, arguments: Any) -> ToolReturnValue:
        """Like `invoke`, with what goes wrong as a value."""
        try:
            return await self.invoke(arguments, texts=MARKED_TEXTS)
        except FunctionCallException as error:
            return tool_error_from(error, MARKED_TEXTS)

    async def check_arguments(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments as the function would get them, by name.

        Raises:
            ToolArgumentsError: they do not fit.
            WrappedCallException: a validator of the function's author raised.
        """
        return self._checked(arguments)

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._spec.signature.validate(arguments, retry=self.auto_retry)
        except ToolArgumentsError:
            raise
        except BaseException as error:
            raise failure(error, self.auto_retry)  # noqa: B904  the cause is set, or it is the error itself

    async def _run(self, values: dict[str, Any]) -> Any:
        values.update(dict.fromkeys(self._spec.signature.contexts, context_here()))
        return await run(self._inner, self._spec.in_thread, **values)


# ==== decorated methods ====

_TAG: Final = "__ai_function__"
_TABLE: Final = "__ai_functions__"


@overload
def ai_function(func: F, **options: Unpack[FunctionOptions]) -> F: ...
@overload
def ai_function(func: None = None, **options: Unpack[FunctionOptions]) -> Callable[[F], F]: ...
def ai_function(
    func: Any = None,
    *,
    after: After = "assistant",
    name: str | None = None,
    desc: str | None = None,
    auto_retry: bool = True,
    json_schema: Mapping[str, Any] | None = None,
    auto_truncate: int | None = None,
    enabled: bool = True,
    timeout: float | None = None,
    sequential: bool = False,
    approval: ApprovalRule = False,
    fatal: tuple[type[Exception], ...] = (),
) -> Any:
    """Mark a method as one that the model may call. Works as `@ai_function` and as `@ai_function(...)`.

    The method stays what it is; it is read when an instance of its class first needs it. `@staticmethod` and
    `@classmethod` may stand above or below. A subclass that overrides the method without decorating it takes it away
    from the model.

    Args:
        func: the method.
        after: who speaks after the call: the assistant, or the user.
        name: for the model; the method's own name unless given.
        desc: when to call it and what it gives; the docstring unless given.
        auto_retry: whether the model may try again after an error.
        json_schema: describes the arguments instead of the generated schema; they are checked against the types.
        auto_truncate: the most characters of a result that the model gets.
        enabled: whether the model may call it at first.
        timeout: seconds until a call is given up; unless given, what the agent says. `math.inf` is no limit.
        sequential: whether it runs alone: after the calls before it in the message, and before those after it.
        approval: whether somebody has to approve each call, or a function of the checked arguments that says so.
        fatal: exceptions that the model is not asked to mend: they end the round.

    Raises:
        FunctionSpecError: an option is none.
    """
    options = _Options(
        after=after,
        name=name,
        desc=desc,
        auto_retry=auto_retry,
        json_schema=json_schema,
        auto_truncate=auto_truncate,
        enabled=enabled,
        timeout=timeout,
        sequential=sequential,
        approval=approval,
        fatal=fatal,
    )
    tag = _Tag(options)

    def mark(function: F) -> F:
        try:
            setattr(_undescribed(function), _TAG, tag)
        except AttributeError:
            raise FunctionSpecError(f"{function!r} cannot be decorated; wrap it with AIFunction(...)") from None
        return function

    return mark if func is None else mark(func)


def as_function(function: Callable[..., Any]) -> AIFunction:
    """Any callable as one that the model may call, as its decorator says if it has one.

    Raises:
        FunctionSpecError: it cannot be described to a model.
    """
    tag = _tag_of(function)
    return AIFunction(function) if tag is None else AIFunction(function, **tag.options.as_dict())


class _Tag:
    """What the decorator leaves on a function, and where its spec is kept for all classes that inherit it."""

    __slots__ = ("_function", "_spec", "options")

    def __init__(self, options: _Options) -> None:
        self.options = options
        self._function: Any = None
        self._spec: _Spec | None = None

    def spec_of(self, attribute: Any, owner: type) -> _Spec:
        """The spec of the function that `attribute` of the class `owner` is. Decorators above copy the tag."""
        if self._spec is None or self._function is not attribute:
            self._function, self._spec = attribute, _spec_of(_bound_to_class(attribute, owner), self.options)
        return self._spec


def functions_of(owner: object) -> dict[str, AIFunction]:
    """The decorated methods of `owner`, bound to it, by name.

    They come in the order of their definition, those of base classes first; an override keeps the place of what it
    overrides. Nothing of `owner` is executed. A class is read once, so methods that it gets later are not seen.

    Raises:
        FunctionSpecError: a method cannot be described to a model, or two have the same name.
    """
    cls = type(owner)
    table: tuple[_Row, ...] | None = cls.__dict__.get(_TABLE)
    if table is None:
        table = _read_class(cls)
    functions: dict[str, AIFunction] = {}
    new = AIFunction.__new__
    for name, bind, spec, enabled in table:  # an `__init__` per function would be half of the cost of an agent
        functions[name] = function = new(AIFunction)
        function._inner = bind(owner)
        function._spec = spec
        function.enabled = enabled
    return functions


_Row: TypeAlias = tuple[str, Callable[[Any], Callable[..., Any]], _Spec, bool]
"""A decorated method: its name for the model, what binds it to an instance, its spec, whether it starts enabled."""


def _read_class(cls: type) -> tuple[_Row, ...]:
    """The table of `cls`, kept in the class itself, so that it lives as long and no longer."""
    table = tuple(_rows(cls))
    with suppress(TypeError):  # a class built into Python takes no attributes, and has no decorated methods
        type.__setattr__(cls, _TABLE, table)
    return table


def _rows(cls: type) -> Iterator[_Row]:
    places: dict[str, str] = {}
    for key, (attribute, owner) in _decorated(cls).items():
        spec = _tag_of(attribute).spec_of(attribute, owner)
        name, place = spec.tool.name, f"{owner.__qualname__}.{key}"
        if name in places:
            raise FunctionSpecError(f"{places[name]} and {place} both have the name {name!r}; give one another name=")
        places[name] = place
        yield name, _binder(attribute), spec, spec.options.enabled


def _decorated(cls: type) -> dict[str, tuple[Any, type]]:
    """The decorated attributes of `cls` by their keys, with the classes that define them."""
    found: dict[str, tuple[Any, type]] = {}
    for owner in reversed(cls.__mro__):
        for key, attribute in vars(owner).items():
            if _tag_of(attribute) is not None:
                found[key] = attribute, owner
            else:
                found.pop(key, None)
    return found


def _tag_of(attribute: Any) -> Any:
    """The tag of a decorated attribute, else `None`. Looks into `__dict__` only, so that no code of the owner runs."""
    return getattr(_undescribed(attribute), "__dict__", {}).get(_TAG)


def _undescribed(attribute: Any) -> Any:
    """The function inside a static or class method."""
    return cast(Any, attribute).__func__ if isinstance(attribute, staticmethod | classmethod) else attribute


def _bound_to_class(attribute: Any, owner: type) -> Callable[..., Any]:
    """`attribute` as an instance would have it, without an instance."""
    if isinstance(attribute, classmethod) or (not isinstance(attribute, staticmethod) and _binds(attribute)):
        return MethodType(_undescribed(attribute), owner)
    return _undescribed(attribute)


def _binder(attribute: Any) -> Callable[[Any], Callable[..., Any]]:
    return attribute.__get__ if _binds(attribute) else lambda owner: attribute


def _binds(attribute: Any) -> bool:
    return hasattr(cast(type[object], type(attribute)), "__get__")
