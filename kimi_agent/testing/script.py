"""What a double of Kimi answers and how the answer travels, as values that compare and never change.

A script is a sequence of steps, one for each request, first in, first out:

    script = [call("get_weather", city="Oslo"), say("Four degrees.")]

A step is a `Reply`, a `Call` (a reply with that one call), `Recorded` chunks, a `Failure`, a `RawBody`, a `HangUp`, a
text in the language of `language.py`, or a function that gets the decoded request and returns one of these. A function
in place of the sequence answers every request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..message import TokenUsage

__all__ = [
    "Answer",
    "Call",
    "Delivery",
    "Failure",
    "Fault",
    "Gate",
    "HangUp",
    "RawBody",
    "Recorded",
    "Reply",
    "ScriptSource",
    "Step",
    "call",
    "say",
]

Body: TypeAlias = dict[str, Any]
"""A decoded chat request."""


# ==== how an answer travels ====


class Gate:
    """Holds a stream before one of its events, so that a test can look at it half-way.

    Args:
        before: the number of the event that waits, from 0. The status and the headers are never held.
    """

    def __init__(self, before: int = 0) -> None:
        self.before = before
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def __call__(self, number: int) -> None:
        """What a double calls before each event."""
        if number == self.before:
            self._reached.set()
            await self._opened.wait()

    async def reached(self) -> None:
        """Wait until everything before the event has been sent."""
        await self._reached.wait()

    def open(self) -> None:
        """Let the stream go on. An opened gate stays open."""
        self._opened.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How the body of a streamed answer travels. Without arguments: one HTTP chunk and one write for each event.

    Args:
        whole: one body with a Content-Length, in one write.
        cuts: byte positions of the body where one write (and HTTP chunk) ends and the next one begins, in place of the
            borders of the events.
        stop_after: how many bytes of the body are sent.
        stop: what happens after them. `end` closes the HTTP body as if it were whole, `close` closes the socket in the
            middle of the body, `reset` resets the connection, `stall` sends nothing more and leaves the connection open
            until the client closes it or the server ends.
        gate: awaited before each write with its number, from 0, and then before the stop: a `Gate`, or any async
            function.
        finish: send the chunk with the `finish_reason`.
        done: send `[DONE]`.
    """

    whole: bool = False
    cuts: Sequence[int] = ()
    stop_after: int | None = None
    stop: Literal["end", "close", "reset", "stall"] = "close"
    gate: Callable[[int], Awaitable[object]] | None = None
    finish: bool = True
    done: bool = True

    def writes(self, events: Iterable[bytes]) -> list[bytes]:
        """The body that consists of `events`, as the writes that it is sent in."""
        pieces = list(events)
        if self.whole or self.cuts:
            pieces = _cut(b"".join(pieces), self.cuts)
        return pieces if self.stop_after is None else _shortened(pieces, self.stop_after)


def _cut(body: bytes, positions: Iterable[int]) -> list[bytes]:
    inside = {position for position in positions if 0 < position < len(body)}
    return [body[start:end] for start, end in pairwise(sorted({0, len(body)} | inside))]


def _shortened(pieces: Iterable[bytes], size: int) -> list[bytes]:
    kept: list[bytes] = []
    for piece in pieces:
        if size <= 0:
            break
        kept.append(piece[:size])
        size -= len(piece)
    return kept


# ==== what is answered ====


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of a reply.

    Args:
        name: of the function.
        arguments: as the model writes them: JSON, or an attempt at it.
        id: `name_n` with the place of the call in its message, unless given.
    """

    name: str
    arguments: str = "{}"
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as Kimi gives it: reasoning, then text, then tool calls.

    Args:
        text: of the answer.
        reasoning: `None` for none, which is not the same as `""`.
        tool_calls: made with `call(...)` or `Call(...)`.
        finish_reason: `tool_calls` for an answer with calls, else `stop`, unless given.
        usage: estimated from the request and the answer, unless given.
        chunk_size: how many characters of text, reasoning or arguments a delta carries.
        delivery: in place of the server's.
    """

    text: str = ""
    reasoning: str | None = None
    tool_calls: Sequence[Call] = ()
    finish_reason: str | None = None
    usage: TokenUsage | None = None
    chunk_size: int = 16
    delivery: Delivery | None = None


def say(text: str, *, reasoning: str | None = None) -> Reply:
    """An answer of text."""
    return Reply(text, reasoning)


def call(name: str, /, **arguments: Any) -> Call:
    """A call of the function `name`. As a step of a script it is an answer; `Reply(tool_calls=...)` takes several."""
    return Call(name, json.dumps(arguments, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class Recorded:
    """Recorded chunks, sent verbatim as a stream, whatever the request asks for.

    Args:
        chunks: decoded chunks, or a file with one JSON a line, whose lines are sent as they are.
        delivery: in place of the server's.
    """

    chunks: Sequence[Mapping[str, Any]] | Path
    delivery: Delivery | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP error with Kimi's error body.

    Args:
        status: of the HTTP response.
        type: `error.type`, such as `rate_limit_reached_error`; `None` for a body without it.
        message: what Kimi says.
        retry_after: sent as a `Retry-After` header: seconds, or a text that is sent as it is.
    """

    status: int
    type: str | None = None
    message: str = ""
    retry_after: int | str | None = None

    @property
    def body(self) -> Body:
        """The error body as Kimi sends it."""
        error = {"message": self.message}
        return {"error": error if self.type is None else error | {"type": self.type}}


@dataclass(frozen=True, slots=True)
class RawBody:
    """Any bytes, for what no reply can be: HTML from a gateway, broken JSON, strange line ends.

    Args:
        body: sent as it is.
        content_type: of the response.
        status: of the response.
        delivery: in place of the server's.
        headers: beside those that every answer has, such as `{"content-encoding": "gzip"}`.
    """

    body: bytes
    content_type: str = "text/event-stream"
    status: int = 200
    delivery: Delivery | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class HangUp:
    """No answer: the connection ends before the first byte of one, or nothing ever comes.

    Args:
        stop: `close` closes the socket, `reset` resets the connection, `stall` is silent until the client closes it or
            the server ends.
    """

    stop: Literal["close", "reset", "stall"] = "close"


Fault: TypeAlias = Failure | RawBody | HangUp
"""An answer that has nothing to do with what was asked. Every endpoint can give it."""

Answer: TypeAlias = Reply | Recorded | Fault
"""What a request is answered with."""

Line: TypeAlias = Answer | Call | str
"""What a script may say: an answer, the call of one, or instructions in the language of `language.py`."""

Step: TypeAlias = Line | Callable[[Body], Line | Awaitable[Line]]
"""One entry of a script. A function, plain or async, gets the decoded request."""

ScriptSource: TypeAlias = Iterable[Step] | Callable[[Body], Line | Awaitable[Line]]
"""A script: one step for each request, or one function for all of them."""
