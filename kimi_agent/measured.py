"""What an answer took, and a call: kept with its message where the conversation lasts, and sent to nobody.

It stands in `extra["measured"]`. Saved files are anybody's: what is no measure there counts as not measured.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from time import monotonic, time
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeVar

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .events import Handlers, RequestRetried, RequestSent, StreamFrame, tell
from .generate import BatchCallback, GenerateResult
from .message import Message
from .prompt.window import Window
from .provider import ChatProvider, OnEvent

__all__ = ["KEY", "MeasuredAnswer", "MeasuredCall", "Retry", "Stopwatch", "of_answer", "of_call", "with_call"]

KEY: Final = "measured"
"""Where it stands in the `extra` of a message."""

_LATEST: Final = 32_503_680_000  # the year 3000
_LONGEST: Final = 366 * 86_400
_MOST: Final = 2**53
_LONGEST_ERROR: Final = 300

Moment = Annotated[float, Field(ge=0, le=_LATEST)]
Seconds = Annotated[float, Field(ge=0, le=_LONGEST)]
Tokens = Annotated[int, Field(ge=0, le=_MOST)]


# ==== what is kept ====


class Retry(NamedTuple):
    """A request failed and was made again.

    Args:
        at: seconds after the beginning of the answer.
        delay: seconds until it was made again.
        error: what had happened.
    """

    at: Seconds
    delay: Seconds
    error: str


class MeasuredCall(BaseModel):
    """What a call took.

    Args:
        began: seconds since 1970.
        seconds: until its result.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    began: Moment
    seconds: Seconds


class MeasuredAnswer(MeasuredCall):
    """What an answer took. `None` is not known.

    Args:
        began: seconds since 1970.
        seconds: until its end.
        first: seconds until the first of it came.
        model: who answered.
        window: of the model, in tokens.
        prompt: tokens of the prompt, as counted before it was sent.
        input: tokens of the prompt, as the server counted.
        cached: those of them that came out of the cache.
        output: tokens of the answer.
        retries: requests that failed before.
    """

    first: Seconds | None = None
    model: str = ""
    window: Tokens | None = None
    prompt: Tokens | None = None
    input: Tokens | None = None
    cached: Tokens | None = None
    output: Tokens | None = None
    retries: tuple[Retry, ...] = ()


M = TypeVar("M", bound=MeasuredCall)


def of_answer(message: Message) -> MeasuredAnswer | None:
    """What an answer took; `None` if nobody measured it."""
    return _read(MeasuredAnswer, message)


def of_call(message: Message) -> MeasuredCall | None:
    """What the call took whose result this is; `None` if nobody measured it."""
    return _read(MeasuredCall, message)


def _read(kind: type[M], message: Message) -> M | None:
    try:
        return kind.model_validate(message.extra.get(KEY))
    except ValidationError:
        return None


def with_call(result: Message, began: float, seconds: float) -> Message:
    """The result of a call with what the call took."""
    return _with(result, MeasuredCall, {"began": round(began, 3), "seconds": round(seconds, 4)})


def _with(message: Message, kind: type[MeasuredCall], fields: Mapping[str, Any]) -> Message:
    """The message with its measures; without, if a clock or a provider gave what is none."""
    try:
        measured = kind.model_validate(fields)
    except ValidationError:
        logger.opt(exception=True).debug("a measure is out of its range")
        return message
    return message.copy_with(extra={**message.extra, KEY: measured.model_dump(exclude_defaults=True)})


# ==== measuring ====


class Measured(Protocol):
    """An agent whose answers are measured."""

    provider: ChatProvider
    _handlers: Handlers
    _window: Window


class Stopwatch:
    """Measures answers of an agent, one at a time, while `running`."""

    __slots__ = ("_began", "_first", "_retries", "_started")

    def __init__(self) -> None:
        self._started: float | None = None
        self._began = 0.0
        self._first: float | None = None
        self._retries: list[Retry] = []

    @property
    def running(self) -> bool:
        """Whether an answer is measured."""
        return self._started is not None

    def start(self) -> None:
        """The model is about to be asked."""
        self._began, self._started = time(), monotonic()
        self._first, self._retries = None, []

    def stop(self) -> None:
        """There will be no answer, or it was measured."""
        self._started = None

    def _passed(self) -> float:
        return 0.0 if self._started is None else round(monotonic() - self._started, 4)

    def on_batch(self, told: BatchCallback) -> BatchCallback:
        """`told`; if an answer is measured, one that notes when its first frames come."""

        def note(frames: list[StreamFrame]) -> Awaitable[None] | None:
            if self._first is None and frames:
                self._first = self._passed()
            return told(frames)

        return note if self.running else told

    def on_event(self, told: OnEvent | None) -> OnEvent | None:
        """`told`; if an answer is measured, one that notes retries."""

        async def note(event: RequestSent | RequestRetried) -> None:
            if isinstance(event, RequestRetried):
                error = f"{event.error_type}: {event.error}"[:_LONGEST_ERROR]
                self._retries.append(Retry(self._passed(), round(event.delay, 4), error))
            if told is not None:
                await tell(told, event)

        return note if self.running else told

    def measured(self, agent: Measured, result: GenerateResult) -> GenerateResult:
        """The answer with what it took, if it is measured. Measuring ends."""
        if not self.running:
            return result
        usage = result.usage
        fields = {
            "began": round(self._began, 3),
            "seconds": self._passed(),
            "first": self._first,
            "model": agent.provider.model_name,
            "window": agent.provider.context_window,
            "prompt": agent._window.tokens or None,
            "input": usage.input if usage else None,
            "cached": usage.input_cache_read if usage else None,
            "output": usage.output if usage else None,
            "retries": self._retries,
        }
        self.stop()
        return replace(result, message=_with(result.message, MeasuredAnswer, fields))
