"""What people hold while a model answers: a stream of one message, and a round in progress.

A `MessageStream` is read by one task of its own, which opens, reads, commits and closes; consumers wait on what it has
recorded. So a slow consumer holds no connection, a cancelled one cancels its own wait only, a second iteration replays,
and every waiter gets the message or the error. The task ends early when the stream is closed, when its round ends, or
when nobody holds the stream any more.

A `Round` works in its consumer's task. Dropping it - a `break` is enough - gives the turn back at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

from .errors import RoundInProgressError, StreamInterruptedError
from .events import (
    Append,
    End,
    Handlers,
    Reasoning,
    StreamCancelled,
    StreamFailed,
    StreamFrame,
    StreamFrameReceived,
    own_cancellation,
)
from .frames import to_frames
from .generate import BatchCallback, GenerateResult
from .kimi.assemble import fold
from .message import Message, Role, ToolCall
from .tools.base import ToolResult
from .tools.running import is_being_cancelled
from .turns import Turn, finished_by

__all__ = ["MessageStream", "Round"]

Item = TypeVar("Item")
Steps: TypeAlias = AsyncGenerator[Any, None]
"""The loop of a round, as its agent writes it: one item for each message."""
Produce: TypeAlias = Callable[["Recording"], Awaitable[GenerateResult]]
"""Reads an answer into a recording, commits it and returns it."""


# ==== one message ====


class Recording:
    """What has come of a stream, and who waits for more."""

    __slots__ = ("_held", "_traceback", "_waiting", "closed", "error", "frames", "result")

    def __init__(self, frames: list[StreamFrame] | None = None, result: GenerateResult | None = None) -> None:
        self.frames: list[StreamFrame] = frames if frames is not None else []
        self.result = result
        self.error: BaseException | None = None
        self.closed = False
        """Ended by its reader, before the end of the answer."""
        self._traceback: TracebackType | None = None
        self._held: list[StreamFrame] = []
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or self.error is not None

    def extend(self, frames: list[StreamFrame]) -> None:
        """More has come. Whole calls and the `End` have the message: they are held back until it is committed."""
        if frames and type(frames[-1]) is End:
            place = next(place for place, frame in enumerate(frames) if isinstance(frame, End | ToolCall))
            frames, self._held = frames[:place], frames[place:]
        self.frames += frames
        self._wake()

    def end(self, result: GenerateResult | BaseException) -> None:
        """Nothing more will come."""
        if isinstance(result, BaseException):
            self.error, self._traceback = result, result.__traceback__
        else:
            self.result = result
            self.frames += [_with_message(frame, result.message) for frame in self._held]
        self._wake()

    def close(self) -> None:
        """Nothing more will come, because nobody wants more."""
        self.closed = True
        self.end(StreamInterruptedError("the stream was closed before its end", fold(self.frames)))

    def check(self) -> None:
        """Raise the error, if it ended with one. Each who waits gets it as it was, without the others' tracebacks."""
        if self.error is not None:
            raise self.error.with_traceback(self._traceback)

    async def more(self) -> None:
        """Wait until more has come, or the end."""
        grown = asyncio.get_running_loop().create_future()
        self._waiting.add(grown)
        try:
            await grown
        finally:
            self._waiting.discard(grown)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for grown in waiting:
            if not grown.done():
                grown.set_result(None)


def _with_message(frame: StreamFrame, message: Message) -> StreamFrame:
    """The `End` has the message as it was committed, with what was measured, say."""
    return replace(frame, message=message) if isinstance(frame, End) else frame


_readers: Final[set[asyncio.Task[None]]] = set()
"""Readers that have not ended: an event loop holds its tasks weakly."""


async def _read(produce: Produce, recording: Recording) -> None:
    """The reader: whatever happens, the recording ends."""
    try:
        recording.end(await produce(recording))
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            recording.close()
        else:
            recording.end(own_cancellation("a hook of the agent", error))
    except Exception as error:
        recording.end(error)
    except BaseException as error:
        recording.end(error)
        raise


def _forget(recording: Recording, reader: asyncio.Task[None]) -> None:
    _readers.discard(reader)
    if not reader.cancelled():
        reader.exception()  # what ended it is in its recording
    if not recording.ended:  # it was cancelled before it had begun
        recording.close()


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task, from whatever thread the stream was collected in."""
    loop = task.get_loop()
    if asyncio._get_running_loop() is loop:
        task.cancel()
    elif not loop.is_closed():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)


def on_batch(handlers: Handlers, recording: Recording | None = None) -> BatchCallback:
    """What to do with each batch of frames: tell handlers of each frame, if there are any, then record."""

    def record(frames: list[StreamFrame]) -> None:
        if recording is not None:
            recording.extend(frames)

    async def announce(frames: list[StreamFrame]) -> None:
        for frame in frames:
            await handlers.emit(StreamFrameReceived(frame))
        record(frames)

    return lambda frames: announce(frames) if StreamFrameReceived in handlers else record(frames)


def tells_of_failures(handlers: Handlers) -> bool:
    """Whether somebody wants to know how a stream ended that did not end well."""
    return StreamFailed in handlers or StreamCancelled in handlers


async def tell_of_failure(handlers: Handlers, error: BaseException, recording: Recording | None) -> None:
    """Tell handlers how a stream ended that did not end well. What they raise does not hide why it did not."""
    if tells_of_failures(handlers):
        partial = getattr(error, "partial", None)
        if not isinstance(partial, Message):  # other errors have a `partial` of their own
            partial = fold(recording.frames if recording else ())
        if isinstance(error, Exception):
            await handlers.emit_beside(StreamFailed(type(error).__name__, str(error), partial))
        else:
            await handlers.emit_beside(StreamCancelled(partial))


class MessageStream:
    """One message while it arrives.

    `async for token in stream` gives its text, `await stream` the message. Nothing is asked before one of the two, or
    `frames()` and its siblings, is used. What has come is kept: iterating again replays it and never asks again.
    """

    def __init__(self, role: Role, produce: Produce) -> None:
        self.role: Role = role
        """Who speaks; known before anything has come."""
        self._produce = produce
        self._recording = Recording()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, message: Message) -> MessageStream:
        """A stream of a message that is there already: the model's, or the result of a call.

        Raises:
            ValueError: somebody else said it.
        """
        stream = cls(message.role, _nothing_to_read)
        stream._recording = Recording(to_frames(message), GenerateResult(None, message, None))
        return stream

    # ---- reading ----

    def __aiter__(self) -> AsyncIterator[str]:
        return _Reading(self, _text_of)

    def frames(self) -> AsyncIterator[StreamFrame]:
        """The typed frames: the last one of an answer is an `End`; the result of a call is one `ToolResult`.

        Raises:
            ChatProviderError: after the frames that came before it.
        """
        return _Reading(self, _all_of)

    def text(self) -> AsyncIterator[str]:
        """The text, piece by piece; the same as iterating the stream."""
        return aiter(self)

    def reasoning(self) -> AsyncIterator[str]:
        """The reasoning, piece by piece."""
        return _Reading(self, _reasoning_of)

    async def frames_from(self, position: int) -> list[StreamFrame]:
        """What has come behind the first `position` frames, once there is anything; nothing behind the last one."""
        recording = self._started()
        while not (new := recording.frames[position:]) and not recording.ended:
            await self._more()
        if not new:
            recording.check()
        return new

    async def collect_text(self) -> str:
        """The whole text."""
        return (await self.message()).text

    async def message(self) -> Message:
        """The whole message.

        Raises:
            ChatProviderError: it did not come whole.
        """
        return (await self.completion()).message

    async def completion(self) -> GenerateResult:
        """The whole message with its id, usage and finish reason.

        Raises:
            ChatProviderError: it did not come whole.
        """
        recording = self._started()
        while not recording.ended:
            await self._more()
        recording.check()
        assert recording.result is not None
        return recording.result

    async def completion_unless_closed(self) -> GenerateResult | None:
        """Like `completion`, but `None` when a reader closed the stream before its end."""
        try:
            return await self.completion()
        except StreamInterruptedError:
            if self.closed:
                return None
            raise

    async def _more(self) -> None:
        if self._reader is asyncio.current_task():
            raise RoundInProgressError("a hook or handler cannot wait for the stream that it is called by")
        await self._recording.more()

    def __await__(self) -> Generator[Any, None, Message]:
        return self.message().__await__()

    @property
    def closed(self) -> bool:
        """Whether it was closed before its end."""
        return self._recording.closed

    @property
    def partial(self) -> Message:
        """The message as far as it has come."""
        return self._recording.result.message if self._recording.result else fold(self._recording.frames)

    # ---- its end ----

    async def aclose(self) -> None:
        """Stop reading, let go of the connection. Waiters get a `StreamInterruptedError`; the history gets nothing."""
        self.close_now()
        reader = self._reader
        if reader is not None and reader is not asyncio.current_task() and not reader.get_loop().is_closed():
            await asyncio.wait([reader])

    def close_now(self) -> None:
        """Like `aclose`, without waiting for the connection to be let go."""
        if self._recording.ended:
            return
        if self._reader is None:
            self._recording.close()
        else:
            _cancel(self._reader)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        reader = getattr(self, "_reader", None)
        if reader is not None and not reader.done():
            _cancel(reader)

    def _started(self) -> Recording:
        if self._reader is None and not self._recording.ended:
            self._reader = asyncio.get_running_loop().create_task(_read(self._produce, self._recording))
            _readers.add(self._reader)
            self._reader.add_done_callback(partial(_forget, self._recording))
        elif self._reader is not None and self._reader.get_loop().is_closed() and not self._recording.ended:
            self._recording.close()  # its event loop has gone, and the reader with it
        return self._recording


async def _nothing_to_read(_: Recording) -> GenerateResult:
    raise AssertionError("a finished stream is not read")


class _Reading(Generic[Item]):
    """What has come of a stream, from the beginning.

    An object: dropping it leaves nothing to clean up, and whoever gives up waiting for the next item may ask again.
    """

    def __init__(self, stream: MessageStream, pick: Callable[[list[StreamFrame]], Iterable[Item]]) -> None:
        self._stream = stream
        self._pick = pick
        self._position = 0
        self._ready: Iterator[Item] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while True:
            for item in self._ready:
                return item
            position = self._position
            new = await self._stream.frames_from(position)
            if position != self._position:  # another task has read them
                continue
            if not new:
                raise StopAsyncIteration
            self._position += len(new)
            self._ready = iter(self._pick(new))


def _all_of(frames: list[StreamFrame]) -> list[StreamFrame]:
    return frames


def _text_of(frames: list[StreamFrame]) -> Iterator[str]:
    for frame in frames:
        if type(frame) is Append:
            yield frame.text
        elif isinstance(frame, ToolResult) and (text := Message.tool(frame.return_value.output, "").text):
            yield text


def _reasoning_of(frames: list[StreamFrame]) -> list[str]:
    return [frame.text for frame in frames if isinstance(frame, Reasoning)]


# ==== a round ====


class Round(Generic[Item]):
    """A round in progress: an async iterator that gives the turn back when it ends, is closed, fails or is dropped.

    `async for item in round` is enough. `async with round:` or `aclose()` wait until everything has been cleaned up.
    A cancelled round, or one that is left half-way, keeps every result that was finished; open calls are answered.
    """

    def __init__(
        self,
        turn: Turn,
        steps: Steps,
        advance: Callable[[Steps], Awaitable[Item]] = anext,
    ) -> None:
        self._turn = turn
        self._steps = steps
        self._advance = advance
        turn.belongs_to(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        """The next item.

        Raises:
            RoundInProgressError: a newer round of the same agent took the turn, or another task advances this one.
        """
        turn = self._turn
        if turn.superseded:
            raise RoundInProgressError(f"this round was closed because its agent {turn.superseded}")
        if turn.is_closing:
            await turn.until_ended()
        if turn.ended is not None:
            raise StopAsyncIteration
        with turn.running():
            try:
                return await self._advance(self._steps)
            except BaseException as error:
                closed_by_another = turn.was_interrupted()
                await turn.close(finished_by(error))
                if closed_by_another:
                    raise StopAsyncIteration from None
                raise

    async def aclose(self) -> None:
        """End the round and wait until what it had under way has ended. Any task may do that.

        Raises:
            RoundInProgressError: called by a tool, hook or handler of this very round.
        """
        await self._turn.interrupt()
        await self._turn.close()
        self._finish_steps()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        with suppress(AttributeError):  # a constructor that raised
            self._turn.drop()
            self._finish_steps()

    def _finish_steps(self) -> None:
        """End the generator here and now. It stands at a `yield` with nothing to clean up, so there is no waiting."""
        with suppress(StopIteration, RuntimeError):
            self._steps.aclose().send(None)


class FrameByFrame:
    """Advances a round of streams by the frame."""

    def __init__(self) -> None:
        self._frames: AsyncIterator[StreamFrame] | None = None

    async def __call__(self, steps: AsyncGenerator[MessageStream, None]) -> StreamFrame:
        while True:
            if self._frames is None:
                self._frames = (await anext(steps)).frames()
            if (frame := await anext(self._frames, None)) is not None:
                return frame
            self._frames = None


def assistant_text(message: Message) -> str | None:
    """The text of what the model said; `None` for what it did not say."""
    return message.text if message.role == "assistant" else None


class FormattedMessages:
    """Advances a round of messages by the text that a formatter makes of them; what it makes nothing of is skipped."""

    def __init__(self, formatter: Callable[[Message], str | None]) -> None:
        self._formatter = formatter

    async def __call__(self, steps: AsyncGenerator[Message, None]) -> str:
        while True:
            text = self._formatter(await anext(steps))
            if text:
                return text
