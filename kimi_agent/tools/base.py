"""A tool as the model sees it, and what calling it gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Protocol, Self, TypeAlias, cast
from weakref import WeakValueDictionary

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from ..message import (
    KEEP_UNKNOWN,
    ContentPart,
    FrozenMapping,
    Message,
    OpenValue,
    TextPart,
    UnknownData,
    Value,
    absent,
    as_it_came,
)

__all__ = [
    "BriefDisplayBlock",
    "DisplayBlock",
    "Tool",
    "ToolError",
    "ToolLike",
    "ToolMessage",
    "ToolNotFoundError",
    "ToolOk",
    "ToolParseError",
    "ToolResult",
    "ToolReturnValue",
    "ToolRuntimeError",
    "ToolValidateError",
    "ToolsPart",
    "UnknownDisplayBlock",
    "is_safe_name",
]


class Tool(Value):
    """The definition of a tool: what the model is told about it.

    Args:
        name: letters, digits, `_` and `-`.
        description: when to call it and what it gives.
        parameters: JSON Schema of its arguments; the root is an object.
    """

    name: str
    description: str
    parameters: FrozenMapping


_SAFE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{2,63}")
NAME_RULE: Final = "3 to 64 letters of a-z, digits, `_` and `-`, not starting with a digit or `-`"
"""What every version of Kimi's documentation and of its checks takes as a name."""


def is_safe_name(name: str) -> bool:
    """Whether Kimi takes it as the name of a tool, wherever Kimi runs."""
    return _SAFE_NAME.fullmatch(name) is not None


class ToolsPart(ContentPart):
    """Tools that a system message declares half-way; the cached beginning of the prompt stays as it is.

    It is all that its message has: `Message.system(ToolsPart(tools=[tool]))`. Kimi K3 knows this, older models do not.
    """

    type: str = "tools"
    tools: tuple[Tool, ...]

    made: ClassVar[bool] = False
    """Whether this process has ever had one. Most never do, and need not look for any."""

    def model_post_init(self, context: Any, /) -> None:
        """Remember that there is one."""
        super().model_post_init(context)
        ToolsPart.made = True

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        ToolsPart.made = True

    if TYPE_CHECKING:  # what is accepted is more than what is kept

        def __init__(self, *, tools: Sequence[Tool], extra: Mapping[str, Any] = ...) -> None: ...


class ToolLike(Protocol):
    """Something the model may call."""

    @property
    def base(self) -> Tool:
        """Its definition."""
        ...

    async def call(self, arguments: Any) -> ToolReturnValue:
        """Run it with the parsed arguments. Never raises: what goes wrong is a value with `is_error`."""
        ...


# ==== what the user sees of a result ====


class DisplayBlock(OpenValue):
    """Something about a tool result for the user's eyes; it never reaches the model.

    Subclass it with a `type` of its own, like `ContentPart`.
    """

    _family: ClassVar[dict[str, type[OpenValue]]] = {}

    @classmethod
    def _unknown(cls, kind: str, data: dict[str, Any], extra: Any) -> UnknownDisplayBlock:
        return UnknownDisplayBlock(type=kind, data=data, extra=extra)


class BriefDisplayBlock(DisplayBlock):
    """One line."""

    type: str = "brief"
    text: str


class UnknownDisplayBlock(DisplayBlock):
    """A block of a type that this version does not know, kept as it came."""

    type: str
    data: UnknownData

    @model_serializer
    def _as_it_came(self) -> dict[str, Any]:
        return as_it_came(self.type, self.data, self.extra)


# ==== what a call gives ====


def _as_output(output: Any) -> Any:
    if isinstance(output, ContentPart):
        return (output,)
    if isinstance(output, Sequence) and not isinstance(output, str):
        items = cast(Sequence[Any], output)
        return tuple(TextPart(text=item) if isinstance(item, str) else item for item in items)
    return output


_CLASS: Final = "class"
"""The key that tells in JSON which subclass a value is of. No field can have this name."""

_classes: Final[WeakValueDictionary[str, type[ToolReturnValue]]] = WeakValueDictionary()


def _class_name(cls: type) -> str:
    """Ours by their public names, others by their full ones."""
    return cls.__name__ if cls.__module__.startswith("kimi_agent.") else f"{cls.__module__}.{cls.__qualname__}"


_being_written: Final[ContextVar[object]] = ContextVar("kimi_agent_being_written", default=None)
"""The result whose class has begun to write it: a container begins with what it knows, which is the base class."""


class ToolReturnValue(Value):
    """What a tool gives back.

    Values are equal if their fields are: `ToolOk(output="5") == ToolReturnValue(is_error=False, output="5")`. JSON
    keeps the class; one that is not there when the JSON is read is kept as a name.

    Args:
        is_error: the call went wrong.
        output: for the model: text, or content parts.
        message: a note for the model beside the output, such as what went wrong.
        display: for the user.
        extras: anything else that belongs to the result; neither the model nor the user sees it.
    """

    is_error: bool
    output: Annotated[str | tuple[ContentPart, ...], BeforeValidator(_as_output)] = ""
    message: str = ""
    display: tuple[DisplayBlock, ...] = ()
    extras: FrozenMapping | None = absent()

    if TYPE_CHECKING:  # what is accepted is more than what is kept

        def __init__(
            self,
            *,
            is_error: bool,
            output: Output = "",
            message: str = "",
            display: Sequence[DisplayBlock] = (),
            extras: Mapping[str, Any] | None = None,
            extra: Mapping[str, Any] = ...,
        ) -> None: ...

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        fields = {name for key, field in cls.model_fields.items() for name in (key, field.alias)}
        if taken := fields & {_CLASS, "brief"}:
            raise TypeError(
                f"{cls.__name__} cannot have a field {taken.pop()!r}, which means something else in a result"
            )
        _classes[_class_name(cls)] = cls

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, context: Any = None) -> Self:
        """One from its fields, whatever its own constructor takes."""
        return cls.__pydantic_validator__.validate_python(fields, self_instance=cls.__new__(cls), context=context)

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_class(cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if not isinstance(value, Mapping) or _CLASS not in value:
            return handler(value)
        fields = dict(cast(Mapping[str, Any], value))
        known = _classes.get(str(fields[_CLASS]))
        if known is not None and issubclass(known, cls):
            fields = {name: item for name, item in fields.items() if name not in known._worked_out()}
            plain = known is cls and not cls.__pydantic_custom_init__
            return handler(fields) if plain else known.from_fields(fields, context=info.context)
        if known is not None:
            raise ValueError(f"this is a {known.__name__}, not a {cls.__name__}")
        return handler(value) if info.context is KEEP_UNKNOWN else cls.from_fields(fields, context=KEEP_UNKNOWN)

    @classmethod
    def _worked_out(cls) -> set[str]:
        """What its JSON has that is no field: a constructor would refuse it."""
        computed = cls.model_computed_fields.items()
        return {_CLASS, *(name for key, field in computed for name in (key, field.alias or key))}

    @model_validator(mode="before")
    @classmethod
    def _with_brief(cls, fields: Any) -> Any:
        """`brief=` is short for a display of one `BriefDisplayBlock`."""
        given: dict[str, Any] = dict(cast("dict[str, Any]", fields)) if isinstance(fields, dict) else {}
        if "brief" not in given or _CLASS in given:  # of a class that nobody knows it is a field of its own
            return cast(Any, fields)
        text = given.pop("brief")
        return {**given, "display": (BriefDisplayBlock(text=text), *given.get("display", ()))} if text else given

    @model_serializer(mode="wrap")
    def _with_class(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        if type(self).model_fields.keys() == ToolReturnValue.model_fields.keys() or _being_written.get() is self:
            fields = handler(self)
            return fields if type(self) is ToolReturnValue else {_CLASS: _class_name(type(self)), **fields}
        token = _being_written.set(self)
        try:
            return type(self).__pydantic_serializer__.to_python(self, **_settings(info))
        finally:
            _being_written.reset(token)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ToolReturnValue):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((self.is_error, self.output, self.message))

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields} | (self.__pydantic_extra__ or {})

    def copy_with(self, **changes: Any) -> Self:
        """Another value with some fields changed, of the same class."""
        fields = self._fields()
        if unknown := changes.keys() - fields.keys():
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        return self.from_fields({**fields, **changes}, context=KEEP_UNKNOWN)

    @property
    def brief(self) -> str:
        """The text of the first `BriefDisplayBlock`; `""` without one."""
        return next((block.text for block in self.display if isinstance(block, BriefDisplayBlock)), "")


class ToolOk(ToolReturnValue):
    """A call that went well.

    Args:
        output: for the model: text, or content parts.
        message: a note for the model beside the output.
        brief: a line for the user.
        fields: of a subclass.
    """

    is_error: Literal[False] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    output: Annotated[str | tuple[ContentPart, ...], BeforeValidator(_as_output)] = Field()

    if TYPE_CHECKING:

        def __init__(self, *, output: Output, message: str = "", brief: str = "", **fields: Any) -> None: ...


class ToolError(ToolReturnValue):
    """A call that went wrong.

    Args:
        message: tells the model what went wrong.
        brief: a line for the user.
        output: for the model, beside the message.
        fields: of a subclass.
    """

    is_error: Literal[True] = True  # pyright: ignore[reportIncompatibleVariableOverride]
    message: str = Field()

    if TYPE_CHECKING:

        def __init__(self, *, message: str, brief: str, output: Output = "", **fields: Any) -> None: ...


class ToolNotFoundError(ToolError):
    """There is no tool `tool_name`."""

    def __init__(self, tool_name: str) -> None:
        super().__init__(message=f"Tool `{tool_name}` not found", brief=f"Tool `{tool_name}` not found")


class ToolParseError(ToolError):
    """The arguments are no JSON; `message` says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message=f"Error parsing JSON arguments: {message}", brief="Invalid arguments")


class ToolValidateError(ToolError):
    """The arguments do not fit the tool; `message` says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message=f"Error validating JSON arguments: {message}", brief="Invalid arguments")


class ToolRuntimeError(ToolError):
    """The tool raised; `message` says what."""

    def __init__(self, message: str) -> None:
        super().__init__(message=f"Error running tool: {message}", brief="Tool runtime error")


class ToolMessage(ToolReturnValue):
    """A call whose function wrote the whole result message itself."""

    written: Message


class ToolResult(Value):
    """What the call `tool_call_id` gave."""

    tool_call_id: str
    return_value: SerializeAsAny[ToolReturnValue]


def _settings(info: SerializationInfo) -> dict[str, Any]:
    """How a value is to be written, for another serializer."""
    names = ("mode", "by_alias", "round_trip", "context", "include", "exclude")
    names = (*names, "exclude_unset", "exclude_defaults", "exclude_none")
    return {name: getattr(info, name) for name in names}


Output: TypeAlias = str | ContentPart | Sequence[ContentPart | str]
"""What a tool's output can be made of."""
