"""What happens, as values: the frames of a stream and the events of an agent, and who is told of them.

`ToolCall` and `ToolResult` are frames themselves. All others are frozen slotted dataclasses, made for `match`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from inspect import isawaitable
from typing import Any, Final, Literal, TypeAlias, TypeVar

from loguru import logger

from .message import Message, TokenUsage, ToolCall
from .tools.base import ToolResult

__all__ = [
    "Append",
    "End",
    "Event",
    "HistoryCompacted",
    "TokenCountDrifted",
    "Reasoning",
    "RequestRetried",
    "RequestSent",
    "RoundFinished",
    "RoundStarted",
    "StreamCancelled",
    "StreamCompleted",
    "StreamFailed",
    "StreamFrame",
    "StreamFrameReceived",
    "StreamStarted",
    "ToolCallDelta",
    "ToolCallFinished",
    "ToolCallStarted",
]


# ==== frames ====


@dataclass(frozen=True, slots=True)
class Append:
    """More text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More reasoning. An empty one says that the model reasoned about nothing, which Kimi wants to hear again."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call that is being written. `id` and `name` come once; `arguments` is the new piece of JSON."""

    index: int | str
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class End:
    """The end of one model turn."""

    finish_reason: str | None
    """`stop`, `tool_calls`, `length` or `content_filter`; `None` when the provider gave none."""
    usage: TokenUsage | None
    message: Message

    @property
    def truncated_calls(self) -> tuple[ToolCall, ...]:
        """The calls of an answer that was cut off: in the message, never a `ToolCall` frame, never run."""
        return (self.message.tool_calls or ()) if self.finish_reason in CUT_OFF else ()


def plain_reason(reason: object) -> str | None:
    """A finish reason in the words of chat-completions, from a provider that has an enumeration of them, say."""
    if isinstance(reason, Enum):
        reason = reason.value
    return None if reason is None else str(reason).lower()


CUT_OFF = ("length", "content_filter")
"""The finish reasons after which calls may be incomplete."""

StreamFrame: TypeAlias = Append | Reasoning | ToolCallDelta | ToolCall | ToolResult | End
"""A piece of a stream. More kinds may be added: end a `match` with `case _`."""


# ==== events ====


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """A round has the turn; `query` is the user's message, if there is one."""

    query: Message | None


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """A round gave the turn back: at its end, after an error, or because it was closed, cancelled or dropped."""

    outcome: Literal["completed", "failed", "closed"]


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """A model is about to be asked."""

    model: str


@dataclass(frozen=True, slots=True)
class StreamFrameReceived:
    """A frame came, and the reader of the stream has not seen it yet."""

    frame: StreamFrame


@dataclass(frozen=True, slots=True)
class StreamCompleted:
    """The answer is whole and in the history."""

    message: Message
    usage: TokenUsage | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The answer failed; nothing of it is in the history."""

    error_type: str
    error: str
    partial: Message


@dataclass(frozen=True, slots=True)
class StreamCancelled:
    """The answer was given up by its reader; nothing of it is in the history."""

    partial: Message


@dataclass(frozen=True, slots=True)
class RequestSent:
    """A request went out. `body` is its exact JSON; the key is not in it."""

    body: str


@dataclass(frozen=True, slots=True)
class RequestRetried:
    """A request failed before anything was delivered and is sent again after `delay` seconds."""

    attempt: int
    delay: float
    error_type: str
    error: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A call is about to run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolCallFinished:
    """A call has its result, which is in the history. `duration` is in seconds."""

    call: ToolCall
    message: Message
    duration: float


@dataclass(frozen=True, slots=True)
class TokenCountDrifted:
    """The server counted another number of tokens for a prompt than was expected, by more than three."""

    expected: int
    actual: int


@dataclass(frozen=True, slots=True)
class HistoryCompacted:
    """Old messages were replaced by fewer tokens. `by` has the names of the compactors whose work it is."""

    messages_before: int
    messages_after: int
    tokens_before: int
    tokens_after: int
    by: tuple[str, ...] = ()


Event: TypeAlias = (
    RoundStarted
    | RoundFinished
    | TokenCountDrifted
    | StreamStarted
    | StreamFrameReceived
    | StreamCompleted
    | StreamFailed
    | StreamCancelled
    | RequestSent
    | RequestRetried
    | ToolCallStarted
    | ToolCallFinished
    | HistoryCompacted
)
"""Something that happened."""


# ==== who is told ====

E = TypeVar("E", bound=Event)
T = TypeVar("T")
Handler: TypeAlias = Callable[[E], Awaitable[None] | None]


async def tell(callback: Callable[[T], Awaitable[None] | None], value: T) -> None:
    """Call a sync or async callback and wait for it."""
    if isawaitable(told := callback(value)):
        await told


class Handlers:
    """The handlers of an agent's events, by type of event. What one of them raises is logged and stops nothing."""

    def __init__(self) -> None:
        self._by_type: dict[type[Any], list[Handler[Any]]] = {}

    def __contains__(self, event_type: type[Event]) -> bool:
        """Whether anybody listens: an event that nobody hears need not be made."""
        return event_type in self._by_type

    def add(self, event_type: type[E], handler: Handler[E]) -> Callable[[], None]:
        """Add a handler behind the others of its type; returns a function that takes it away again."""
        handlers = self._by_type.setdefault(event_type, [])
        handlers.append(handler)

        def unsubscribe() -> None:
            if handler in handlers:
                handlers.remove(handler)
            if not handlers and self._by_type.get(event_type) is handlers:
                del self._by_type[event_type]

        return unsubscribe

    async def emit(self, event: Event) -> None:
        """Hand an event to its handlers, in order; async ones are awaited."""
        for handler in tuple(self._by_type.get(type(event), ())):
            try:
                await tell(handler, event)
            except Exception:
                logger.exception("a handler of {} raised", type(event).__name__)

    def emit_later(self, event: Event) -> None:
        """Hand an event to its handlers from a place that cannot wait. Without an event loop it is lost."""
        loop = asyncio._get_running_loop()
        if loop is not None and type(event) in self._by_type:
            task = loop.create_task(self.emit(event))
            _telling.add(task)
            task.add_done_callback(_telling.discard)


_telling: Final[set[asyncio.Task[None]]] = set()
"""Tasks that nobody waits for: an event loop holds its tasks weakly."""
