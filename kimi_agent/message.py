"""The values of a conversation: messages, their parts, tool calls, token usage.

All of them are frozen, compare by value and hash. Sequences are tuples (lists are accepted), mappings are `FrozenDict`.
To change a value, build another one with `copy_with`.

Each value has an `extra` mapping for its owner: it is saved and never sent. A field that this version does not know is
refused in a constructor, where it is a typing mistake, and kept in a saved file of a newer version (`KEEP_UNKNOWN`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    NoReturn,
    Self,
    TypeAlias,
    TypeVar,
    cast,
)
from uuid import uuid4

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    model_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema, from_json

from .errors import ToolArgumentsError

__all__ = [
    "AudioURLPart",
    "ContentPart",
    "FrozenDict",
    "ImageURLPart",
    "Message",
    "Role",
    "StreamedMessagePart",
    "TextPart",
    "ThinkPart",
    "TokenUsage",
    "ToolCall",
    "ToolCallPart",
    "UnknownPart",
    "VideoURLPart",
]

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
"""Who said a message."""


class KeepUnknown:
    """Validation context for saved files: fields of newer versions are kept, at every depth."""

    __slots__ = ()


KEEP_UNKNOWN: Final = KeepUnknown()
"""The plain one. Who needs more while a file is read subclasses `KeepUnknown`."""

T = TypeVar("T")


# ==== frozen containers ====


class FrozenDict(dict[str, Any]):
    """A dict that cannot change, and therefore hashes."""

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("this mapping belongs to a frozen value; use copy_with(...) to build another one")

    __setitem__ = __delitem__ = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]
    clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore[reportAssignmentType]

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> FrozenDict:
        return self

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """`value` with every mapping, list and set in it made immutable."""
    if isinstance(value, FrozenDict):
        return value
    if isinstance(value, Mapping):
        return FrozenDict({key: freeze(item) for key, item in cast(Mapping[str, Any], value).items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in cast(Sequence[Any], value))
    if isinstance(value, set | frozenset):
        return frozenset(cast(set[Any], value))
    return value


_EMPTY: Final = FrozenDict()
FrozenMapping = Annotated[Mapping[str, Any], AfterValidator(freeze)]


def _is_none(value: object) -> bool:
    return value is None


def is_zero(value: int) -> bool:
    return value == 0


def _is_empty(value: Mapping[str, Any]) -> bool:
    return not value


def absent(default: None = None) -> Any:
    """A field that is left out of the JSON when it is `None`."""
    return Field(default=default, exclude_if=_is_none)


# ==== the base of all values ====


class _FieldsSignature:
    """What `help` shows of a value's constructor. pydantic has no signature before a class is first used."""

    def __get__(self, value: object, owner: type[BaseModel]) -> Signature:
        if owner.__pydantic_custom_init__:
            own = signature(owner.__init__)
            return own.replace(parameters=tuple(own.parameters.values())[1:])
        fields = sorted(owner.model_fields.items(), key=lambda item: item[0] == "extra")
        parameters = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                annotation=field.annotation,
                default=Parameter.empty if field.is_required() else _default_of(field),
            )
            for name, field in fields
        ]
        return Signature(parameters)


def _default_of(field: FieldInfo) -> object:
    """What a field is where nobody says; `...` for what is found out for each value."""
    return ... if field.default_factory is not None else field.get_default()


class Value(BaseModel):
    """Frozen, equal by value, hashable; unknown fields are refused unless they come out of a saved file."""

    model_config = ConfigDict(
        frozen=True, extra="allow", defer_build=True, validate_by_name=True, validate_by_alias=True
    )

    if not TYPE_CHECKING:
        __signature__ = _FieldsSignature()

    extra: FrozenMapping = Field(default=_EMPTY, exclude_if=_is_empty, repr=False)
    """Whatever the owner wants to keep with this value: saved, never sent."""

    def model_post_init(self, context: Any, /) -> None:
        if self.__pydantic_extra__ and not isinstance(context, KeepUnknown):
            unknown = ", ".join(self.__pydantic_extra__)
            raise TypeError(f"{type(self).__name__} has no field {unknown}; keep your own data in `extra`")

    def copy_with(self, **changes: Any) -> Self:
        """Another value with some fields changed, validated like any other."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        unknown = changes.keys() - fields.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        kept = self.__pydantic_extra__ or {}
        return type(self).model_validate({**fields, **kept, **changes}, context=KEEP_UNKNOWN)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Like `copy_with`: what was worked out about the old value must not travel to the new one."""
        return self.copy_with(**(update or {}))


V = TypeVar("V", bound=Value)


def once_per_value(function: Callable[[V], T]) -> Callable[[V], T]:
    """Work out `function(value)` once and keep the result with the value, as `cached_property` does.

    For what a higher room derives from a value - its bytes on the wire, its cost in tokens. The result lives in the
    value's `__dict__`, where neither `==`, `hash` nor a copy sees it.
    """
    key = f"{function.__module__}.{function.__qualname__}"

    def derived(value: V) -> T:
        known = cast(dict[str, Any], value.__dict__)
        try:
            return known[key]
        except KeyError:
            result = known[key] = function(value)
            return result

    derived.__doc__ = function.__doc__
    derived.key = key  # pyright: ignore[reportFunctionMemberAccess]  for loops over many messages, which look first
    return derived


class OpenValue(Value):
    """A value of an open family: `type` says which one it is, and a `type` nobody knows survives as it came."""

    type: str

    _family: ClassVar[dict[str, type[OpenValue]]] = {}
    """The known members by `type`. A subclass that has a `_family` of its own in its body starts another family."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "type" in cls.__annotations__ and isinstance(kind := cls.model_fields["type"].default, str):
            cls._register(kind)

    @classmethod
    def _register(cls, kind: str) -> None:
        known = cls._family.get(kind)
        if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"type {kind!r} already belongs to {known.__name__}; give {cls.__name__} another one")
        cls._family[kind] = cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "_family" in cls.__dict__:
            return core_schema.with_info_plain_validator_function(cls._from_any)
        return handler(source)

    @classmethod
    def _from_any(cls, value: Any, info: core_schema.ValidationInfo) -> OpenValue:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a {cls.__name__} or a mapping with a `type`, got {type(value).__name__}")
        fields = cast(Mapping[str, Any], value)
        kind = fields.get("type")
        if not isinstance(kind, str):
            raise ValueError(f"a {cls.__name__} needs a `type` that is a string")
        member = cls._family.get(kind)
        if member is None:
            data = {key: item for key, item in fields.items() if key not in ("type", "extra")}
            return cls._unknown(kind, data, fields.get("extra") or {})
        return member.model_validate(fields, context=info.context)

    @classmethod
    def _unknown(cls, kind: str, data: dict[str, Any], extra: Any) -> OpenValue:
        raise ValueError(f"unknown type {kind!r}")


def as_it_came(kind: str, data: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a value whose type nobody knows."""
    return {"type": kind, **data, **({"extra": extra} if extra else {})}


def _without_own_fields(data: Mapping[str, Any]) -> Mapping[str, Any]:
    if taken := {"type", "extra"} & data.keys():
        raise ValueError(f"{' and '.join(sorted(taken))} of an unknown value are fields of their own, not data")
    return data


UnknownData = Annotated[FrozenMapping, AfterValidator(_without_own_fields)]
"""Everything of a value whose type nobody knows, but its type and what its owner keeps with it."""


# ==== content ====


class ContentPart(OpenValue):
    """A piece of a message's content.

    Subclass it with a `type` of its own for a kind of part that this package does not know:
    `class Note(ContentPart): type: str = "note"; body: str`. It is saved and loaded by that `type`.
    """

    _family: ClassVar[dict[str, type[OpenValue]]] = {}

    @classmethod
    def _unknown(cls, kind: str, data: dict[str, Any], extra: Any) -> UnknownPart:
        return UnknownPart(type=kind, data=data, extra=extra)

    def merged_with(self, other: StreamedMessagePart) -> Self | None:
        """This part and the next one of a stream as one; `None` for what does not go on with it."""
        return None


class TextPart(ContentPart):
    """Text."""

    type: str = "text"
    text: str

    def merged_with(self, other: StreamedMessagePart) -> Self | None:
        """The text of both, if the other one is text."""
        more = _alike(self, other)
        return None if more is None else self.copy_with(text=self.text + more.text)


class ThinkPart(ContentPart):
    """Reasoning of the model. The empty string is not the same as none: Kimi wants it back."""

    type: str = "think"
    think: str
    encrypted: str | None = absent()

    def merged_with(self, other: StreamedMessagePart) -> Self | None:
        """The reasoning of both, if the other one is reasoning; a part with a signature is complete."""
        more = None if self.encrypted else _alike(self, other)
        return None if more is None else self.copy_with(think=self.think + more.think, encrypted=more.encrypted)


def _alike(part: V, other: object) -> V | None:
    """`other`, if nothing but what they say tells them apart."""
    if not (isinstance(other, type(part)) and type(other) is type(part)):
        return None
    return other if (other.extra, other.__pydantic_extra__) == (part.extra, part.__pydantic_extra__) else None


class MediaURL(Value):
    """Where a picture, sound or film is: a `data:` URL, or `ms://<file id>` for an uploaded file."""

    url: str
    id: str | None = absent()


class ImageURLPart(ContentPart):
    """A picture."""

    type: str = "image_url"
    image_url: MediaURL

    ImageURL: ClassVar = MediaURL


class AudioURLPart(ContentPart):
    """A sound."""

    type: str = "audio_url"
    audio_url: MediaURL

    AudioURL: ClassVar = MediaURL


class VideoURLPart(ContentPart):
    """A film."""

    type: str = "video_url"
    video_url: MediaURL

    VideoURL: ClassVar = MediaURL


class UnknownPart(ContentPart):
    """A part of a type that this version does not know. It is kept, saved and sent as it came."""

    type: str
    data: UnknownData

    @model_serializer
    def _as_it_came(self) -> dict[str, Any]:
        return as_it_came(self.type, self.data, self.extra)


# ==== tool calls ====


class ToolCall(Value):
    """A request of the model to call a function. `id` is unique within its message."""

    class FunctionBody(Value):
        """The function that a call names and its arguments as the model wrote them: JSON, or an attempt at it."""

        name: str
        arguments: str | None = absent()

    type: Literal["function"] = "function"
    id: str
    function: FunctionBody
    extras: FrozenMapping | None = absent()
    """What another provider wants back with the call. Kimi has nothing of that kind; it is not sent."""

    if TYPE_CHECKING:  # what is accepted is more than what is kept

        def __init__(
            self,
            *,
            id: str,
            function: FunctionBody,
            type: Literal["function"] = "function",
            extras: Mapping[str, Any] | None = None,
            extra: Mapping[str, Any] = ...,
        ) -> None: ...

    def merged_with(self, other: StreamedMessagePart) -> Self | None:
        """The call with a further piece of its arguments. A call knows no index: that it is its piece, you know."""
        if not isinstance(other, ToolCallPart):
            return None
        arguments = _longer(self.function.arguments, other.arguments_part)
        return self.copy_with(function=self.function.copy_with(arguments=arguments))

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.name

    @property
    def arguments(self) -> str:
        """The arguments as the model wrote them."""
        return self.function.arguments or ""

    @property
    def args(self) -> dict[str, Any]:
        """The arguments, parsed anew at each access. Nothing and `null` mean no arguments.

        Raises:
            ToolArgumentsError: they are no JSON object.
        """
        return parse_arguments(self.arguments)

    @classmethod
    def from_function(cls, name: str, /, *, call_id_: str | None = None, **kwargs: Any) -> Self:
        """A call as the model would have made it, for a history written by hand."""
        arguments = json.dumps(kwargs, ensure_ascii=False)
        return cls(
            id=call_id_ or f"{name}_{uuid4().hex[:8]}", function=cls.FunctionBody(name=name, arguments=arguments)
        )


class ToolCallPart(Value):
    """A piece of a call's arguments, as it streams.

    `index` is the call that it belongs to, counted from 0 in the order in which the calls of the message began.
    """

    arguments_part: str | None = None
    index: int | str | None = absent()

    def merged_with(self, other: StreamedMessagePart) -> Self | None:
        """Both pieces as one, if they belong to the same call."""
        if not isinstance(other, ToolCallPart) or other.index != self.index:
            return None
        return self.copy_with(arguments_part=_longer(self.arguments_part, other.arguments_part))


def _longer(text: str | None, piece: str | None) -> str | None:
    return piece if text is None else text + (piece or "")


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of a call, parsed. Nothing and `null` mean no arguments.

    Raises:
        ToolArgumentsError: `text` is no JSON object.
    """
    value = parse_any_arguments(text)
    if not isinstance(value, dict):
        raise ToolArgumentsError(f"the arguments must be a JSON object, not {_JSON_NAMES[type(value)]}")
    return cast(dict[str, Any], value)


def parse_any_arguments(text: str) -> Any:
    """Like `parse_arguments`, for functions that take arguments by position, too.

    Control characters inside strings are let through, as models write them.

    Raises:
        ToolArgumentsError: `text` is no JSON; the error is `malformed`.
    """
    if not text.strip():
        return {}
    try:
        value = _parse_json(text)
    except ValueError as error:
        raise ToolArgumentsError(f"the arguments are not valid JSON: {error}", malformed=True) from None
    except RecursionError:
        raise ToolArgumentsError("the arguments are nested too deeply", malformed=True) from None
    return {} if value is None else value


_JSON_NAMES: Final[dict[type, str]] = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
}


def _parse_json(text: str) -> Any:
    try:
        return from_json(text)
    except (ValueError, TypeError):  # raw control characters and lone surrogates: refused there, let through here
        return json.loads(text, strict=False)


StreamedMessagePart: TypeAlias = ContentPart | ToolCall | ToolCallPart
"""What iterating a `StreamedMessage` gives."""


# ==== messages ====


def _as_parts(content: Any) -> Any:
    """Content as its parts: a string, a part, or a sequence of both."""
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (TextPart(text=content),)
    if isinstance(content, ContentPart):
        return (content,)
    if isinstance(content, Sequence):
        return tuple(TextPart(text=item) if isinstance(item, str) else item for item in cast(Sequence[Any], content))
    return content


def _as_content(parts: tuple[ContentPart, ...]) -> Any:
    """The shortest JSON that reads back as the same parts."""
    if len(parts) == 1 and type(part := parts[0]) is TextPart and not (part.extra or part.__pydantic_extra__):
        return part.text or parts
    return parts


def _none_if_empty(value: Any) -> Any:
    return value or None


class Message(Value):
    """One message of a conversation.

    Args:
        role: who said it.
        content: a string, a part, or a sequence of parts and strings.
        name: of the speaker, or of the function whose result this is.
        tool_calls: what the model wants to call (assistant messages).
        tool_call_id: the call that this message answers (tool messages).
        partial: the message is the beginning of an answer that Kimi is to continue.
        is_tool_call_error: the call that this message answers went wrong. Saved, never sent.
    """

    role: Role
    content: Annotated[tuple[ContentPart, ...], BeforeValidator(_as_parts), PlainSerializer(_as_content)] = ()
    name: str | None = absent()
    tool_calls: Annotated[tuple[ToolCall, ...] | None, BeforeValidator(_none_if_empty)] = absent()
    tool_call_id: str | None = absent()
    partial: bool | None = absent()
    is_tool_call_error: bool | None = absent()

    if TYPE_CHECKING:  # what is accepted is more than what is kept

        def __init__(
            self,
            *,
            role: Role,
            content: Content = (),
            name: str | None = None,
            tool_calls: Sequence[ToolCall] | None = None,
            tool_call_id: str | None = None,
            partial: bool | None = None,
            is_tool_call_error: bool | None = None,
            extra: Mapping[str, Any] = ...,
        ) -> None: ...

    @property
    def text(self) -> str:
        """The text of the message; `""` when there is none."""
        return self.extract_text()

    @property
    def reasoning(self) -> str | None:
        """The reasoning in the message; `None` when there is none, which is not the same as `""`."""
        thoughts = [part.think for part in self.content if isinstance(part, ThinkPart)]
        return "".join(thoughts) if thoughts else None

    @property
    def parts(self) -> tuple[ContentPart, ...]:
        """The content, part by part."""
        return self.content

    def extract_text(self, sep: str = "") -> str:
        """The text parts of the message with `sep` between them."""
        return sep.join([part.text for part in self.content if isinstance(part, TextPart)])

    @classmethod
    def system(cls, content: Content, **fields: Any) -> Self:
        """A system message."""
        return cls(role="system", content=content, **fields)

    @classmethod
    def user(cls, content: Content, **fields: Any) -> Self:
        """A user message."""
        return cls(role="user", content=content, **fields)

    @classmethod
    def assistant(cls, content: Content = None, **fields: Any) -> Self:
        """An assistant message, possibly with `tool_calls`."""
        return cls(role="assistant", content=content, **fields)

    @classmethod
    def tool(cls, content: Content, tool_call_id: str, **fields: Any) -> Self:
        """The result of the call `tool_call_id`."""
        return cls(role="tool", content=content, tool_call_id=tool_call_id, **fields)


Content: TypeAlias = str | ContentPart | Sequence[ContentPart | str] | None
"""What a message can be made of."""


# ==== usage ====


class TokenUsage(Value):
    """What one or more requests cost, in tokens.

    Args:
        input_other: prompt tokens paid in full.
        output: completion tokens, reasoning included.
        input_cache_read: prompt tokens served from the prefix cache.
        input_cache_creation: prompt tokens written to the cache; 0 on Kimi today.
        reasoning: how many of the completion tokens were reasoning, if the server says so. A detail that takes no part
            in `==`.
    """

    input_other: int
    output: int
    input_cache_read: int = 0
    input_cache_creation: int = 0
    reasoning: int = Field(default=0, exclude_if=is_zero)

    @property
    def input(self) -> int:
        """All prompt tokens."""
        return self.input_other + self.input_cache_read + self.input_cache_creation

    @property
    def prompt_cache_hit(self) -> float:
        """The share of the prompt tokens that came out of the cache, from 0 to 1: what repeats an earlier prompt."""
        return self.input_cache_read / self.input if self.input else 0.0

    @property
    def total(self) -> int:
        """Prompt and completion together."""
        return self.input + self.output

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            input_other=self.input_other + other.input_other,
            output=self.output + other.output,
            input_cache_read=self.input_cache_read + other.input_cache_read,
            input_cache_creation=self.input_cache_creation + other.input_cache_creation,
            reasoning=self.reasoning + other.reasoning,
        )

    def __eq__(self, other: object) -> bool:
        return self._billed() == other._billed() if isinstance(other, TokenUsage) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._billed())

    def _billed(self) -> tuple[int, int, int, int]:
        return self.input_other, self.output, self.input_cache_read, self.input_cache_creation
