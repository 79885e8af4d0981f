"""An answer of Kimi on its way: bytes from the network in, frames out, and every way in which it can end."""

from __future__ import annotations

import asyncio
import json
import reprlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, Self

from pydantic_core import from_json

from ..errors import (
    APIConnectionError,
    APIEmptyResponseError,
    APITimeoutError,
    ChatProviderError,
    StreamInterruptedError,
    StreamProtocolError,
)
from ..events import CUT_OFF, Append, End, Reasoning, StreamFrame
from ..history import is_empty
from ..message import StreamedMessagePart, TokenUsage
from ..provider import Batches
from .assemble import Assembler, parts_in
from .sse import MESSAGE, Event, SSEDecoder, check_size
from .status import error_in

__all__ = ["Body", "KimiStreamedMessage"]

END_GRACE: Final = 2.0
"""Seconds that a whole answer waits for its usage, `[DONE]` and the end of the body. Some hosts never close."""
LARGEST_BODY: Final = 64 * 1024 * 1024
"""Bytes of an answer that is not streamed."""
LARGEST_STREAM: Final = 512 * 1024 * 1024
"""Bytes of an answer that is: more than a million tokens, each in an event of its own. No model goes on that long."""


class Body(Protocol):
    """What an answer is read from: an `HttpResponse`, or a script."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name."""
        ...

    async def read(self) -> bytes | None:
        """The next bytes; `None` at the end."""
        ...

    async def read_near_end(self) -> bytes | None:
        """Like `read`, once the answer is whole and only the end of the body is missing."""
        ...

    async def aclose(self) -> None:
        """Let go of it."""
        ...


class KimiStreamedMessage:
    """An answer of Kimi on its way. Iterating gives its parts, once; `batches()` gives frames by the network read.

    Args:
        response: what it is read from.
        patience: seconds that may pass between two pieces of the answer; keep-alives are none. `None` is for ever.
        hide: takes the key out of what the server says of an error.
        on_reasoning_key: is told under which key the server sends reasoning.
    """

    def __init__(
        self,
        response: Body,
        *,
        patience: float | None = None,
        hide: Callable[[bytes], bytes] = bytes,
        on_reasoning_key: Callable[[str], None] | None = None,
    ) -> None:
        self._response = response
        self._patience = patience
        self._hide = hide
        self._assembler = Assembler()
        self._on_reasoning_key = on_reasoning_key
        self._decoder: SSEDecoder | _WholeBody | None = None
        self._size = 0
        self._first: list[StreamFrame] | None = None
        self._failure: ChatProviderError | None = None
        self._body_ended = self._closed = False
        self.may_be_empty: bool = False
        """Whether an answer of nothing is one: it was to continue another."""
        self._quiet_since: float | None = None
        self._deadline: float | None = None

    @property
    def id(self) -> str | None:
        """Kimi's id of the answer, once known."""
        return self._assembler.id

    @property
    def usage(self) -> TokenUsage | None:
        """What it cost, known at the end."""
        return self._assembler.usage

    @property
    def trace_id(self) -> str | None:
        """The platform's id of the request; quote it in a bug report."""
        headers = self._response.headers
        return headers.get("x-trace-id") or headers.get("msh-request-id")

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, known at the end."""
        return self._assembler.finish_reason

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        """What a request with `logprobs` asked for: an entry per token of the text, as far as it came."""
        return self._assembler.logprobs

    async def begin(self, *, may_be_empty: bool = False) -> None:
        """Wait for the first piece of the answer. Until it is there, the request may as well be sent again.

        Args:
            may_be_empty: there may be nothing left to say: the request was to continue an answer.

        Raises:
            ChatProviderError: the answer ended before, with an error or with nothing.
        """
        self.may_be_empty = may_be_empty
        frames = await self._next_batch() or []
        while all(map(_says_nothing, frames)):
            frames += await self._next_batch() or []
        self._first, end = frames, frames[-1]
        if isinstance(end, End) and not may_be_empty and is_empty(end.message) and end.finish_reason not in CUT_OFF:
            raise APIEmptyResponseError(f"the answer has neither text nor calls (finish_reason {end.finish_reason!r})")

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def batches(self) -> AsyncIterator[list[StreamFrame]]:
        """One list of frames per network read; the last frame of all is an `End`.

        Raises:
            StreamInterruptedError: the answer stopped before its end.
            APIStatusError: Kimi sent an error in the middle of it.
            StreamProtocolError: it is no answer.
        """
        return Batches(self._next_batch)

    async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
        async for part in parts_in(self.batches()):
            yield part

    async def _next_batch(self) -> list[StreamFrame] | None:
        """The frames of the next read that has any; `None` after the end. What came before an error comes first."""
        frames: list[StreamFrame] = []
        if self._first:
            frames, self._first = self._first, None
        while not frames:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return None
            try:
                await self._read_into(frames)
            except ChatProviderError as error:
                self._failure = error.with_traceback(
                    None
                )  # its frames hold bytes, in which a server may repeat the key
            if self._closed or self._failure:
                self._learn()
            if not frames and self._quiet_since is None:
                self._quiet_since = asyncio.get_running_loop().time()
        self._quiet_since = None
        return frames

    def _learn(self) -> None:
        if self._on_reasoning_key is not None and self._assembler.reasoning_key is not None:
            self._on_reasoning_key(self._assembler.reasoning_key)

    async def _read_into(self, frames: list[StreamFrame]) -> None:
        data = None if self._body_ended else await self._read()
        if data is not None:
            if self._decoder is None:
                self._decoder = _decoder_for(self._response.headers.get("content-type", ""), data)
            is_whole = isinstance(self._decoder, _WholeBody)
            self._size += len(data)
            check_size("the answer", self._size, LARGEST_BODY if is_whole else LARGEST_STREAM)
            self._decode(self._decoder.feed(data), frames)
            if is_whole and not data.isspace():
                self._quiet_since = None  # a piece of it
            return
        self._body_ended = True
        self._decode_rest(frames)
        frames += self._assembler.close()
        self._closed = True

    async def _read(self) -> bytes | None:
        """The next bytes; `None` at the end of the body, or when a whole answer has waited long enough for it."""
        if self._assembler.finished:
            return await self._read_end()
        try:
            read = self._response.read if self._assembler.started else self._response.read_near_end
            if self._quiet_since is None or self._patience is None:
                return await read()
            return await self._read_until(self._quiet_since + self._patience, read)
        except (APIConnectionError, APITimeoutError) as error:
            if isinstance(error, APITimeoutError) and not self._assembler.started:
                raise
            raise StreamInterruptedError(f"the answer was cut off: {error}", self._assembler.message) from error

    async def _read_until(self, deadline: float, read: Callable[[], Awaitable[bytes | None]]) -> bytes | None:
        """Where only keep-alives come: the connection is not silent, so somebody has to look at the clock."""
        try:
            async with asyncio.timeout_at(deadline):
                return await read()
        except TimeoutError:
            raise APITimeoutError(f"the answer did not go on for {self._patience:g} seconds") from None

    async def _read_end(self) -> bytes | None:
        try:
            async with asyncio.timeout_at(self._grace()):
                return await self._response.read_near_end()
        except (TimeoutError, APIConnectionError, APITimeoutError):
            return None

    def _grace(self) -> float:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + END_GRACE
        return self._deadline

    def _decode(self, events: list[Event], frames: list[StreamFrame]) -> None:
        assembler = self._assembler
        try:
            for kind, data in events:
                if len(data) < 16 and data.strip() == b"[DONE]":
                    assembler.done = True
                elif not assembler.done and data:
                    chunk = _decoded(data)
                    if "error" in chunk or kind != MESSAGE:
                        self._check(kind, _decoded(self._hide(data)))
                    assembler.feed(chunk, frames)
        except StreamProtocolError as error:
            raise StreamProtocolError(self._hide(str(error).encode(errors="replace")).decode()) from None

    def _decode_rest(self, frames: list[StreamFrame]) -> None:
        """The event that the end of the body completes. Half an event is none: there the answer was cut."""
        try:
            self._decode(self._decoder.close() if self._decoder else [], frames)
        except StreamProtocolError:
            if isinstance(self._decoder, _WholeBody):
                raise

    def _check(self, kind: bytes, chunk: dict[str, Any]) -> None:
        """Raise what an unusual event says. An event of type `error` may be the error itself."""
        if kind == b"error" and not chunk.get("error"):
            chunk = {"error": chunk}
        error = error_in(chunk, headers=self._response.headers)
        if error is not None:
            raise error
        if kind == WHOLE and not chunk.get("choices"):
            raise StreamProtocolError(f"the server sent something else than an answer: {reprlib.repr(chunk)}")


def _says_nothing(frame: StreamFrame) -> bool:
    """Whether nobody would miss it: blank text, or the empty reasoning that Kimi closes reasoning with."""
    return isinstance(frame, Append | Reasoning) and not frame.text.strip()


WHOLE: Final = b"whole\nbody"
"""The type of the one event that a body without events is. No server can send it: a type has no line end in it."""


class _WholeBody:
    """Takes the whole body as one event: some hosts answer a streamed request with one JSON object."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[Event]:
        self._pieces.append(data)
        return []

    def close(self) -> list[Event]:
        return [(WHOLE, b"".join(self._pieces))]


def _decoder_for(content_type: str, beginning: bytes) -> SSEDecoder | _WholeBody:
    """By what the body is said to be, or begins like: no event begins with a bracket."""
    said = content_type.lower().startswith(("application/json", "text/html"))
    return _WholeBody() if said or beginning.lstrip()[:1] in (b"{", b"[", b"<") else SSEDecoder()


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        chunk = from_json(data)
    except ValueError:  # lone surrogates and broken UTF-8: let through, not lost
        chunk = _decoded_leniently(data)
    if not isinstance(chunk, dict):
        raise StreamProtocolError(f"an event of the stream is no JSON object: {_beginning(data)}")
    return chunk  # pyright: ignore[reportUnknownVariableType]


def _decoded_leniently(data: bytes) -> Any:
    try:
        return json.loads(data.decode(errors="replace"), strict=False)
    except (ValueError, RecursionError):
        raise StreamProtocolError(f"the server sent something else than JSON: {_beginning(data)}") from None


def _beginning(data: bytes) -> str:
    text = data[:200].decode(errors="replace")
    return repr(text) + ("..." if len(data) > 200 else "")
