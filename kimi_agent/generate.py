"""One model turn as a stateless function: `generate` asks and folds the answer, `step` also runs what it calls.

Neither touches what it is given. Whatever raises - a callback, a tool, the wire, a cancellation - leaves no task and no
connection behind.
"""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Self, TypeAlias, TypeVar, overload

from loguru import logger

from .errors import APIEmptyResponseError, StreamInterruptedError, StreamProtocolError
from .events import CUT_OFF, End, StreamFrame, plain_reason, tell
from .history import is_empty
from .kimi.assemble import Assembler, Parts
from .message import Message, StreamedMessagePart, TokenUsage, ToolCall
from .provider import Answerer, PartStream, has_batches
from .tools.base import Tool, ToolError, ToolResult
from .tools.running import is_being_cancelled
from .tools.together import RunningCalls
from .tools.toolset import Toolset, handled, stopped, texts_of

__all__ = ["GenerateResult", "StepResult", "batches_of", "collect", "generate", "step"]

T = TypeVar("T")

BatchCallback: TypeAlias = Callable[[list[StreamFrame]], Awaitable[None] | None]
PartCallback: TypeAlias = Callable[[StreamedMessagePart], Awaitable[None] | None]
CallCallback: TypeAlias = Callable[[ToolCall], Awaitable[None] | None]
ResultCallback: TypeAlias = Callable[[ToolResult], Awaitable[None] | None]
TraceCallback: TypeAlias = Callable[[str | None], Awaitable[None] | None]


def _also_chat_provider(function: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Takes `chat_provider=`, the name that other libraries have for it, for the first argument."""

    @wraps(function)
    async def renamed(*args: Any, **kwargs: Any) -> T:
        if "chat_provider" in kwargs:
            args = (kwargs.pop("chat_provider"), *args)
        return await function(*args, **kwargs)

    return renamed


# ==== one turn ====


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


@overload
async def generate(
    provider: Answerer,
    system_prompt: str,
    tools: Sequence[Tool],
    history: Sequence[Message],
    *,
    on_message_part: PartCallback | None = ...,
    on_tool_call: CallCallback | None = ...,
    on_trace_id: TraceCallback | None = ...,
) -> GenerateResult: ...


@overload
async def generate(
    *,
    chat_provider: Answerer,
    system_prompt: str,
    tools: Sequence[Tool],
    history: Sequence[Message],
    on_message_part: PartCallback | None = ...,
    on_tool_call: CallCallback | None = ...,
    on_trace_id: TraceCallback | None = ...,
) -> GenerateResult: ...


@_also_chat_provider
async def generate(
    provider: Answerer,
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
        provider: who answers; `chat_provider=` means the same.
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
            await tell(on_trace_id, _trace_id(stream))
        result = await collect(stream, on_part=on_message_part)
        if on_tool_call is not None and not result.is_cut_off:
            for call in result.message.tool_calls or ():
                await tell(on_tool_call, call)
        return result
    finally:
        await _close(stream)


async def collect(
    stream: PartStream, on_batch: BatchCallback | None = None, *, on_part: PartCallback | None = None
) -> GenerateResult:
    """Read a stream to its end and close it, whatever happens.

    Args:
        stream: an answer that nobody has read yet.
        on_batch: gets each batch of frames; its awaitable, if it returns one, is awaited.
        on_part: gets each part, and is awaited if it is async.

    Raises:
        ChatProviderError: the answer did not come whole, or is empty.
    """
    try:
        batches = batches_of(stream, on_part)
        try:
            end: StreamFrame | None = None
            async for frames in batches:
                end = frames[-1] if frames else end
                if on_batch is not None and (told := on_batch(frames)) is not None:
                    await told
        finally:
            await _close(batches)
        if not isinstance(end, End):
            raise StreamInterruptedError("the stream ended without an End", Message.assistant())
        return _result(stream, end)
    finally:
        await _close(stream)


async def _close(stream: object) -> None:
    """Let go of whatever can be let go of: streams from elsewhere may have nothing to close, or fail to."""
    if (aclose := getattr(stream, "aclose", None)) is not None:
        try:
            await aclose()
        except Exception:  # it must not hide what was read, or what went wrong before
            logger.exception("a stream could not be closed")


def _trace_id(stream: PartStream) -> str | None:
    return getattr(stream, "trace_id", None)


def _result(stream: PartStream, end: End) -> GenerateResult:
    logprobs = tuple(getattr(stream, "logprobs", None) or ())
    reason = plain_reason(end.finish_reason)
    result = GenerateResult(stream.id, end.message, end.usage, reason, _trace_id(stream), logprobs)
    if is_empty(end.message) and not result.is_cut_off and not getattr(stream, "may_be_empty", False):
        raise APIEmptyResponseError(f"the answer has neither text nor calls (finish_reason {end.finish_reason!r})")
    return result


def batches_of(stream: PartStream, on_part: PartCallback | None = None) -> AsyncIterator[list[StreamFrame]]:
    """The frames of a stream, whether it hands them over by the network read or has parts only.

    Args:
        stream: an answer that nobody has read yet.
        on_part: gets each part before its frames are handed over, and is awaited if it is async.
    """
    if not has_batches(stream):
        return _FoldedParts(stream, on_part)
    return stream.batches() if on_part is None else _tell_parts(stream.batches(), on_part)


async def _tell_parts(
    batches: AsyncIterator[list[StreamFrame]], on_part: PartCallback
) -> AsyncIterator[list[StreamFrame]]:
    parts = Parts()
    try:
        async for frames in batches:
            for frame in frames:
                if (part := parts.of(frame)) is not None:
                    await tell(on_part, part)
            yield frames
    finally:
        await _close(batches)


class _FoldedParts:
    """The batches of a stream that has parts only. An object, so that dropping it leaves nothing to clean up."""

    def __init__(self, stream: PartStream, on_part: PartCallback | None) -> None:
        self._stream = stream
        self._parts = aiter(stream)
        self._on_part = on_part
        self._assembler = Assembler()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[StreamFrame]:
        frames: list[StreamFrame] = []
        while not frames:
            if self._ended:
                raise StopAsyncIteration
            try:
                part: object = await anext(self._parts)
            except StopAsyncIteration:
                return self._end()
            if not isinstance(part, StreamedMessagePart):
                raise StreamProtocolError(f"the stream gave {reprlib.repr(part)}, which is no part of a message")
            if self._on_part is not None:
                await tell(self._on_part, part)
            self._assembler.feed_part(part, frames)
        return frames

    def _end(self) -> list[StreamFrame]:
        self._ended = True
        self._assembler.end(plain_reason(getattr(self._stream, "finish_reason", None)), self._stream.usage)
        return self._assembler.close()

    async def aclose(self) -> None:
        await _close(self._parts)


# ==== a turn and its calls ====


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one model turn gave, and the results of its calls as they come.

    Whoever drops it cancels the calls that still run.
    """

    id: str | None
    message: Message
    usage: TokenUsage | None
    tool_calls: list[ToolCall]
    """What the model wants to call, in its order."""
    _results: _Results = field(repr=False, compare=False)
    finish_reason: str | None = None
    trace_id: str | None = None

    async def tool_results(self) -> list[ToolResult]:
        """Wait for the calls: one result for each, in their order, whichever ended first.

        Ask again, and you get the same. Cancelling it cancels the calls and waits for their end; then, too, you may ask
        again: what had finished is there, and the others say that they were interrupted. Calls of an answer that was
        cut off were not run, and say so.

        Raises:
            Exception: what `on_tool_result` raised; the other calls have been cancelled. It is raised once.
            RoundInProgressError: `on_tool_result` or a tool waits for all results, its own included.
            RuntimeError: it was asked in another event loop than `step`, and calls still run.
        """
        return await self._results.all()


class _Results:
    """The results of the calls of a step. It is held by the step and its copies alone: with the last one the calls end.

    Args:
        toolset: runs the calls.
        calls: what the model asked for.
        on_tool_result: gets each result.
        cut_off: whether the calls may be incomplete; then none is run.
    """

    def __init__(
        self, toolset: Toolset, calls: Sequence[ToolCall], on_tool_result: ResultCallback | None, *, cut_off: bool
    ) -> None:
        self._toolset, self._calls = toolset, tuple(calls)

        async def not_run(call: ToolCall) -> ToolResult:
            error = ToolError(message=texts_of(toolset).cut_off(), brief="Not run")
            return ToolResult(tool_call_id=call.id, return_value=error)

        async def told(result: ToolResult) -> None:
            if on_tool_result is None or cut_off:
                return
            try:
                await tell(on_tool_result, result)
            except asyncio.CancelledError as error:
                if is_being_cancelled():
                    raise
                raise RuntimeError("on_tool_result raised CancelledError") from error  # else the caller would seem so

        self._running = RunningCalls(
            self._calls,
            not_run if cut_off else partial(handled, toolset),
            told,
            sequential=getattr(toolset, "is_sequential", None),
            most=getattr(toolset, "max_parallel_tools", None),
        )

    async def all(self) -> list[ToolResult]:
        """One for each call, in their order."""
        running = self._running
        running.check_waiter()
        if running.cancelled:
            await running.drain()
            return self._there()
        try:
            return [await running.result(position) for position in range(len(self._calls))]
        except asyncio.CancelledError:
            await running.drain()
            if is_being_cancelled():
                raise
            return self._there()  # somebody cancelled the calls themselves
        except BaseException:
            await running.drain()
            raise

    def _there(self) -> list[ToolResult]:
        """What there is of calls that have ended, or do not end."""
        known = [self._running.at(position) for position in range(len(self._calls))]
        return [
            given if isinstance(given, ToolResult) else self._stopped(call, given)
            for call, given in zip(self._calls, known, strict=True)
        ]

    def _stopped(self, call: ToolCall, error: BaseException | None) -> ToolResult:
        """The result of a call that gave none."""
        if error is not None or self._running.has_started(call):
            return stopped(self._toolset, call, error, goes_on=self._running.does_not_end(call))
        unused = ToolError(message=texts_of(self._toolset).not_run(), brief="Not run")
        return ToolResult(tool_call_id=call.id, return_value=unused)

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __del__(self) -> None:
        if running := getattr(self, "_running", None):
            running.drop()


@overload
async def step(
    provider: Answerer,
    system_prompt: str,
    toolset: Toolset,
    history: Sequence[Message],
    *,
    on_message_part: PartCallback | None = ...,
    on_tool_call: CallCallback | None = ...,
    on_tool_result: ResultCallback | None = ...,
    on_trace_id: TraceCallback | None = ...,
) -> StepResult: ...


@overload
async def step(
    *,
    chat_provider: Answerer,
    system_prompt: str,
    toolset: Toolset,
    history: Sequence[Message],
    on_message_part: PartCallback | None = ...,
    on_tool_call: CallCallback | None = ...,
    on_tool_result: ResultCallback | None = ...,
    on_trace_id: TraceCallback | None = ...,
) -> StepResult: ...


@_also_chat_provider
async def step(
    provider: Answerer,
    system_prompt: str,
    toolset: Toolset,
    history: Sequence[Message],
    *,
    on_message_part: PartCallback | None = None,
    on_tool_call: CallCallback | None = None,
    on_tool_result: ResultCallback | None = None,
    on_trace_id: TraceCallback | None = None,
) -> StepResult:
    """Ask a model for one message and start what it calls.

    The calls start side by side when the stream has ended, and never after an answer that was cut off. `step` returns
    without waiting for them: `await result.tool_results()` does. Callbacks may be sync or async, and are awaited.

    Args:
        provider: who answers; `chat_provider=` means the same.
        system_prompt: goes before the history; `""` for none.
        toolset: what the model may call, and who runs it.
        history: the messages; they are not changed.
        on_message_part: gets each part as it comes.
        on_tool_call: gets each whole call once the stream has ended, before the first one starts.
        on_tool_result: gets each result as soon as it is there, in the task of its call.
        on_trace_id: gets the provider's id of the request before the first part.

    Raises:
        ChatProviderError: the model could not be asked, or its answer did not come whole.
        APIEmptyResponseError: the answer has neither text nor calls, and was not cut off.
    """
    result = await generate(
        provider,
        system_prompt,
        toolset.tools,
        history,
        on_message_part=on_message_part,
        on_tool_call=on_tool_call,
        on_trace_id=on_trace_id,
    )
    calls = list(result.message.tool_calls or ())
    results = _Results(toolset, calls, on_tool_result, cut_off=result.is_cut_off)
    return StepResult(result.id, result.message, result.usage, calls, results, result.finish_reason, result.trace_id)
