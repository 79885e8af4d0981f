"""What people hold while a model answers: a stream of one message, and a round in progress.

A `MessageStream` is read by one task of its own, which opens, reads, commits and closes; consumers wait on what it has
recorded. So a slow consumer holds no connection, a cancelled one cancels its own wait only, a second iteration replays,
and every waiter gets the message or the error. The task ends early when the stream is closed, when its round ends, or
when nobody holds the stream any more.

A `Round` works in its consumer's task. Dropping it - a `break` is enough - gives the turn back at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

from .errors import RoundInProgressError, StreamInterruptedError
from .events import (
    Append,
    Handlers,
    Reasoning,
    StreamCancelled,
    StreamFailed,
    StreamFrame,
    StreamFrameReceived,
)
from .generate import BatchCallback, GenerateResult
from .kimi.assemble import fold
from .message import Message, Role
from .tools.base import ToolResult, ToolReturnValue
from .turns import Turn, outcome_of

__all__ = ["MessageStream", "Round"]

Item = TypeVar("Item")
Steps: TypeAlias = AsyncGenerator[Any, None]
"""The loop of a round, as its agent writes it: one item for each message."""
Produce: TypeAlias = Callable[["Recording"], Awaitable[GenerateResult]]
"""Reads an answer into a recording, commits it and returns it."""


# ==== one message ====


class Recording:
    """What has come of a stream, and who waits for more."""

    __slots__ = ("_waiting", "closed", "error", "frames", "result")

    def __init__(self, frames: list[StreamFrame] | None = None, result: GenerateResult | None = None) -> None:
        self.frames: list[StreamFrame] = frames if frames is not None else []
        self.result = result
        self.error: BaseException | None = None
        self.closed = False
        """Ended by its reader, before the end of the answer."""
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or self.error is not None

    def extend(self, frames: list[StreamFrame]) -> None:
        """More has come."""
        self.frames += frames
        self._wake()

    def end(self, result: GenerateResult | BaseException) -> None:
        """Nothing more will come."""
        if isinstance(result, BaseException):
            self.error = result
        else:
            self.result = result
        self._wake()

    def close(self) -> None:
        """Nothing more will come, because nobody wants more."""
        self.closed = True
        self.end(StreamInterruptedError("the stream was closed before its end", fold(self.frames)))

    async def more(self) -> None:
        """Wait until more has come, or the end."""
        grown = asyncio.get_running_loop().create_future()
        self._waiting.append(grown)
        await grown

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for grown in waiting:
            if not grown.done():
                grown.set_result(None)


_readers: Final[set[asyncio.Task[None]]] = set()
"""Readers that have not ended: an event loop holds its tasks weakly."""


async def _read(produce: Produce, recording: Recording) -> None:
    """The reader: whatever happens, the recording ends."""
    try:
        recording.end(await produce(recording))
    except asyncio.CancelledError:
        recording.close()
    except Exception as error:
        recording.end(error)
    except BaseException as error:
        recording.end(error)
        raise


def _forget(reader: asyncio.Task[None]) -> None:
    _readers.discard(reader)
    if not reader.cancelled():
        reader.exception()  # what ended it is in its recording


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task, from whatever thread the stream was collected in."""
    loop = task.get_loop()
    if asyncio._get_running_loop() is loop:
        task.cancel()
    elif not loop.is_closed():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)


def on_batch(handlers: Handlers, recording: Recording | None = None) -> BatchCallback | None:
    """What to do with each batch of frames: tell handlers of each frame, if there are any, then record."""
    record = recording.extend if recording is not None else None
    if StreamFrameReceived not in handlers:
        return record

    async def announce(frames: list[StreamFrame]) -> None:
        for frame in frames:
            await handlers.emit(StreamFrameReceived(frame))
        if record is not None:
            record(frames)

    return announce


async def tell_of_failure(handlers: Handlers, error: BaseException, recording: Recording | None) -> None:
    """Tell handlers how a stream ended that did not end well."""
    if StreamFailed in handlers or StreamCancelled in handlers:
        partial = getattr(error, "partial", None) or fold(recording.frames if recording else ())
        if isinstance(error, Exception):
            await handlers.emit(StreamFailed(type(error).__name__, str(error), partial))
        else:
            await handlers.emit(StreamCancelled(partial))


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
        """A stream of a message that is there already."""
        frames: list[StreamFrame] = [_tool_result(message)] if message.role == "tool" else []
        return _Finished(message, Recording(frames, GenerateResult(None, message, None)))

    # ---- reading ----

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        recording = self._started()
        position = 0
        while True:
            if new := recording.frames[position:]:
                position += len(new)
                for frame in new:
                    if type(frame) is Append:
                        yield frame.text
            elif recording.ended:
                break
            else:
                await recording.more()
        self._raise_error()

    async def frames(self) -> AsyncGenerator[StreamFrame, None]:
        """The typed frames: the last one of an answer is an `End`; the result of a call is one `ToolResult`.

        Raises:
            ChatProviderError: after the frames that came before it.
        """
        position = 0
        while (frame := await self.frame(position)) is not None:
            yield frame
            position += 1

    async def frame(self, position: int) -> StreamFrame | None:
        """The frame at `position`, once it has come; `None` behind the last one."""
        recording = self._started()
        while position >= len(recording.frames):
            if recording.ended:
                self._raise_error()
                return None
            await recording.more()
        return recording.frames[position]

    def text(self) -> AsyncIterator[str]:
        """The text, piece by piece; the same as iterating the stream."""
        return aiter(self)

    async def reasoning(self) -> AsyncGenerator[str, None]:
        """The reasoning, piece by piece."""
        async for frame in self.frames():
            if isinstance(frame, Reasoning):
                yield frame.text

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
            await recording.more()
        self._raise_error()
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
            self._reader.add_done_callback(_forget)
        elif self._reader is not None and self._reader.get_loop().is_closed() and not self._recording.ended:
            self._recording.close()  # its event loop has gone, and the reader with it
        return self._recording

    def _raise_error(self) -> None:
        if self._recording.error is not None:
            raise self._recording.error


class _Finished(MessageStream):
    """A stream of a message that is there already: its text is one token."""

    def __init__(self, message: Message, recording: Recording) -> None:
        async def produce(_: Recording) -> GenerateResult:
            raise AssertionError("a finished stream is not read")

        super().__init__(message.role, produce)
        self._recording = recording
        self._text = message.text

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        if self._text:
            yield self._text


def _tool_result(message: Message) -> ToolResult:
    output = message.text if all(part.type == "text" for part in message.content) else message.content
    value = ToolReturnValue(is_error=bool(message.is_tool_call_error), output=output)
    return ToolResult(tool_call_id=message.tool_call_id or "", return_value=value)


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
            raise RoundInProgressError("this round was closed because its agent began another one")
        if turn.ended is not None:
            raise StopAsyncIteration
        with turn.running():
            try:
                return await self._advance(self._steps)
            except BaseException as error:
                closed_by_another = turn.was_interrupted()
                await turn.close(outcome_of(error))
                if closed_by_another:
                    raise StopAsyncIteration from None
                raise

    async def aclose(self) -> None:
        """End the round and wait until what it had under way has ended. Any task may do that.

        Raises:
            RoundInProgressError: called by a tool, hook or handler of this very round.
        """
        await self._turn.interrupt()
        await self._turn.close("closed")
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
        self._stream: MessageStream | None = None
        self._position = 0

    async def __call__(self, steps: AsyncGenerator[MessageStream, None]) -> StreamFrame:
        while True:
            if self._stream is None:
                self._stream, self._position = await anext(steps), 0
            frame = await self._stream.frame(self._position)
            if frame is not None:
                self._position += 1
                return frame
            self._stream = None


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
