"""A tool as the model sees it, what calling it gives, and every sentence that this package puts into a tool result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Protocol, TypeAlias, cast

from pydantic import BeforeValidator, ValidationError, model_serializer, model_validator

from ..errors import FunctionCallException, ModelRetry, NoSuchFunction, ToolArgumentsError, WrappedCallException
from ..message import (
    ContentPart,
    FrozenMapping,
    Message,
    OpenValue,
    TextPart,
    ToolCall,
    UnknownData,
    Value,
    absent,
    as_it_came,
)

__all__ = [
    "DEFAULT_TEXTS",
    "BriefDisplayBlock",
    "DisplayBlock",
    "Tool",
    "ToolError",
    "ToolLike",
    "ToolMessage",
    "ToolOk",
    "ToolResult",
    "ToolReturnValue",
    "ToolTexts",
    "ToolsPart",
    "UnknownDisplayBlock",
    "answering",
    "is_safe_name",
    "result_message",
    "tool_error_from",
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


class ToolReturnValue(Value):
    """What a tool gives back.

    Args:
        is_error: the call went wrong.
        output: for the model: text, or content parts.
        message: a note for the model beside the output, such as what went wrong.
        display: for the user.
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

    @model_validator(mode="before")
    @classmethod
    def _with_brief(cls, fields: Any) -> Any:
        """`brief=` is short for a display of one `BriefDisplayBlock`."""
        given: dict[str, Any] = dict(cast("dict[str, Any]", fields)) if isinstance(fields, dict) else {}
        if "brief" not in given:
            return cast(Any, fields)
        text = given.pop("brief")
        return {**given, "display": (BriefDisplayBlock(text=text),)} if text else given

    @property
    def brief(self) -> str:
        """The text of the first `BriefDisplayBlock`; `""` without one."""
        return next((block.text for block in self.display if isinstance(block, BriefDisplayBlock)), "")


class ToolOk(ToolReturnValue):
    """A call that went well. `brief` is a line for the user."""

    is_error: bool = False

    if TYPE_CHECKING:

        def __init__(self, *, output: Output, message: str = "", brief: str = "") -> None: ...


class ToolError(ToolReturnValue):
    """A call that went wrong: `message` says how. `brief` is a line for the user."""

    is_error: bool = True

    if TYPE_CHECKING:

        def __init__(self, *, message: str, brief: str, output: Output = "") -> None: ...


class ToolMessage(ToolReturnValue):
    """A call whose function wrote the whole result message itself."""

    written: Message


class ToolResult(Value):
    """What the call `tool_call_id` gave."""

    tool_call_id: str
    return_value: ToolReturnValue


Output: TypeAlias = str | ContentPart | Sequence[ContentPart | str]
"""What a tool's output can be made of."""


# ==== every sentence that this package puts into a tool result ====


class ToolTexts:
    """What the model reads when a call gave nothing, went wrong or did not happen.

    No other sentence of this package reaches a conversation. Subclass it and set `Agent.texts` to say it differently.
    """

    def empty(self) -> str:
        """The function returned `None`."""
        return "The function returned no output."

    def no_such_function(self, error: NoSuchFunction) -> str:
        """The model called a function that does not exist."""
        return f"Error: there is no function {error.name!r}. Call only the functions that are listed."

    def bad_arguments(self, error: ToolArgumentsError) -> str:
        """The arguments do not fit; the error names the field and what was expected."""
        return f"Error: {error}"

    def raised(self, error: BaseException) -> str:
        """The function raised `error`."""
        return str(error) if isinstance(error, ModelRetry) else f"Error: {_described(error)}"

    def interrupted(self) -> str:
        """The call was running when the round was stopped."""
        return "Interrupted: the call was stopped before it finished. What it did until then is not undone."

    def still_running(self) -> str:
        """The call was running in a thread, which cannot be stopped, when the round was stopped."""
        return "Interrupted: nobody waits for the call any more, but its thread cannot be stopped and may still finish."

    def not_run(self) -> str:
        """The round ended before the call was started, or calls were not allowed any more."""
        return "Not run: the round ended before this call was started."

    def cut_off(self) -> str:
        """The answer ended in the middle of its calls (`length`, `content_filter`)."""
        return "Not run: the answer was cut off, so the call may be incomplete."


def _described(error: BaseException) -> str:
    text = _fields_of(error) if isinstance(error, ValidationError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _fields_of(error: ValidationError) -> str:
    """pydantic's own text has a URL for every field, which costs tokens and helps no model."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, detail['loc'])) or error.title}: {detail['msg']}" for detail in details)


DEFAULT_TEXTS = ToolTexts()


def tool_error_from(error: FunctionCallException, texts: ToolTexts = DEFAULT_TEXTS) -> ToolError:
    """What went wrong, as a value that the model can be told. The only place where errors become values."""
    match error:
        case NoSuchFunction():
            return ToolError(message=texts.no_such_function(error), brief="No such function")
        case ToolArgumentsError():
            return ToolError(message=texts.bad_arguments(error), brief="Invalid arguments")
        case WrappedCallException(original=original):
            return ToolError(message=texts.raised(original), brief="The function failed")
        case _:
            return ToolError(message=texts.raised(error), brief="The call failed")


def answering(message: Message, call: ToolCall) -> Message:
    """The message as the result of `call`, whatever somebody made of it."""
    if message.role == "tool" and message.tool_call_id == call.id:
        return message
    return message.copy_with(role="tool", tool_call_id=call.id, name=message.name or call.name)


def result_message(call: ToolCall, value: ToolReturnValue, texts: ToolTexts = DEFAULT_TEXTS) -> Message:
    """The tool message that answers a call: the note (if any), then the output."""
    if isinstance(value, ToolMessage):
        return answering(value.written, call)
    note = (value.message,) if value.message else ()
    output = (value.output,) if isinstance(value.output, str) else value.output
    content = [*note, *(piece for piece in output if piece != "")]
    text = "\n".join(cast(list[str], content)) if all(isinstance(piece, str) for piece in content) else content
    return Message.tool(text or texts.empty(), call.id, name=call.name, is_tool_call_error=value.is_error or None)
