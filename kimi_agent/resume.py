"""Going on with an answer that was cut off: Kimi gets its beginning back and writes the rest (partial mode).

Who reads the answer sees one answer. What was cut off in the middle of a tool call cannot be continued, because Kimi
continues text and reasoning only; there, and when going on fails too, the reader gets the `StreamInterruptedError` with
everything that came.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

from .errors import ChatProviderError, StreamInterruptedError
from .events import End, Reasoning, StreamFrame
from .generate import batches_of
from .history import Repaired, is_begun
from .kimi.assemble import fold, parts_in
from .message import ContentPart, Message, StreamedMessagePart, TextPart, ThinkPart, TokenUsage
from .provider import Batches, StreamedMessage

__all__ = ["ResumedMessage"]

Ask: TypeAlias = Callable[[Sequence[Message]], Awaitable[StreamedMessage]]

MOST: Final = 5
"""How often one answer is continued. A connection that breaks more often than that will not hold."""


class ResumedMessage:
    """A `StreamedMessage` that goes on where the connection broke.

    Args:
        stream: the answer, not read yet.
        messages: what was asked.
        ask: asks again, with other messages.
        on_resume: called each time before it does.
    """

    def __init__(
        self, stream: StreamedMessage, messages: Sequence[Message], ask: Ask, on_resume: Callable[[], None]
    ) -> None:
        self._stream = stream
        continues = bool(messages) and is_begun(messages[-1])
        self._begun = messages[-1] if continues else Message.assistant()
        """What the answer was to begin with, which is no part of what comes."""
        self._messages = messages[:-1] if continues else messages
        self._ask = ask
        self._on_resume = on_resume
        self._batches = batches_of(stream)
        self._before = Message.assistant()
        """What came before the last interruption."""
        self._spent: TokenUsage | None = None
        self._likely: list[dict[str, Any]] = []
        self._frames: list[StreamFrame] = []
        """What has come since."""
        self._asking: asyncio.Task[StreamedMessage] | None = None
        self._left = MOST
        self._closed = False

    @property
    def id(self) -> str | None:
        """The provider's id of the newest part of the answer."""
        return self._stream.id

    @property
    def usage(self) -> TokenUsage | None:
        """What all requests cost, as far as the provider said; it says so at the end of each only."""
        return _sum(self._spent, self._stream.usage)

    @property
    def trace_id(self) -> str | None:
        """The provider's id of the newest request."""
        return self._stream.trace_id

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        """Those of all requests."""
        return [*self._likely, *getattr(self._stream, "logprobs", ())]

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended."""
        return self._stream.finish_reason

    async def aclose(self) -> None:
        """Let go of the connection, and begin no other."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
        await self._stream.aclose()

    def batches(self) -> AsyncIterator[list[StreamFrame]]:
        """The frames of all requests as those of one answer."""
        return Batches(self._next_batch)

    async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
        async for part in parts_in(self.batches()):
            yield part

    async def _next_batch(self) -> list[StreamFrame] | None:
        while True:
            try:
                frames = await anext(self._batches, None)
                if frames is None:
                    return None
                if frames := self._as_one(frames):
                    return frames
            except StreamInterruptedError as error:
                await self._resume(error)
            except ChatProviderError as error:
                if not self._before.content:
                    raise
                came = joined(self._before, fold(self._frames))
                raise StreamInterruptedError(f"the answer was continued, and failed: {error}", came) from error

    @property
    def may_be_empty(self) -> bool:
        """Whether an answer of nothing is one: it was to continue another."""
        return bool(getattr(self._stream, "may_be_empty", False))

    def _as_one(self, frames: list[StreamFrame]) -> list[StreamFrame]:
        """Frames of a continuation as those of the whole answer."""
        if not self._before.content:
            return frames
        self._frames += frames
        if isinstance(end := frames[-1], End):
            frames[-1] = End(end.finish_reason, self.usage, joined(self._before, end.message))
        return [frame for frame in frames if frame != _NOTHING_MORE]

    async def _resume(self, error: StreamInterruptedError) -> None:
        """Ask for the rest.

        Raises:
            StreamInterruptedError: there is no going on; it has everything that came.
        """
        partial = joined(self._before, error.partial)
        self._left -= 1
        if self._closed or self._left < 0 or partial.tool_calls or not partial.content:
            raise StreamInterruptedError(str(error), partial) from error
        self._on_resume()
        self._spent, self._likely = self.usage, self.logprobs
        self._before, self._frames = partial, []
        begun = joined(self._begun, partial).copy_with(partial=True)
        try:
            await self._stream.aclose()
            self._stream = await self._asked(Repaired([*self._messages, begun]))
        except ChatProviderError as failed:
            raise StreamInterruptedError(f"{error}; it could not be continued: {failed}", partial) from failed
        self._batches = batches_of(self._stream)

    async def _asked(self, messages: Sequence[Message]) -> StreamedMessage:
        """Ask in a task, which `aclose` can end."""
        self._asking = asyncio.ensure_future(self._ask(messages))
        try:
            return await self._asking
        except asyncio.CancelledError:
            if not self._closed or not self._asking.cancelled():
                raise
            raise ChatProviderError("the stream was closed") from None
        finally:
            self._asking.cancel()
            self._asking = None


_NOTHING_MORE: Final = Reasoning("")
"""How Kimi closes reasoning; in a continuation it would come after text."""


def joined(before: Message, after: Message) -> Message:
    """The beginning of an answer and its continuation as one message."""
    content: list[ContentPart] = []
    if before.reasoning is not None or after.reasoning is not None:
        content.append(ThinkPart(think=(before.reasoning or "") + (after.reasoning or "")))
    if text := before.text + after.text:
        content.append(TextPart(text=text))
    media = [part for part in (*before.content, *after.content) if not isinstance(part, TextPart | ThinkPart)]
    extra = {**before.extra, **after.extra}
    return after.copy_with(content=[*content, *media], name=before.name or after.name, extra=extra)


def _sum(spent: TokenUsage | None, more: TokenUsage | None) -> TokenUsage | None:
    return spent + more if spent and more else spent or more
