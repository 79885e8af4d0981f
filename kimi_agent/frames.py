"""What people make of frames: their text, the messages, the calls. Pure functions over any iterable, async or not.

Frames that are there give a value or an iterator; frames that arrive give something to await or to iterate with
`async for`. A `MessageStream` stands for its frames.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias, TypeVar, cast, overload

from .events import Append, End, Reasoning, StreamFrame
from .kimi.assemble import fold
from .message import Message, TextPart, ThinkPart, ToolCall
from .tools.base import ToolResult
from .tools.texts import DEFAULT_TEXTS, tool_result_to_message, value_in, with_display

__all__ = ["collect_text", "text_only", "to_assistant_message", "to_frames", "to_messages", "to_tool_calls"]

T = TypeVar("T")


class Framed(Protocol):
    """What has frames, as a `MessageStream` does."""

    def frames(self) -> AsyncIterator[StreamFrame]:
        """The frames."""
        ...


Arriving: TypeAlias = AsyncIterable[StreamFrame] | Framed
"""Frames that are not there yet."""

MaybeMessage: TypeAlias = Message | None


# ==== text ====


@overload
def text_only(frames: Iterable[StreamFrame]) -> Iterator[str]: ...
@overload
def text_only(frames: Arriving) -> AsyncIterator[str]: ...
def text_only(frames: Iterable[StreamFrame] | Arriving) -> Iterator[str] | AsyncIterator[str]:
    """The text, piece by piece: no reasoning, no calls, no results."""
    if isinstance(frames, Iterable):
        return (frame.text for frame in frames if isinstance(frame, Append))
    return _TextOnly(_iterator(frames))


class _TextOnly:
    """An object, so that dropping it leaves nothing to clean up."""

    def __init__(self, frames: AsyncIterator[StreamFrame]) -> None:
        self._frames = frames

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not isinstance(frame := await anext(self._frames), Append):
            pass
        return frame.text


@overload
def collect_text(frames: Iterable[StreamFrame]) -> str: ...
@overload
def collect_text(frames: Arriving) -> Coroutine[Any, Any, str]: ...
def collect_text(frames: Iterable[StreamFrame] | Arriving) -> str | Coroutine[Any, Any, str]:
    """The whole text; `""` without any."""
    return _made_of(frames, lambda given: "".join(text_only(given)))


# ==== messages ====


@overload
def to_assistant_message(frames: Iterable[StreamFrame]) -> MaybeMessage: ...
@overload
def to_assistant_message(frames: Arriving) -> Coroutine[Any, Any, MaybeMessage]: ...
def to_assistant_message(frames: Iterable[StreamFrame] | Arriving) -> MaybeMessage | Coroutine[Any, Any, MaybeMessage]:
    """What the model said, in its last turn if there are several; as far as it came, where there is no `End`.

    `None` if that is nothing: no text, no reasoning, no call.
    """
    return _made_of(frames, _last_answer)


def _last_answer(frames: Iterable[StreamFrame]) -> Message | None:
    answers = [turn for turn in _turns(frames) if not isinstance(turn, ToolResult)]
    return next(iter(_answer(answers[-1])), None) if answers else None


@overload
def to_messages(frames: Iterable[StreamFrame]) -> list[Message]: ...
@overload
def to_messages(frames: Arriving) -> Coroutine[Any, Any, list[Message]]: ...
def to_messages(frames: Iterable[StreamFrame] | Arriving) -> list[Message] | Coroutine[Any, Any, list[Message]]:
    """The message of each turn of the model, and of each result of a call, in their order.

    A turn without its `End` gives what came of it, and one that said nothing gives nothing.
    """
    return _made_of(frames, _messages)


def _messages(frames: Iterable[StreamFrame]) -> list[Message]:
    messages: list[Message] = []
    names: dict[str, str] = {}
    for turn in _turns(frames):
        new = [_result(turn, names)] if isinstance(turn, ToolResult) else _answer(turn)
        names |= {call.id: call.name for message in new for call in message.tool_calls or ()}
        messages += new
    return messages


def _turns(frames: Iterable[StreamFrame]) -> Iterator[list[StreamFrame] | ToolResult]:
    """The frames of each turn of the model, and the results of calls between them."""
    turn: list[StreamFrame] = []
    for frame in frames:
        if not isinstance(frame, ToolResult):
            turn.append(frame)
        if turn and isinstance(frame, End | ToolResult):
            yield turn
            turn = []
        if isinstance(frame, ToolResult):
            yield frame
    if turn:
        yield turn


def _answer(turn: Sequence[StreamFrame]) -> list[Message]:
    message = fold(turn)
    says_nothing = all(isinstance(part, TextPart) and not part.text for part in message.content)
    return [] if says_nothing and not message.tool_calls else [message]


def _result(result: ToolResult, names: Mapping[str, str]) -> Message:
    """The message of a result, with the name of the function, which the call before it knows."""
    message = with_display(tool_result_to_message(result, DEFAULT_TEXTS), result.return_value)
    return message if message.name else message.copy_with(name=names.get(result.tool_call_id))


# ==== calls ====


@overload
def to_tool_calls(frames: Iterable[StreamFrame]) -> list[ToolCall]: ...
@overload
def to_tool_calls(frames: Arriving) -> Coroutine[Any, Any, list[ToolCall]]: ...
def to_tool_calls(frames: Iterable[StreamFrame] | Arriving) -> list[ToolCall] | Coroutine[Any, Any, list[ToolCall]]:
    """The whole calls of all turns. Their arguments are as the model wrote them; calls that were cut off are none."""
    return _made_of(frames, lambda given: [frame for frame in given if isinstance(frame, ToolCall)])


# ==== and back ====


def to_frames(message: Message) -> list[StreamFrame]:
    """A message as the frames that it could have come in: `to_messages` of them is the message.

    Raises:
        ValueError: it is no message of a model and no result of a call.
    """
    if message.role == "tool":
        return [ToolResult(tool_call_id=message.tool_call_id or "", return_value=value_in(message))]
    if message.role != "assistant":
        raise ValueError(f"a {message.role} message does not come as frames")
    calls = message.tool_calls or ()
    said: list[StreamFrame] = []
    for part in message.content:
        if isinstance(part, ThinkPart):
            said.append(Reasoning(part.think))
        elif isinstance(part, TextPart) and part.text:
            said.append(Append(part.text))
    return [*said, *calls, End("tool_calls" if calls else "stop", None, message)]


# ==== there, or arriving ====


def _iterator(frames: Arriving) -> AsyncIterator[StreamFrame]:
    named = getattr(frames, "frames", None)  # first: iterating a stream gives its text
    return cast("Framed", frames).frames() if callable(named) else aiter(cast("AsyncIterable[StreamFrame]", frames))


def _made_of(
    frames: Iterable[StreamFrame] | Arriving, make: Callable[[Iterable[StreamFrame]], T]
) -> T | Coroutine[Any, Any, T]:
    return make(frames) if isinstance(frames, Iterable) else _when_there(_iterator(frames), make)


async def _when_there(frames: AsyncIterator[StreamFrame], make: Callable[[Iterable[StreamFrame]], T]) -> T:
    return make([frame async for frame in frames])
