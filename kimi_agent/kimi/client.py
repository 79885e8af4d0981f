"""`Kimi`: Moonshot AI's chat-completions as a `ChatProvider`."""

from __future__ import annotations

import asyncio
import json
import os
import reprlib
from collections.abc import AsyncIterator, Mapping, Sequence
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from pydantic_core import from_json

from ..errors import (
    APIConnectionError,
    APITimeoutError,
    ChatProviderError,
    StreamInterruptedError,
    StreamProtocolError,
)
from ..events import RequestSent, StreamFrame
from ..message import Message, StreamedMessagePart, TokenUsage
from ..provider import GenerationKwargs, OnEvent
from ..tools.base import Tool
from .assemble import Assembler, Parts
from .models import context_window
from .sse import MESSAGE, Event, SSEDecoder, check_size
from .wire import request_body

if TYPE_CHECKING:
    import httpx

__all__ = ["Kimi", "KimiStreamedMessage"]

BASE_URL: Final = "https://api.moonshot.ai/v1"
KEY_NAMES: Final = ("KIMI_API_KEY", "MOONSHOT_API_KEY")
BASE_URL_NAMES: Final = ("KIMI_BASE_URL", "MOONSHOT_BASE_URL")

END_GRACE: Final = 2.0
"""Seconds that a whole answer waits for its usage, `[DONE]` and the end of the body. Some hosts never close."""


class Kimi:
    """A model of Moonshot AI.

    Args:
        model: its name.
        api_key: else from `KIMI_API_KEY` or `MOONSHOT_API_KEY`.
        base_url: else from `KIMI_BASE_URL` or `MOONSHOT_BASE_URL`, else the international platform.
        http_client: an `httpx.AsyncClient` of your own, for proxies, certificates or limits; you close it.

    Raises:
        ChatProviderError: there is no key, or it has characters that no key has.
    """

    name = "kimi"

    def __init__(
        self,
        model: str = "kimi-k3",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self.model_name = model
        self.base_url = base_url or _from_environment(BASE_URL_NAMES) or BASE_URL
        from .http import HttpTransport  # brings httpx, which takes as long to import as all of this package

        self._http = HttpTransport(self.base_url, _checked_key(api_key or _from_environment(KEY_NAMES)), http_client)

    def __repr__(self) -> str:
        return f"Kimi({self.model_name!r}, base_url={self.base_url!r})"

    @property
    def context_window(self) -> int:
        """How many tokens prompt and completion may have together."""
        return context_window(self.model_name)

    async def generate(
        self,
        system_prompt: str,
        tools: Sequence[Tool],
        history: Sequence[Message],
        *,
        generation_overrides: GenerationKwargs | None = None,
        on_event: OnEvent | None = None,
    ) -> KimiStreamedMessage:
        """Ask the model. Returns when it begins to answer; close what it returns.

        Args:
            system_prompt: goes before the history; `""` for none.
            tools: what the model may call.
            history: the messages; they are not changed.
            generation_overrides: for this request only.
            on_event: gets `RequestSent`, and is awaited if it is async.

        Raises:
            ChatProviderError: the model could not be asked, or refused.
        """
        body = request_body(self.model_name, system_prompt, tools, history, generation_overrides)
        if on_event is not None and isawaitable(told := on_event(RequestSent(body.decode()))):
            await told
        return KimiStreamedMessage(await self._http.post("/chat/completions", body))

    async def aclose(self) -> None:
        """Close the connections. Used afterwards, they open again."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        self._http.enter()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.leave()


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
    """An answer of Kimi on its way. Iterating gives its parts, once; `batches()` gives frames by the network read."""

    def __init__(self, response: Body) -> None:
        self._response = response
        self._assembler = Assembler()
        self._decoder = _decoder_for(response.headers.get("content-type", ""))
        self._failure: ChatProviderError | None = None
        self._body_ended = self._closed = False
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

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._response.aclose()

    def batches(self) -> AsyncIterator[list[StreamFrame]]:
        """One list of frames per network read; the last frame of all is an `End`.

        Raises:
            StreamInterruptedError: the answer stopped before its end.
            APIStatusError: Kimi sent an error in the middle of it.
            StreamProtocolError: it is no answer.
        """
        return _Batches(self)

    async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
        parts = Parts()
        async for frames in self.batches():
            for frame in frames:
                if (part := parts.of(frame)) is not None:
                    yield part

    async def _next_batch(self) -> list[StreamFrame] | None:
        """The frames of the next read that has any; `None` after the end. What came before an error comes first."""
        frames: list[StreamFrame] = []
        while not frames:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return None
            try:
                await self._read_into(frames)
            except ChatProviderError as error:
                self._failure = error
        return frames

    async def _read_into(self, frames: list[StreamFrame]) -> None:
        data = None if self._body_ended else await self._read()
        if data is not None:
            self._decode(self._decoder.feed(data), frames)
            return
        self._body_ended = True
        self._decode_rest(frames)
        frames += self._assembler.close()
        self._closed = True

    async def _read(self) -> bytes | None:
        """The next bytes; `None` at the end of the body, or when a whole answer has waited long enough for it."""
        try:
            if not self._assembler.finished:
                return await self._response.read()
            async with asyncio.timeout_at(self._grace()):
                return await self._response.read_near_end()
        except TimeoutError:
            return None
        except (APIConnectionError, APITimeoutError) as error:
            if self._assembler.finished:
                return None
            raise StreamInterruptedError(f"the answer was cut off: {error}", self._assembler.message) from error

    def _grace(self) -> float:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + END_GRACE
        return self._deadline

    def _decode(self, events: list[Event], frames: list[StreamFrame]) -> None:
        assembler = self._assembler
        for kind, data in events:
            if data == b"[DONE]":
                assembler.done = True
            elif not assembler.done and data:
                chunk = _decoded(data)
                if "error" in chunk or kind != MESSAGE:
                    self._check(kind, chunk)
                assembler.feed(chunk, frames)

    def _decode_rest(self, frames: list[StreamFrame]) -> None:
        """The event that the end of the body completes. Half an event is none: there the answer was cut."""
        try:
            self._decode(self._decoder.close(), frames)
        except StreamProtocolError:
            if isinstance(self._decoder, _WholeBody):
                raise

    def _check(self, kind: bytes, chunk: dict[str, Any]) -> None:
        """Raise what an unusual event says. An event of type `error` may be the error itself."""
        if kind == b"error" and not chunk.get("error"):
            chunk = {"error": chunk}
        from .http import error_in

        error = error_in(chunk, headers=self._response.headers)
        if error is not None:
            raise error
        if kind == WHOLE and not chunk.get("choices"):
            raise StreamProtocolError(f"the server sent something else than an answer: {reprlib.repr(chunk)}")


class _Batches:
    """Iterates the batches. An object and not a generator, so that dropping it half-way leaves nothing to clean up."""

    def __init__(self, stream: KimiStreamedMessage) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[StreamFrame]:
        frames = await self._stream._next_batch()
        if frames is None:
            raise StopAsyncIteration
        return frames


WHOLE: Final = b"whole\nbody"
"""The type of the one event that a body without events is. No server can send it: a type has no line end in it."""


class _WholeBody:
    """Takes the whole body as one event: some hosts answer a streamed request with one JSON object."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        self._pieces.append(data)
        self._size += len(data)
        check_size(self._size)
        return []

    def close(self) -> list[Event]:
        return [(WHOLE, b"".join(self._pieces))]


def _decoder_for(content_type: str) -> SSEDecoder | _WholeBody:
    return _WholeBody() if content_type.lower().startswith(("application/json", "text/html")) else SSEDecoder()


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


def _from_environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def _checked_key(key: str | None) -> str:
    key = (key or "").strip()
    if not key:
        raise ChatProviderError(f"no API key: pass api_key= or set {' or '.join(KEY_NAMES)}")
    if not key.isascii() or not key.isprintable() or " " in key:
        del key  # log tools print the variables of a traceback
        raise ChatProviderError("the API key has characters that no key has; was something else pasted with it?")
    return key
