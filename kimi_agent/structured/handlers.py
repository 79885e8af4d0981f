"""Functions that are called for the blocks of markdown while it arrives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from ..events import tell
from .lines import LineSplitter
from .markdown import CodeBlock, Heading, Line, ListItem, MarkdownEvent, MarkdownStream
from .parsing import Pieces, Texts
from .sections import checked_level

__all__ = ["MarkdownEnd", "MarkdownHandlers"]

T = TypeVar("T")
Told: TypeAlias = Callable[[T], object]
OfText = TypeVar("OfText", bound=Told[str])
OfCode = TypeVar("OfCode", bound=Told[CodeBlock])
OfEnd = TypeVar("OfEnd", bound="Told[MarkdownEnd]")


@dataclass(frozen=True, slots=True)
class MarkdownEnd:
    """How a text ended."""

    tail: str
    """The last line, if nothing ended it; else empty."""
    open_block: CodeBlock | None
    """The code that was never closed, if there was any."""
    error: BaseException | None
    """What ended the text before its end: an error of the stream or of a handler, or a cancellation."""


class MarkdownHandlers:
    """What to do with the blocks of markdown, each as soon as it is there.

        books = MarkdownHandlers()

        @books.on_header(1)
        async def title(text: str) -> None: ...

        await books.run(stream)

    Handlers are sync or async. Several of a kind are called in order. Nothing of a run is kept here, so there may be
    many runs, also at the same time.

    Args:
        lenient_headings: whether `#Heading` is a heading too, without a space.
    """

    def __init__(self, *, lenient_headings: bool = False) -> None:
        self._lenient_headings = lenient_headings
        self._handlers: dict[type[Any], list[Told[Any]]] = {}

    def on_header(self, level: int) -> Callable[[OfText], OfText]:
        """Call the decorated function with the text of each heading of a level, 1 to 6.

        Raises:
            ValueError: there are no headings of this level.
        """
        wanted = checked_level(level)

        def decorate(handler: OfText) -> OfText:
            self._on(Heading, lambda heading: handler(heading.text) if heading.level == wanted else None)
            return handler

        return decorate

    def on_bullet(self, handler: OfText) -> OfText:
        """Call the decorated function with the text of each item of a list."""
        self._on(ListItem, lambda item: handler(item.text))
        return handler

    def on_code_block(self, handler: OfCode) -> OfCode:
        """Call the decorated function with each fenced block of code."""
        self._on(CodeBlock, handler)
        return handler

    def on_line(self, pattern: str | re.Pattern[str] | None = None) -> Callable[[OfText], OfText]:
        """Call the decorated function with each line outside of code that is not blank.

        It gets the line as it is written, marks and all, without the space around it, and is called after the handlers
        of the block that the line is in.

        Args:
            pattern: what the whole line must match; `None` for any line.

        Raises:
            TypeError: the decorator has no brackets.
        """
        if callable(pattern):
            raise TypeError("write @on_line() or @on_line(pattern), with brackets")
        wanted = re.compile("(?s).*" if pattern is None else pattern)

        def decorate(handler: OfText) -> OfText:
            self._on(Line, lambda line: handler(line.text) if wanted.fullmatch(line.text) else None)
            return handler

        return decorate

    def on_finish(self, handler: OfEnd) -> OfEnd:
        """Call the decorated function once at the end of each run, however it ends."""
        self._on(MarkdownEnd, handler)
        return handler

    async def run(self, stream: Pieces) -> None:
        """Call the handlers for the blocks of a text.

        What a handler or the stream raises ends the run and is raised here, after the handlers of the end were called.
        If one of those raises as well, its error is the context of the first.

        Args:
            stream: of text or of frames, async or not.

        Raises:
            TypeError: `stream` is a text, and not a stream.
        """
        pieces = Texts(stream)
        reading = _Reading(self._lenient_headings)
        try:
            async for piece in pieces:
                await self._tell(reading.feed(piece))
            await self._tell(reading.rest)
        except BaseException as error:
            await self._fail(reading, error)
            raise
        await self._finish(reading.end(None))

    def _on(self, kind: type[T], handler: Told[T]) -> None:
        if not callable(handler):
            raise TypeError(f"a handler is a function, not {handler!r}")
        self._handlers.setdefault(kind, []).append(handler)

    async def _tell(self, events: Iterable[MarkdownEvent]) -> None:
        for event in events:
            for handler in self._handlers.get(type(event), ()):
                await tell(handler, event)

    async def _fail(self, reading: _Reading, error: BaseException) -> None:
        try:
            await self._finish(reading.end(error))
        except Exception:
            raise error  # noqa: B904 - the other one is its context

    async def _finish(self, end: MarkdownEnd) -> None:
        """Call every handler of the end, even if one before it raises."""
        errors: list[Exception] = []
        for handler in self._handlers.get(MarkdownEnd, ()):
            try:
                await tell(handler, end)
            except Exception as error:
                errors.append(error)
        for error in errors:
            raise error


class _Reading:
    """A text on its way through the parser."""

    def __init__(self, lenient_headings: bool) -> None:
        self._markdown = MarkdownStream(lenient_headings=lenient_headings, _lines=True)
        self._lines = LineSplitter()

    def feed(self, piece: str) -> list[MarkdownEvent]:
        events = self._markdown.feed(piece)
        self._lines.feed(piece)
        return events

    @cached_property
    def rest(self) -> list[MarkdownEvent]:
        """The events at the end of the text."""
        return self._markdown.close()

    def end(self, error: BaseException | None) -> MarkdownEnd:
        last = self.rest[-1] if self.rest else None
        open_block = last if isinstance(last, CodeBlock) and not last.closed else None
        return MarkdownEnd("".join(self._lines.close()), open_block, error)
