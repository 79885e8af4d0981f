"""Push parsers, and how a stream is pulled through one.

Every parser of this room has `feed` and `close` and does no input or output itself. `parsed` is the only place where
one meets a stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

__all__ = ["Parsed", "Parser", "Pieces", "pulled"]

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out")
Piece = TypeVar("Piece")
Item = TypeVar("Item")

Pieces: TypeAlias = AsyncIterable[Piece] | Iterable[Piece]
"""A stream, async or not."""


class Parser(Protocol[In, Out]):
    """Turns pieces into items, as soon as it can."""

    def feed(self, piece: In, /) -> list[Out]:
        """One more piece; what is known now and was not before."""
        ...

    def close(self) -> list[Out]:
        """There is no more; what is known now."""
        ...


class Parsed(Generic[Piece, Item]):
    """What a parser makes of a stream, item by item. An object, so that dropping it leaves nothing to clean up.

    Args:
        pieces: the stream.
        parser: one that has not been fed yet.
    """

    def __init__(self, pieces: Pieces[Piece], parser: Parser[Piece, Item]) -> None:
        self._pieces = pulled(pieces)
        self._parser = parser
        self._ready: deque[Item] = deque()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            try:
                self._ready += self._parser.feed(await anext(self._pieces))
            except StopAsyncIteration:
                self._ended = True
                self._ready += self._parser.close()
            except Exception:  # there is no end to tell of; a cancelled reader may ask again
                self._ended = True
                raise
        return self._ready.popleft()


def pulled(pieces: Pieces[Piece]) -> AsyncIterator[Piece]:
    """A stream, async or not, as an async one.

    Raises:
        TypeError: it is a text, and not a stream of texts.
    """
    if isinstance(pieces, str):
        raise TypeError("this takes a stream of pieces of text; put a whole text into a list")
    return aiter(pieces) if isinstance(pieces, AsyncIterable) else _Waitless(pieces)


class _Waitless(Generic[Piece]):
    """An iterable as an async iterator."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration
