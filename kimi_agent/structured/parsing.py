"""Push parsers, and how a stream is pulled through one.

The parsers of this room have `feed` and `close`, and do no input or output. `Parsed` pulls a stream through one:
pieces of text, or frames, of which it takes the text of the answers. Between two answers of a round stands a blank
line, so that what the model said before it called a function is not glued to what it said after.
"""

from __future__ import annotations

import asyncio
import reprlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from inspect import isasyncgen
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, cast, get_args

from ..errors import StreamInterruptedError
from ..events import CUT_OFF, Append, End, StreamFrame
from ..message import Message
from ..stream import MessageStream

__all__ = ["Parsed", "Parser", "Pieces", "Texts"]

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out")
Item = TypeVar("Item")
Piece = TypeVar("Piece")

Pieces: TypeAlias = AsyncIterable[str] | AsyncIterable[StreamFrame] | Iterable[str] | Iterable[StreamFrame]
"""A stream of text or of frames, async or not: a `MessageStream`, `agent.full_round_frames(...)`, a list."""


class Parser(Protocol[In, Out]):
    """Turns pieces into items, as soon as it can."""

    def feed(self, piece: In, /) -> list[Out]:
        """One more piece; what is known now and was not before."""
        ...

    def close(self) -> list[Out]:
        """There is no more; what is known now."""
        ...


class Parsed(Generic[Item]):
    """What a parser makes of a stream, item by item. An object, so that dropping it leaves nothing to clean up.

    Closing it closes the stream.

    Args:
        pieces: the stream.
        parser: one that has not been fed yet.
        on_cut_off: told why the answer was cut off, if it was, before the parser is closed.
    """

    def __init__(
        self, pieces: Pieces, parser: Parser[str, Item], on_cut_off: Callable[[str], None] | None = None
    ) -> None:
        self._texts = Texts(pieces)
        self._parser = parser
        self._on_cut_off = on_cut_off
        self._ready: deque[Item] = deque()
        self._ended = self._is_read = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        """The next item.

        Raises:
            Exception: of the stream, behind the items that were whole before it.
            StreamInterruptedError: the stream is a generator, and was ended by the cancellation of its reader.
            RuntimeError: another task reads.
        """
        if self._is_read:
            raise RuntimeError("another task reads this stream; a stream of items has one reader")
        self._is_read = True
        try:
            while not self._ready:
                await self._read_on()
        finally:
            self._is_read = False
        return self._ready.popleft()

    async def _read_on(self) -> None:
        if self._ended:
            raise StopAsyncIteration
        try:
            self._ready += self._parser.feed(await anext(self._texts))
        except StopAsyncIteration:
            self._ended = True
            self._close_parser()
        except Exception:  # there is no end to tell of; a cancelled reader may ask again
            self._ended = True
            raise

    def _close_parser(self) -> None:
        if self._on_cut_off is not None and (reason := self._texts.cut_off) is not None:
            self._on_cut_off(reason)
        self._ready += self._parser.close()

    async def aclose(self) -> None:
        """Close the stream, and end here."""
        self._ended = True
        self._ready.clear()
        await self._texts.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class Texts:
    """The text of a stream, piece by piece.

    Raises:
        TypeError: it is a text, and not a stream of texts; while iterating: it is a stream of something else.
    """

    def __init__(self, pieces: Pieces) -> None:
        if isinstance(pieces, str):
            raise TypeError("this takes a stream of pieces of text; put a whole text into a list")
        self._source: object = pieces
        given = cast(Pieces, pieces.frames()) if isinstance(pieces, MessageStream) else pieces
        self._pieces: AsyncIterator[Any] = aiter(given) if isinstance(given, AsyncIterable) else Waitless(given)
        self._answered = self._broken = False
        self.cut_off: str | None = None
        """Why the answer was cut off, known at its end; `None` if it was not, or nobody knows."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while True:
            piece = await self._next()
            if isinstance(piece, str):
                return piece
            if isinstance(piece, Append):
                return self._next_text(piece.text)
            if isinstance(piece, End):
                self._answered = True
                self.cut_off = piece.finish_reason if piece.finish_reason in CUT_OFF else None
            elif not isinstance(piece, get_args(StreamFrame)):
                raise TypeError(f"this takes a stream of text or of frames, and got {reprlib.repr(piece)}")

    async def _next(self) -> Any:
        """The next piece. A generator ends with the cancellation of its reader, and that is no end of the text."""
        try:
            return await anext(self._pieces)
        except asyncio.CancelledError:
            self._broken = isasyncgen(self._pieces) and self._pieces.ag_frame is None
            raise
        except StopAsyncIteration:
            if self._broken:
                raise StreamInterruptedError("the stream was ended by a cancellation", Message.assistant()) from None
            raise

    def _next_text(self, text: str) -> str:
        border, self._answered = "\n\n" if self._answered else "", False
        return border + text

    async def aclose(self) -> None:
        """Close the stream, if it can be closed."""
        if (aclose := getattr(self._source, "aclose", None)) is not None:
            await aclose()


class Waitless(Generic[Piece]):
    """An iterable as an async iterator."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration
