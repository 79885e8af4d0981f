"""What happens, as values: the frames of a stream and the events of an agent, and who is told of them.

`ToolCall` and `ToolResult` are frames themselves. All others are frozen slotted dataclasses, made for `match`.
"""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache, partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, TypeVar, cast, get_args

from loguru import logger
from pydantic_core import ValidationError, to_jsonable_python

from .message import KEEP_UNKNOWN, Message, TokenUsage, ToolCall
from .tools.base import ToolResult

if TYPE_CHECKING:
    from pydantic import TypeAdapter

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
    "SessionRestored",
    "StreamCancelled",
    "StreamCompleted",
    "StreamFailed",
    "StreamFrame",
    "StreamFrameReceived",
    "StreamStarted",
    "SubAgentEvent",
    "ToolCallDelta",
    "ToolCallFinished",
    "ToolCallStarted",
    "ToolProgress",
    "from_dict",
    "to_dict",
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
    """A round gave the turn back: at its end, because calls wait for approval, after an error, or because it was
    closed, cancelled or dropped."""

    outcome: Literal["completed", "waiting", "failed", "closed"]
    error_type: str | None = None
    """The name of the error's class, if it failed."""


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
    id: str | None = None
    """The provider's id of the answer, if it gave one."""


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
    """A request failed before anything was delivered and is sent again after `delay` seconds.

    An `attempt` of 0 is a request that was not sent yet: the server told another one to wait for so long.
    """

    attempt: int
    delay: float
    error_type: str
    error: str
    status_code: int | None = None
    """The HTTP status, if the server answered."""


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A call is about to run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolCallFinished:
    """A call has its result; that of a call of the model is in the history. `duration` is in seconds."""

    call: ToolCall
    message: Message
    duration: float
    error_type: str | None = None
    """The name of the error's class, if something was raised."""


@dataclass(frozen=True, slots=True)
class ToolProgress:
    """A running function says how far it is; `fraction` is from 0 to 1, if it is known."""

    call: ToolCall
    text: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class TokenCountDrifted:
    """The server counted another number of tokens for a prompt than was expected, by more than three."""

    expected: int
    actual: int


@dataclass(frozen=True, slots=True)
class SessionRestored:
    """A conversation goes on where its session ended.

    `repaired` counts the results that had to be made up, of calls that nobody had answered; `damage` says what of the
    session could not be read.
    """

    messages: int
    repaired: int
    damage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryCompacted:
    """Old messages were replaced by fewer tokens. `by` has the names of the compactors whose work it is."""

    messages_before: int
    messages_after: int
    tokens_before: int
    tokens_after: int
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SubAgentEvent:
    """Something happened in an agent that was called as a tool.

    `path` has the calls that lead there: that of this agent, then that of the agent which it called, and so on.
    """

    path: tuple[ToolCall, ...]
    event: Event


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
    | ToolProgress
    | HistoryCompacted
    | SessionRestored
    | SubAgentEvent
)
"""Something that happened."""


# ==== who is told ====

E = TypeVar("E", bound=Event)
T = TypeVar("T")
Handler: TypeAlias = Callable[[E], object]
"""A function of an event, sync or async. What it returns is passed over."""


async def tell(callback: Callable[[T], object], value: T) -> None:
    """Call a sync or async callback and wait for it."""
    if isawaitable(told := callback(value)):
        await told


class Observer(Protocol):
    """Sees an agent at work, without a part in it: what it raises is logged, strict or not, and stops nothing.

    It is told of an event at once, before the handlers, in the task in which it happened; also where nobody can wait,
    and where a handler would be told later. Only the end of a round that was garbage is told in the next turn of the
    event loop: whoever collects garbage may be holding the very lock that an observer wants.

    Of `StreamCompleted` it is told when the answer is there and paid for, before any hook sees it. What goes wrong with
    it then is told, too.
    """

    def hears(self, event_type: type[Event]) -> bool:
        """Whether it wants events of a type: those that nobody wants are not made."""
        ...

    def told(self, event: Event) -> None:
        """An event happened: one that it wants, or that a handler wants."""
        ...

    def around(self, call: ToolCall) -> AbstractContextManager[object]:
        """What the function of a call runs within. Leaving it, however that was, raises nothing of its own."""
        ...

    def follow(self, agent: Any, call: ToolCall) -> None:
        """Another agent, which has just been made, is going to answer a call."""
        ...


class Handlers:
    """The handlers of an agent's events, by type of event.

    Args:
        strict: what a handler raises goes on to whoever emits the event, once the other handlers have been told. Else
            it is logged and stops nothing.
    """

    def __init__(self, strict: bool = False) -> None:
        self._strict = strict
        self._by_type: dict[type[Any], dict[object, Handler[Any]]] = {}
        """Those of a type in their order, each under a key of its own: the same function may be there twice."""
        self._observers: tuple[Observer, ...] = ()

    def __contains__(self, event_type: type[Event]) -> bool:
        """Whether anybody listens: an event that nobody hears need not be made."""
        if event_type in self._by_type:
            return True
        return bool(self._observers) and any(observer.hears(event_type) for observer in self._observers)

    def add(self, event_type: type[E], handler: Handler[E]) -> Callable[[], None]:
        """Add a handler behind the others of its type; returns a function that takes it away again.

        Raises:
            TypeError: there are no events of this type, or the handler cannot be called.
        """
        if not callable(handler):
            raise TypeError(f"a handler is a function of the event, not {handler!r}")
        if event_type not in _EVENTS:
            raise TypeError(f"{event_type!r} is no type of event; these are: {', '.join(k.__name__ for k in _EVENTS)}")
        handlers = self._by_type.setdefault(event_type, {})
        handlers[key := object()] = handler

        def unsubscribe() -> None:
            handlers.pop(key, None)
            if not handlers and self._by_type.get(event_type) is handlers:
                del self._by_type[event_type]

        return unsubscribe

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the same handlers, and nobody sees it."""
        return {**self.__dict__, "_observers": ()}

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Add an observer; returns a function that takes it away again."""
        self._observers = (*self._observers, observer)

        def unobserve() -> None:
            self._observers = tuple(other for other in self._observers if other is not observer)

        return unobserve

    def around(self, call: ToolCall) -> AbstractContextManager[object]:
        """What the function of a call runs within."""
        return self._around(call) if self._observers else _UNOBSERVED

    @contextmanager
    def _around(self, call: ToolCall) -> Generator[None]:
        with ExitStack() as stack:
            for observer in self._observers:
                with _nobody_stopped(observer, f"entering the call {call.name}"):
                    stack.enter_context(observer.around(call))
            yield

    def follow(self, agent: Any, call: ToolCall) -> None:
        """Another agent is going to answer a call: observers of this one see it, too."""
        for observer in self._observers:
            with _nobody_stopped(observer, f"following the call {call.name}"):
                observer.follow(agent, call)

    async def emit(self, event: Event) -> None:
        """Hand an event to its handlers, in order; async ones are awaited.

        A handler that another one takes away is not called any more; one that is added hears the next event.

        Raises:
            Exception: in strict mode, what the first handler raised that did; what further ones raised is logged.
        """
        self.observed(event)
        await self.hand_out(event)

    async def hand_out(self, event: Event) -> None:
        """`emit`, after observers have been told.

        Raises:
            Exception: as `emit` does.
        """
        failed: list[Exception] = []
        await self._tell(event, failed.append if self._strict else partial(_log, event))
        for error in failed[1:]:
            _log(event, error)
        if failed:
            raise failed.pop(0)

    async def emit_beside(self, event: Event) -> None:
        """Like `emit`, where an error or a close is under way already: what a handler raises is logged."""
        self.observed(event)
        await self._tell(event, partial(_log, event))

    def emit_later(self, event: Event) -> None:
        """Like `emit_beside`, from a place that cannot wait. Without an event loop only observers are told."""
        self.observed(event)
        unobserved = copy(self)
        if (loop := asyncio._get_running_loop()) is not None and type(event) in unobserved:
            task = loop.create_task(unobserved.emit_beside(event))
            _telling.add(task)
            task.add_done_callback(_telling.discard)

    def observed(self, event: Event) -> None:
        """Tell observers of an event."""
        for observer in self._observers:
            with _nobody_stopped(observer, f"told of {type(event).__name__}"):
                observer.told(event)

    async def _tell(self, event: Event, on_error: Callable[[Exception], None]) -> None:
        handlers = self._by_type.get(type(event), {})
        for key in tuple(handlers):
            if (handler := handlers.get(key)) is None:
                continue
            try:
                await tell(handler, event)
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                on_error(own_cancellation("a handler", error))
            except Exception as error:
                on_error(error)


def own_cancellation(who: str, error: asyncio.CancelledError) -> Exception:
    """What to raise when something that `who` waited for was cancelled, and not the task that `who` runs in."""
    raised = RuntimeError(f"{who} raised CancelledError")
    raised.__cause__ = error
    return raised


@contextmanager
def _nobody_stopped(observer: Observer, doing: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        logger.opt(exception=error).error("the observer {} raised, {}", type(observer).__name__, doing)


def _log(event: Event, error: Exception) -> None:
    logger.opt(exception=error).error("a handler of {} raised", type(event).__name__)


_EVENTS: Final[tuple[type[Any], ...]] = get_args(Event)

_UNOBSERVED: Final = nullcontext()

_telling: Final[set[asyncio.Task[None]]] = set()
"""Tasks that nobody waits for: an event loop holds its tasks weakly."""


# ==== as JSON ====


_KINDS: Final[dict[str, type[Any]]] = {kind.__name__: kind for kind in (*_EVENTS, *get_args(StreamFrame))}


def to_dict(value: Event | StreamFrame) -> dict[str, Any]:
    """An event or a frame as what JSON can say: the name of its class under `type`, beside its fields.

    Raises:
        TypeError: it is neither.
        ValueError: JSON cannot say what somebody keeps in `extra`.
    """
    name = type(value).__name__
    if _KINDS.get(name) is not type(value):
        raise TypeError(f"{value!r} is neither an event nor a frame")
    if isinstance(value, StreamFrameReceived):
        return {"type": name, "frame": to_dict(value.frame)}
    if isinstance(value, SubAgentEvent):
        return {"type": name, "path": to_jsonable_python(value.path), "event": to_dict(value.event)}
    if isinstance(value, ToolCall | ToolResult):
        return {**value.model_dump(mode="json"), "type": name}
    return {"type": name, **{field.name: to_jsonable_python(getattr(value, field.name)) for field in fields(value)}}


def from_dict(data: Mapping[str, Any]) -> Event | StreamFrame:
    """The event or the frame that `to_dict` made `data` of. Fields of newer versions are kept, or left out.

    Raises:
        ValueError: it is of no known type, or a field is missing or wrong.
    """
    kind = _KINDS.get(str(name := data.get("type") if isinstance(data, Mapping) else None))
    if kind is None:
        raise ValueError(f"type {name!r} is neither an event nor a frame; there are {', '.join(_KINDS)}")
    given = {name: value for name, value in data.items() if name != "type"}
    if kind is StreamFrameReceived:
        given["frame"] = _frame_from(given.get("frame"))
    if kind is SubAgentEvent:
        given["event"] = _event_from(given.get("event"))
    try:
        return _reader_of(kind).validate_python(given, context=KEEP_UNKNOWN)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors(include_url=False)]
        raise ValueError(f"this is no {kind.__name__}: {'; '.join(wrong)}") from error


def _frame_from(data: object) -> Event | StreamFrame:
    given: Mapping[str, Any] = cast(Any, data) if isinstance(data, Mapping) else {}
    if given.get("type") not in {frame.__name__ for frame in get_args(StreamFrame)}:
        raise ValueError(f"this is no StreamFrameReceived: frame: {reprlib.repr(cast(Any, data))} is none")
    return from_dict(given)


def _event_from(data: object) -> Event | StreamFrame:
    given: Mapping[str, Any] = cast(Any, data) if isinstance(data, Mapping) else {}
    if given.get("type") not in {event.__name__ for event in _EVENTS}:
        raise ValueError(f"this is no SubAgentEvent: event: {reprlib.repr(cast(Any, data))} is none")
    return from_dict(given)


@cache
def _reader_of(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # not before somebody needs it

    return TypeAdapter(kind)
