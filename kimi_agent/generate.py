"""One model turn as a stateless function: it asks, folds the answer, and touches nothing that it was given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from .errors import APIEmptyResponseError, StreamInterruptedError
from .events import CUT_OFF, End, StreamFrame, tell
from .history import is_empty
from .kimi.assemble import Assembler, Parts
from .message import Message, StreamedMessagePart, TokenUsage, ToolCall
from .provider import BatchedMessage, ChatProvider, StreamedMessage
from .tools.base import Tool

__all__ = ["GenerateResult", "batches_of", "collect", "generate"]

BatchCallback: TypeAlias = Callable[[list[StreamFrame]], Awaitable[None] | None]
PartCallback: TypeAlias = Callable[[StreamedMessagePart], Awaitable[None] | None]
CallCallback: TypeAlias = Callable[[ToolCall], Awaitable[None] | None]
TraceCallback: TypeAlias = Callable[[str | None], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What one model turn gave.

    `finish_reason` tells `length` and `content_filter`, after which the message may be cut off, from a full stop.
    """

    id: str | None
    message: Message
    usage: TokenUsage | None
    finish_reason: str | None = None
    trace_id: str | None = None
    logprobs: Sequence[Mapping[str, Any]] = ()
    """An entry per token of the text, if the request asked for `logprobs`."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the answer ended before the model was done; its calls may be incomplete."""
        return self.finish_reason in CUT_OFF


async def generate(
    provider: ChatProvider,
    system_prompt: str,
    tools: Sequence[Tool],
    history: Sequence[Message],
    *,
    on_message_part: PartCallback | None = None,
    on_tool_call: CallCallback | None = None,
    on_trace_id: TraceCallback | None = None,
) -> GenerateResult:
    """Ask a model for one message.

    Callbacks may be sync or async; async ones are awaited before the stream goes on.

    Args:
        provider: who answers.
        system_prompt: goes before the history; `""` for none.
        tools: what the model may call.
        history: the messages; they are not changed.
        on_message_part: gets each part as it comes.
        on_tool_call: gets each whole call once the stream has ended; never one that was cut off.
        on_trace_id: gets the provider's id of the request before the first part.

    Raises:
        ChatProviderError: the model could not be asked, or its answer did not come whole.
        APIEmptyResponseError: the answer has neither text nor calls, and was not cut off.
    """
    stream = await provider.generate(system_prompt, tools, history)
    try:
        if on_trace_id is not None:
            await tell(on_trace_id, stream.trace_id)
        result = await collect(stream, None if on_message_part is None else _parts_to(on_message_part))
        if on_tool_call is not None and not result.is_cut_off:
            for call in result.message.tool_calls or ():
                await tell(on_tool_call, call)
        return result
    finally:
        await stream.aclose()


async def collect(stream: StreamedMessage, on_batch: BatchCallback | None = None) -> GenerateResult:
    """Read a stream to its end and close it, whatever happens.

    Args:
        stream: an answer that nobody has read yet.
        on_batch: gets each batch of frames; its awaitable, if it returns one, is awaited.

    Raises:
        ChatProviderError: the answer did not come whole, or is empty.
    """
    try:
        end: StreamFrame | None = None
        async for frames in batches_of(stream):
            end = frames[-1]
            if on_batch is not None and (told := on_batch(frames)) is not None:
                await told
        if not isinstance(end, End):
            raise StreamInterruptedError("the stream ended without an End", Message.assistant())
        return _result(stream, end)
    finally:
        await stream.aclose()


def _result(stream: StreamedMessage, end: End) -> GenerateResult:
    logprobs = tuple(getattr(stream, "logprobs", ()))
    result = GenerateResult(stream.id, end.message, end.usage, end.finish_reason, stream.trace_id, logprobs)
    if is_empty(end.message) and not result.is_cut_off and not getattr(stream, "may_be_empty", False):
        raise APIEmptyResponseError(f"the answer has neither text nor calls (finish_reason {end.finish_reason!r})")
    return result


def batches_of(stream: StreamedMessage) -> AsyncIterator[list[StreamFrame]]:
    """The frames of a stream, whether it hands them over by the network read or has parts only."""
    return stream.batches() if isinstance(stream, BatchedMessage) else _FoldedParts(stream)


class _FoldedParts:
    """The batches of a stream that has parts only. An object, so that dropping it leaves nothing to clean up."""

    def __init__(self, stream: StreamedMessage) -> None:
        self._stream = stream
        self._parts = aiter(stream)
        self._assembler = Assembler()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[StreamFrame]:
        frames: list[StreamFrame] = []
        while not frames:
            if self._ended:
                raise StopAsyncIteration
            part = await anext(self._parts, None)
            if part is None:
                self._ended = True
                self._assembler.end(self._stream.finish_reason, self._stream.usage)
                return self._assembler.close()
            self._assembler.feed_part(part, frames)
        return frames


def _parts_to(callback: PartCallback) -> BatchCallback:
    parts = Parts()

    async def each_part(frames: list[StreamFrame]) -> None:
        for frame in frames:
            if (part := parts.of(frame)) is not None:
                await tell(callback, part)

    return each_part
