"""Every sentence that this package puts into a tool result, and how a result becomes a message."""

from __future__ import annotations

from typing import Final, cast

from pydantic import ValidationError

from ..errors import (
    CallRejected,
    FunctionCallException,
    FunctionTimeout,
    ModelRetry,
    NoSuchFunction,
    StructuredOutputError,
    ToolArgumentsError,
    WrappedCallException,
    text_of,
)
from ..message import KEEP_UNKNOWN, ContentPart, Message, TextPart, ToolCall
from .base import (
    ToolError,
    ToolMessage,
    ToolNotFoundError,
    ToolParseError,
    ToolResult,
    ToolReturnValue,
    ToolRuntimeError,
    ToolValidateError,
)

__all__ = [
    "DEFAULT_TEXTS",
    "MARKED_TEXTS",
    "MarkedTexts",
    "ToolTexts",
    "answering",
    "result_message",
    "tool_error_from",
    "tool_result_to_message",
    "value_in",
    "with_display",
]


class ToolTexts:
    """What the model reads when a call gave nothing, went wrong or did not happen, or an answer has the wrong shape.

    No other sentence of this package reaches a conversation. Subclass it and set `Agent.texts` or `SimpleToolset.texts`
    to say it differently.
    """

    def empty(self) -> str:
        """The call gave nothing."""
        return "The function returned no output."

    def note(self, value: ToolReturnValue) -> str:
        """What stands before the output of `value`; `""` for nothing."""
        return value.message

    def no_text(self) -> str:
        """Announces an output of parts without any text; `""` announces nothing."""
        return ""

    def no_such_function(self, error: NoSuchFunction) -> str:
        """The model called a function that does not exist."""
        return f"Error: there is no function {error.name!r}. Call only the functions that are listed."

    def bad_arguments(self, error: ToolArgumentsError) -> str:
        """The arguments do not fit; the error names the field and what was expected."""
        return f"Error: {error}"

    def raised(self, error: BaseException) -> str:
        """The function raised `error`."""
        said = text_of(error) if isinstance(error, ModelRetry) else ""
        return said or f"Error: {described(error)}"

    def timed_out(self, error: FunctionTimeout) -> str:
        """The call took longer than it may; the error says how long that is, and whether it ran, or still runs."""
        if not error.began:
            return f"Not run: no thread was free for {error.seconds:g} seconds."
        text = f"Timed out after {error.seconds:g} seconds."
        return f"{text} The call cannot be stopped and may still finish." if error.still_running else text

    def rejected(self, error: CallRejected) -> str:
        """Somebody had to approve the call, and did not, or could not be asked."""
        if not error.asked:
            return "Not run: this call has to be approved, and nobody can do that here."
        said = f" The user says: {error.feedback}" if error.feedback else ""
        return f"Not run: the user did not approve this call. Do not repeat it unasked.{said}"

    def waits_for_approval(self) -> str:
        """The round ended before somebody approved the call, and may go on when that has happened."""
        return "Not run yet: the call waits for the approval of the user."

    def waits_for_turn(self) -> str:
        """The call has to run after another one, which waits for approval."""
        return "Not run yet: the call comes after one that waits for the approval of the user."

    def repeated(self, times: int) -> str:
        """Stands below the result of a call that was made with the same arguments before; `""` for nothing."""
        return f"Reminder: this is call {times} with the same arguments. Use what you have, or do something else."

    def too_often(self, times: int) -> str:
        """The call was made with the same arguments too often, and is not run."""
        return f"Not run: this is call {times} with the same arguments. Answer with what you have."

    def interrupted(self) -> str:
        """The call was running when the round was stopped."""
        return "Interrupted: the call was stopped before it finished. What it did until then is not undone."

    def still_running(self) -> str:
        """The call was running when the round was stopped, and cannot be stopped: it is in a thread, say."""
        return "Interrupted: nobody waits for the call any more, but it cannot be stopped and may still finish."

    def not_run(self) -> str:
        """The round ended before the call was started, or calls were not allowed any more."""
        return "Not run: the round ended before this call was started."

    def cut_off(self) -> str:
        """The answer ended in the middle of its calls (`length`, `content_filter`)."""
        return "Not run: the answer was cut off, so the call may be incomplete."

    def wrong_shape(self, error: StructuredOutputError) -> str:
        """The answer is not the object that was asked for; the error names the fields and what was expected."""
        return f"{error} Answer again, with the corrected JSON only."


class MarkedTexts(ToolTexts):
    """Marks with `<system>` what the tool itself did not say, as Kimi's own agents do. Toolsets speak like this."""

    def mark(self, text: str) -> str:
        """`text`, told apart from what a tool says."""
        return f"<system>{text}</system>"

    def empty(self) -> str:
        """The call gave nothing."""
        return self.mark("Tool output is empty.")

    def note(self, value: ToolReturnValue) -> str:
        """Errors are marked as errors, and those that a tool did not report itself as unexpected."""
        if not value.is_error:
            return self.mark(value.message) if value.message else ""
        unexpected = "\nThis is an unexpected error and the tool is probably not working."
        text = f"ERROR: {value.message}" if value.message else "ERROR"
        return self.mark(text + (unexpected if isinstance(value, ToolRuntimeError) else ""))

    def no_text(self) -> str:
        """Announces an output of parts without any text."""
        return self.mark("Tool returned non-text content.")

    def no_such_function(self, error: NoSuchFunction) -> str:
        """The model called a tool that does not exist."""
        return ToolNotFoundError(error.name).message

    def bad_arguments(self, error: ToolArgumentsError) -> str:
        """The arguments are no JSON, or do not fit."""
        return (ToolParseError if error.malformed else ToolValidateError)(str(error)).message

    def raised(self, error: BaseException) -> str:
        """The tool raised `error`."""
        return text_of(error) if isinstance(error, ModelRetry) else ToolRuntimeError(described(error)).message


def described(error: BaseException) -> str:
    """An error with its class; `ValueError` says more than nothing."""
    text = fields_of(error) if isinstance(error, ValidationError) else text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def fields_of(error: ValidationError) -> str:
    """pydantic's own text has a URL for every field, which costs tokens and helps no model."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    said = [f"{'.'.join(map(str, detail['loc'])) or error.title}: {detail['msg']}" for detail in details[:_MOST_FIELDS]]
    more = len(details) - len(said)
    return "; ".join([*said, f"and {more} more"] if more else said)


_MOST_FIELDS: Final = 20
"""A list of a thousand wrong items is not explained item by item."""


DEFAULT_TEXTS: Final = ToolTexts()
MARKED_TEXTS: Final = MarkedTexts()


# ==== errors as values ====


def tool_error_from(error: FunctionCallException, texts: ToolTexts = DEFAULT_TEXTS) -> ToolError:
    """What went wrong, as a value that the model can be told. The only place where errors become values."""
    match error:
        case NoSuchFunction():
            brief = ToolNotFoundError(error.name).brief
            return ToolNotFoundError.from_fields({"message": texts.no_such_function(error), "brief": brief})
        case ToolArgumentsError():
            kind = ToolParseError if error.malformed else ToolValidateError
            return kind.from_fields({"message": texts.bad_arguments(error), "brief": "Invalid arguments"})
        case FunctionTimeout():
            return ToolRuntimeError.from_fields({"message": texts.timed_out(error), "brief": "Timed out"})
        case CallRejected():
            return ToolError(message=texts.rejected(error), brief="Rejected")
        case WrappedCallException(original=ModelRetry() as original):
            return ToolError(message=texts.raised(original), brief="Try again")
        case WrappedCallException(original=original):
            return ToolRuntimeError.from_fields({"message": texts.raised(original), "brief": "Tool runtime error"})
        case _:
            return ToolError(message=texts.raised(error), brief="The call failed")


# ==== results as messages ====


def answering(message: Message, call: ToolCall) -> Message:
    """The message as the result of `call`, whatever somebody made of it."""
    if message.role == "tool" and message.tool_call_id == call.id:
        return message
    return message.copy_with(role="tool", tool_call_id=call.id, name=message.name or call.name)


def _marked(value: ToolMessage) -> Message:
    """The message of a call that went wrong says so, whoever noticed."""
    missing = value.is_error and not value.written.is_tool_call_error
    return value.written.copy_with(is_tool_call_error=True) if missing else value.written


def result_message(call: ToolCall, value: ToolReturnValue, texts: ToolTexts = DEFAULT_TEXTS) -> Message:
    """The tool message that answers a call: the note (if any), then the output; one text if all of it is text.

    What the value has for the user's eyes is kept in `extra`, which is saved and never sent.
    """
    if isinstance(value, ToolMessage):
        return with_display(answering(_marked(value), call), value)
    content = _content(value, texts)
    text = "\n".join(cast(list[str], content)) if all(isinstance(piece, str) for piece in content) else content
    message = Message.tool(text, call.id, name=call.name, is_tool_call_error=value.is_error or None)
    return with_display(message, value)


_DISPLAY: Final = "display"


def with_display(message: Message, value: ToolReturnValue) -> Message:
    """The message with what the value has for the user's eyes, in `extra`."""
    if not value.display:
        return message
    blocks = [block.model_dump(mode="json") for block in value.display]
    return message.copy_with(extra={**message.extra, _DISPLAY: blocks})


def tool_result_to_message(result: ToolResult, texts: ToolTexts = MARKED_TEXTS) -> Message:
    """The tool message that answers a call.

    Errors are marked as errors, an empty output is said to be empty, and an output without text is announced. Content
    parts stay parts.

    Args:
        result: of a toolset.
        texts: what is said beside the output. Subclass `MarkedTexts` or `ToolTexts` to say it differently.
    """
    value, call_id = result.return_value, result.tool_call_id
    if isinstance(value, ToolMessage):
        return _marked(value).copy_with(role="tool", tool_call_id=call_id)
    return Message.tool(_content(value, texts), call_id, is_tool_call_error=value.is_error or None)


def value_in(message: Message) -> ToolReturnValue:
    """What a tool message says, as far as it tells: the way back."""
    is_text = all(type(part) is TextPart and not part.extra for part in message.content) and len(message.content) < 2
    output = message.text if is_text else message.content
    told = {"is_error": bool(message.is_tool_call_error), "output": output, "display": message.extra.get(_DISPLAY, ())}
    try:
        return ToolReturnValue.model_validate(told, context=KEEP_UNKNOWN)
    except ValidationError:  # somebody else keeps something of this name there
        return ToolReturnValue.model_validate({**told, "display": ()}, context=KEEP_UNKNOWN)


def _is_empty(piece: str | ContentPart) -> bool:
    return not (piece.text if isinstance(piece, TextPart) else piece)


def _content(value: ToolReturnValue, texts: ToolTexts) -> list[str | ContentPart]:
    """Whatever there is to say, said: never nothing."""
    note = texts.note(value)
    output = (value.output,) if isinstance(value.output, str) else value.output
    content: list[str | ContentPart] = [piece for piece in (note, *output) if not _is_empty(piece)]
    if not content:
        return [texts.empty()]
    has_text = any(isinstance(piece, str | TextPart) for piece in content)
    return content if has_text or not (announced := texts.no_text()) else [announced, *content]
